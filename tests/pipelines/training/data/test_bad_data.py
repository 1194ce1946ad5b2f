"""What cannot be used: single pictures, which are left out, and whole data sets."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.servers import Folder, Server
from support.training_files import (
    CAPTIONS,
    PICTURES,
    SIDE,
    TAR,
    Files,
    Packed,
    lines,
    parquet,
    picture,
    put,
    saved,
    tar,
)

from nightpress.pipelines.errors import DataError, PipelineError, StoreError
from nightpress.pipelines.training.data import (
    BadImage,
    DataSpec,
    PackedImages,
    pack,
    samples,
    tables,
    tars,
)


def bad_reasons(data: PackedImages) -> dict[str, str]:
    return {Path(bad.name).name: bad.reason for bad in data.bad}


BAD = {
    "empty.png": (b"", "zero bytes"),
    "cut.png": (PICTURES[0][:-400], "broken: "),
    "cut.jpg": (picture(0, (400, 400), "JPEG")[:9000], "broken: image file is truncated"),
    "flipped.png": (PICTURES[0][:60] + b"\0\1\2" + PICTURES[0][63:], "broken: "),
    "page.jpg": (b"<html>404 Not Found</html>", "not a picture that Pillow can read"),
    "small.png": (picture(0, (SIDE - 1, 99)), "23 x 99 pixels, smaller than the resolution 24"),
    "float.tif": (saved(Image.new("F", (SIDE, SIDE)), "TIFF"), "its pixels are floating point"),
    "bare.png": (picture(9), "no caption"),
}


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_bad_pictures_are_left_out_and_named(kind: str, packed: Packed) -> None:
    names = ["good.png", *BAD]
    data = {"good.png": PICTURES[1]} | {name: data for name, (data, _) in BAD.items()}
    texts = {name: "" if name == "bare.png" else "noise" for name in names}
    files: dict[str, bytes] = {}
    if kind == "folder":
        files = {f"set/{name}": data[name] for name in names}
        files["set/metadata.jsonl"] = lines(
            *({"file_name": name, "text": texts[name]} for name in names)
        )
    elif kind == "tar":
        members = [(f"{n}{name[-4:]}", data[name]) for n, name in enumerate(names)]
        captions = [(f"{n}.txt", texts[name].encode()) for n, name in enumerate(names)]
        both = [member for pair in zip(members, captions, strict=True) for member in pair]
        files["set/a.tar"] = tar(both)
    else:
        rows = {"image": [data[n] for n in names], "text": [texts[n] for n in names]}
        files["set/a.parquet"] = parquet(rows)
    result = packed(files)
    assert [result.bytes(i) for i in range(len(result))] == [PICTURES[1]]
    assert result.num_bad == len(BAD)
    found = {bad.name: bad.reason for bad in result.bad}
    if kind == "folder":
        told = {name: found[name] for name in BAD}
    elif kind == "tar":
        told = {name: found[f"a.tar/{names.index(name)}{name[-4:]}"] for name in BAD}
    else:
        told = {name: found[f"a.parquet#{names.index(name)}"] for name in BAD}
    for name, (_, reason) in BAD.items():
        assert told[name].startswith(reason), (name, told[name])
        assert "\n" not in told[name]
    (warning,) = (line for line in result.warnings if "left out" in line)
    assert warning.startswith(f"{len(BAD)} pictures left out: ")


def test_a_decompression_bomb_is_bad_and_no_warning(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    files = {
        "set/good.png": PICTURES[0],
        "set/large.png": picture(1, (40, 40)),  # Pillow only warns up to twice the limit
        "set/huge.png": picture(2, (80, 80)),
    }
    data = packed(files, need_captions=False)
    assert bad_reasons(data) == dict.fromkeys(
        ("huge.png", "large.png"), "more than 1,000 pixels: a decompression bomb?"
    )


def test_a_file_too_large_to_be_a_picture_is_bad(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (samples, tars):
        monkeypatch.setattr(module, "MAX_BYTES", len(PICTURES[0]) + 100)
    large = picture(1, (99, 99))
    told = {"1.png": f"larger than {len(PICTURES[0]) + 100:,} bytes"}
    files = {"set/0.png": PICTURES[0], "set/1.png": large}
    assert bad_reasons(packed(files, need_captions=False)) == told
    members = {"a.tar": tar([("0.png", PICTURES[0]), ("1.png", large)])}
    assert bad_reasons(packed(members, "a.tar", need_captions=False)) == told


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (b'{"text": 7}', "its caption is 7, neither a text nor a list of texts"),
        (b'{"text": ["a", 7]}', "its caption is 7, neither"),
        (b'{"text": "\\ud800"}', "its caption has half of a character"),
        (b'{"text": ', "its .json is not JSON"),
        (b'["a"]', "its .json is not an object"),
        (b'"\xff"', "its caption is not UTF-8"),
        (b"{}", "no caption"),
    ],
)
def test_a_caption_that_is_none_makes_a_bad_picture(
    caption: bytes, reason: str, packed: Packed
) -> None:
    good = [("0.png", PICTURES[0]), ("0.txt", b"noise")]
    data = packed({"a.tar": tar([*good, ("1.png", PICTURES[1]), ("1.json", caption)])}, "a.tar")
    (bad,) = data.bad
    assert bad == BadImage("a.tar/1.png", bad.reason)
    assert bad.reason.startswith(reason)
    assert str(bad) == f"a.tar/1.png: {bad.reason}"


def test_what_a_table_names_in_vain_is_bad(packed: Packed) -> None:
    files = {
        "set/0.png": PICTURES[0],
        "set/metadata.jsonl": lines(
            {"file_name": "0.png", "text": "a"}, {"file_name": "1.png", "text": "b"}
        ),
    }
    told = "named in the metadata, and no picture of that name is there"
    assert bad_reasons(packed(files)) == {"1.png": told}
    rows = {"path": ["set/0.png", "set/1.png", None, ""], "text": ["a"] * 4}
    data = packed({"a.parquet": parquet(rows)}, "a.parquet")
    assert bad_reasons(data) == {
        "a.parquet#1": "not there",
        "a.parquet#2": "the row has no picture",
        "a.parquet#3": "the row has no picture",
    }


def test_a_link_to_nothing_is_bad(packed: Packed, tmp_path: Path) -> None:
    put({"set/0.png": PICTURES[0]}, Folder(str(tmp_path / "data"), {}))
    (tmp_path / "data/set/1.png").symlink_to(tmp_path / "gone.png")
    assert bad_reasons(packed({}, need_captions=False)) == {"1.png": "not there"}


def test_a_file_name_that_is_no_text_is_told_in_text(packed: Packed, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "data")
    put({"set/0.png": PICTURES[0]}, Folder(os.fsdecode(folder), {}))
    with open(folder + b"/set/\xff.png", "wb") as file:
        file.write(PICTURES[1])
    data = packed({}, need_captions=False)
    assert [data.name(i) for i in range(2)] == ["0.png", r"\udcff.png"]
    assert len(data.fingerprint) == 64


def test_a_dead_web_address_is_bad_and_no_reason_to_stop(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, options: Any) -> bytes:
        raise StoreError(f"{url}: denied")

    monkeypatch.setattr(tables, "fetch", refuse)
    rows = {"image": [{"bytes": PICTURES[0], "path": "x"}, {"bytes": None, "path": "http://h/1"}]}
    data = packed({"a.parquet": parquet(rows)}, "a.parquet", need_captions=False)
    assert bad_reasons(data) == {"a.parquet#1": "http://h/1: denied"}
    rows["image"][1]["path"] = "s3://h/1"
    with pytest.raises(StoreError, match="denied"):
        packed({"b.parquet": parquet(rows)}, "b.parquet", need_captions=False)


NOTHING = [
    ({}, "set", {}, r"/set: nothing there; allowed are WebDataset tars \(\.tar"),
    ({}, "*.png", {}, r"/\*\.png: nothing there; allowed are"),
    ({"set/1.txt": b"a"}, "set", {}, "/set: no pictures there; allowed are"),
    (
        {"set/1.png": PICTURES[0], "set/a.tar": TAR},
        "set",
        {},
        r"/set: 1 WebDataset tar, 1 picture are there; say which with data\.kind: webdataset or",
    ),
    (
        {"set/1.png": PICTURES[0]},
        "set",
        {"kind": "parquet"},
        r"/set: no Parquet files there \(\.parquet \.pq\), as data\.kind: parquet wants",
    ),
    (
        {"a.tar": tar([("1.cls", b"7")])},
        "a.tar",
        {},
        r"no pictures in the tars; looked for members \.png .*; their members are \.cls",
    ),
    (
        {"a.tar": tar([("1.png", PICTURES[0]), ("1.cls", b"7")])},
        "a.tar",
        {},
        r"no captions in the tars; looked for members \.txt .*, and for caption, .* in \.json; "
        r"their members are \.cls \.png",
    ),
    ({"a.tar": b"no tar at all"}, "a.tar", {}, r"a\.tar: cannot be read as a tar: "),
    ({"a.tar": b""}, "a.tar", {}, r"a\.tar: cannot be read as a tar: "),
    ({"a.tar": TAR[:3000]}, "a.tar", {}, r"3,000 bytes are no whole number of blocks; cut short"),
    ({"a.tar": TAR[:1024]}, "a.tar", {}, r"a\.tar: cannot be read as a tar: unexpected end"),
    ({"a.tgz": tar([], "w:gz")[:-4]}, "a.tgz", {}, r"a\.tgz: cannot be read as a tar: "),
    ({"a.parquet": b"PAR1"}, "a.parquet", {}, r"a\.parquet: cannot be read as Parquet: "),
    (
        {"a.parquet": parquet({"image": PICTURES, "text": CAPTIONS})[4:]},
        "a.parquet",
        {},
        r"a\.parquet: cannot be read as Parquet: ",
    ),
    (
        {"a.parquet": parquet({"text": CAPTIONS})},
        "a.parquet",
        {},
        r"no column of pictures; looked for image, .* the columns are text \(string\)",
    ),
    (
        {"a.parquet": parquet({"image": PICTURES, "n": [1, 2, 3, 4]})},
        "a.parquet",
        {},
        r"no column of captions; looked for caption, .* the columns are image \(binary\), n \(int",
    ),
    (
        {"a.parquet": parquet({"image": PICTURES, "text": [1, 2, 3, 4]})},
        "a.parquet",
        {},
        r"no column of captions; .* as text or lists of texts; .* text \(int64\)",
    ),
    (
        {"a.parquet": parquet({"image": [1, 2], "text": ["a", "b"]})},
        "a.parquet",
        {"image": "image"},
        r"no column of pictures; looked for image as .* image \(int64\)",
    ),
    (
        {"a.parquet": parquet({"image": PICTURES[:0], "text": CAPTIONS[:0]})},
        "a.parquet",
        {"image": "image"},
        r"(have no rows|no column of captions)",
    ),
    (
        {"set/1.png": PICTURES[0], "set/metadata.jsonl": lines({"file_name": "1.png", "n": 1})},
        "set",
        {"caption": "title"},
        r"looked for .* title in metadata\.jsonl .* the metadata's columns are file_name, n",
    ),
    (
        {"set/1.png": PICTURES[0], "set/metadata.jsonl": lines({"image": "1.png", "text": "a"})},
        "set",
        {},
        r"metadata\.jsonl, row 0: no file_name; its columns are image, text",
    ),
    (
        {"set/1.png": PICTURES[0], "set/metadata.jsonl": b'{"file_name": "1.png"}\n{"file'},
        "set",
        {},
        r"metadata\.jsonl: cannot be read: ",
    ),
    (
        {"set/1.png": PICTURES[0], "set/metadata.csv": b"file_name,text\n1.png,\xff\n"},
        "set",
        {},
        r"metadata\.csv: cannot be read: ",
    ),
    (
        {"set/1.png": b"", "set/1.txt": b"a", "set/2.png": b"x", "set/2.txt": b"b"},
        "set",
        {},
        r"none of 2 pictures can be used: 1\.png: zero bytes; 2\.png: not a picture",
    ),
    (
        {"set/1.png": picture(0, (9, 9)), "set/2.png": picture(0, (12, 15)), "set/1.txt": b"a"},
        "set",
        {},
        r"every picture is smaller than the resolution 24; set training\.resolution to 12 or less",
    ),
]


@pytest.mark.parametrize(("files", "source", "spec", "message"), NOTHING)
def test_data_that_cannot_be_used_is_told_in_a_line(
    files: Files,
    source: str,
    spec: Mapping[str, Any],
    message: str,
    packed: Packed,
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        packed(files, source, **spec)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, PipelineError)


def test_a_place_that_cannot_be_read_is_the_stores_error(moto_s3: Server, tmp_path: Path) -> None:
    spec = DataSpec(source="s3://nobody-has-this/pictures")
    with pytest.raises(StoreError, match="has no bucket 'nobody-has-this'"):
        pack(spec, SIDE, False, moto_s3.options, tmp_path / "cache")


def test_one_caption_for_all_is_worth_a_warning(packed: Packed) -> None:
    files = {f"set/sks/{n}.png": PICTURES[n] for n in range(3)}
    data = packed(files, folder_names_as_captions=True)
    (warning,) = data.warnings
    assert warning == "all 3 pictures have one caption, 'sks': words will tell nothing apart"
    assert packed(files, need_captions=False, folder_names_as_captions=True).warnings == ()
