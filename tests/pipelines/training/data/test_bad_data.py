"""Images that cannot be used and are left out, and data sets that are refused."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from support.servers import Folder, Server
from support.training_files import (
    CAPTIONS,
    IMAGES,
    SIDE,
    TAR,
    Files,
    Packed,
    encoded,
    image_file,
    lines,
    parquet,
    put,
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
    "empty.png": (b"", "the file is empty"),
    "cut.png": (IMAGES[0][:-400], "cannot be decoded: "),
    "cut.jpg": (
        image_file(0, (400, 400), "JPEG")[:9000],
        "cannot be decoded: image file is truncated",
    ),
    "flipped.png": (IMAGES[0][:60] + b"\0\1\2" + IMAGES[0][63:], "cannot be decoded: "),
    "page.jpg": (b"<html>404 Not Found</html>", "not an image that Pillow can read"),
    "small.png": (
        image_file(0, (SIDE - 1, 99)),
        "23 x 99 pixels, smaller than training.resolution 24",
    ),
    "float.tif": (
        encoded(Image.new("F", (SIDE, SIDE)), "TIFF"),
        "floating-point pixels, whose range is unknown",
    ),
    "bare.png": (image_file(9), "no caption"),
}


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_bad_images_are_left_out_and_named(kind: str, packed: Packed) -> None:
    names = ["good.png", *BAD]
    data = {"good.png": IMAGES[1]} | {name: data for name, (data, _) in BAD.items()}
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
    assert [result.bytes(i) for i in range(len(result))] == [IMAGES[1]]
    assert result.num_bad == len(BAD)
    found = {bad.name: bad.reason for bad in result.bad}
    if kind == "folder":
        reasons = {name: found[name] for name in BAD}
    elif kind == "tar":
        reasons = {name: found[f"a.tar/{names.index(name)}{name[-4:]}"] for name in BAD}
    else:
        reasons = {name: found[f"a.parquet#{names.index(name)}"] for name in BAD}
    for name, (_, reason) in BAD.items():
        assert reasons[name].startswith(reason), (name, reasons[name])
        assert "\n" not in reasons[name]
    assert result.num_bad == len(BAD)
    assert not any("left out" in line for line in result.warnings)  # `bad` lists them, once


def test_a_decompression_bomb_is_a_bad_image_and_not_a_warning(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    files = {
        "set/good.png": IMAGES[0],
        "set/large.png": image_file(1, (40, 40)),  # Pillow only warns up to twice the limit
        "set/huge.png": image_file(2, (80, 80)),
    }
    data = packed(files, need_captions=False)
    assert bad_reasons(data) == dict.fromkeys(
        ("huge.png", "large.png"), "more than 1,000 pixels: possibly a decompression bomb"
    )


def test_a_file_that_is_too_large_is_a_bad_image(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (samples, tars):
        monkeypatch.setattr(module, "MAX_BYTES", len(IMAGES[0]) + 100)
    large = image_file(1, (99, 99))
    reasons = {"1.png": f"larger than {len(IMAGES[0]) + 100:,} bytes"}
    files = {"set/0.png": IMAGES[0], "set/1.png": large}
    assert bad_reasons(packed(files, need_captions=False)) == reasons
    members = {"a.tar": tar([("0.png", IMAGES[0]), ("1.png", large)])}
    assert bad_reasons(packed(members, "a.tar", need_captions=False)) == reasons


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (b'{"text": 7}', "its caption is 7, not a string or a list of strings"),
        (b'{"text": ["a", 7]}', "its caption is 7, not a string"),
        (b'{"text": "\\ud800"}', "its caption contains a lone surrogate"),
        (b'{"text": ', "its .json is not JSON"),
        (b'["a"]', "its .json is not an object"),
        (b'"\xff"', "its caption is not UTF-8"),
        (b"{}", "no caption"),
    ],
)
def test_an_invalid_caption_makes_a_bad_image(caption: bytes, reason: str, packed: Packed) -> None:
    good = [("0.png", IMAGES[0]), ("0.txt", b"noise")]
    data = packed({"a.tar": tar([*good, ("1.png", IMAGES[1]), ("1.json", caption)])}, "a.tar")
    (bad,) = data.bad
    assert bad == BadImage("a.tar/1.png", bad.reason)
    assert bad.reason.startswith(reason)
    assert str(bad) == f"a.tar/1.png: {bad.reason}"


def test_an_image_that_a_table_names_but_does_not_exist_is_bad(packed: Packed) -> None:
    files = {
        "set/0.png": IMAGES[0],
        "set/metadata.jsonl": lines(
            {"file_name": "0.png", "text": "a"}, {"file_name": "1.png", "text": "b"}
        ),
    }
    reason = "listed in the metadata, but there is no such file"
    assert bad_reasons(packed(files)) == {"1.png": reason}
    rows = {"path": ["set/0.png", "set/1.png", None, ""], "text": ["a"] * 4}
    data = packed({"a.parquet": parquet(rows)}, "a.parquet")
    assert bad_reasons(data) == {
        "a.parquet#1": "file not found",
        "a.parquet#2": "the row has no image",
        "a.parquet#3": "the row has no image",
    }


def test_a_dangling_symlink_is_a_bad_image(packed: Packed, tmp_path: Path) -> None:
    put({"set/0.png": IMAGES[0]}, Folder(str(tmp_path / "data"), {}))
    (tmp_path / "data/set/1.png").symlink_to(tmp_path / "gone.png")
    assert bad_reasons(packed({}, need_captions=False)) == {"1.png": "file not found"}


def test_a_file_name_that_is_not_utf8_is_escaped(packed: Packed, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "data")
    put({"set/0.png": IMAGES[0]}, Folder(os.fsdecode(folder), {}))
    with open(folder + b"/set/\xff.png", "wb") as file:
        file.write(IMAGES[1])
    data = packed({}, need_captions=False)
    assert [data.name(i) for i in range(2)] == ["0.png", r"\udcff.png"]
    assert len(data.fingerprint) == 64


def test_a_dead_web_link_makes_a_bad_image_and_a_refusing_store_an_error(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, options: Any) -> bytes:
        raise StoreError(f"{url}: denied")

    monkeypatch.setattr(tables, "fetch", refuse)
    rows = {"image": [{"bytes": IMAGES[0], "path": "x"}, {"bytes": None, "path": "http://h/1"}]}
    files, roots = {"a.parquet": parquet(rows)}, ["http://h", "s3://h"]
    data = packed(files, "a.parquet", need_captions=False, roots=roots)
    assert bad_reasons(data) == {"a.parquet#1": "http://h/1: denied"}
    rows["image"][1]["path"] = "s3://h/1"
    with pytest.raises(StoreError, match="denied"):
        packed({"b.parquet": parquet(rows)}, "b.parquet", need_captions=False, roots=roots)


@pytest.mark.parametrize(
    "value",
    [
        "/etc/hostname",
        "../secret.png",
        "pictures/../../secret.png",
        "file:///etc/hostname",
        "https://example.com/1.png",
        "s3://bucket/1.png",
        "http://169.254.169.254/latest/meta-data/",
        "simplecache::s3://bucket/1.png",
        "link.png",
        "linked/secret.png",
        "a\0.png",
    ],
)
def test_a_row_that_names_a_file_outside_the_tables_folder_ends_the_packing(
    packed: Packed, tmp_path: Path, value: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(IMAGES[1])
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data/link.png").symlink_to(outside / "secret.png")
    (tmp_path / "data/linked").symlink_to(outside)
    rows = {"path": ["1.png", value]}
    with pytest.raises(DataError, match=r"a\.parquet: row 1 \(from 0\): the row names") as caught:
        packed({"a.parquet": parquet(rows), "1.png": IMAGES[0]}, "a.parquet", need_captions=False)
    assert "`data.roots` (none)" in str(caught.value)
    assert "\n" not in str(caught.value)


EMPTY_COLUMNS = {"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())}

UNUSABLE = [
    ({}, "set", {}, r"/set: found nothing; allowed are WebDataset tars \(\.tar"),
    ({}, "*.png", {}, r"/\*\.png: found nothing; allowed are"),
    ({"set/1.txt": b"a"}, "set", {}, "/set: found no images; allowed are"),
    (
        {"set/1.png": IMAGES[0], "set/a.tar": TAR},
        "set",
        {},
        r"/set: found 1 WebDataset tar and 1 image; set data\.kind to webdataset or folder",
    ),
    (
        {"set/1.png": IMAGES[0]},
        "set",
        {"kind": "parquet"},
        r"/set: found no Parquet files \(\.parquet \.pq\), which data\.kind: parquet requires",
    ),
    (
        {"a.tar": tar([("1.cls", b"7")])},
        "a.tar",
        {},
        r"no images in the tars: looked for members \.png .*; the members are \.cls",
    ),
    (
        {"a.tar": tar([("1.png", IMAGES[0]), ("1.cls", b"7")])},
        "a.tar",
        {},
        r"no captions in the tars: looked for members \.txt .*, and for caption, .* in \.json; "
        r"the members are \.cls \.png",
    ),
    ({"a.tar": b"not a tar"}, "a.tar", {}, r"a\.tar: cannot be read as a tar: "),
    ({"a.tar": b""}, "a.tar", {}, r"a\.tar: cannot be read as a tar: "),
    (
        {"a.tar": TAR[:3000]},
        "a.tar",
        {},
        r"its 3,000 bytes are not a multiple of 512; it is probably truncated",
    ),
    ({"a.tar": TAR[:1024]}, "a.tar", {}, r"a\.tar: cannot be read as a tar: unexpected end"),
    ({"a.tgz": tar([], "w:gz")[:-4]}, "a.tgz", {}, r"a\.tgz: cannot be read as a tar: "),
    ({"a.parquet": b"PAR1"}, "a.parquet", {}, r"a\.parquet: cannot be read as Parquet: "),
    (
        {"a.parquet": parquet({"image": IMAGES, "text": CAPTIONS})[4:]},
        "a.parquet",
        {},
        r"a\.parquet: cannot be read as Parquet: ",
    ),
    (
        {"a.parquet": parquet({"text": CAPTIONS})},
        "a.parquet",
        {},
        r"no image column: looked for image, .* the columns are text \(string\)",
    ),
    (
        {"a.parquet": parquet({"image": IMAGES, "n": [1, 2, 3, 4]})},
        "a.parquet",
        {},
        r"no caption column: looked for caption, .* the columns are image \(binary\), n \(int",
    ),
    (
        {"a.parquet": parquet({"image": IMAGES, "text": [1, 2, 3, 4]})},
        "a.parquet",
        {},
        r"no caption column: .* holding strings or lists of strings; .* text \(int64\)",
    ),
    (
        {"a.parquet": parquet({"image": [1, 2], "text": ["a", "b"]})},
        "a.parquet",
        {"image": "image"},
        r"no image column: looked for image, holding .* image \(int64\)",
    ),
    (
        {"a.parquet": parquet(EMPTY_COLUMNS)},
        "a.parquet",
        {"image": "image"},
        r"the Parquet files have no rows",
    ),
    (
        {"set/1.png": IMAGES[0], "set/metadata.jsonl": lines({"file_name": "1.png", "n": 1})},
        "set",
        {"caption": "title"},
        r"looked for .* title in metadata\.jsonl .* the metadata's columns are file_name, n",
    ),
    (
        {"set/1.png": IMAGES[0], "set/metadata.jsonl": lines({"image": "1.png", "text": "a"})},
        "set",
        {},
        r"metadata\.jsonl, line 1: no file_name; the columns are image, text",
    ),
    (
        {"set/1.png": IMAGES[0], "set/metadata.jsonl": b'{"file_name": "1.png", "n": 1, "n": 2}'},
        "set",
        {},
        r"metadata\.jsonl: cannot be read: it has the key 'n' twice",
    ),
    (
        {"set/1.png": IMAGES[0], "set/metadata.jsonl": b'{"file_name": "1.png"}\n{"file'},
        "set",
        {},
        r"metadata\.jsonl: cannot be read: ",
    ),
    (
        {"set/1.png": IMAGES[0], "set/metadata.csv": b"file_name,text\n1.png,\xff\n"},
        "set",
        {},
        r"metadata\.csv: cannot be read: ",
    ),
    (
        {"set/1.png": b"", "set/1.txt": b"a", "set/2.png": b"x", "set/2.txt": b"b"},
        "set",
        {},
        r"none of 2 images can be used: 1\.png: the file is empty; 2\.png: not an image",
    ),
    (
        {
            "set/1.png": image_file(0, (9, 9)),
            "set/2.png": image_file(0, (12, 15)),
            "set/1.txt": b"a",
        },
        "set",
        {},
        r"every image is smaller than training\.resolution 24; set it to 12 or less",
    ),
]


@pytest.mark.parametrize(("files", "source", "spec", "message"), UNUSABLE)
def test_data_that_cannot_be_used_is_refused_in_one_line(
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


def test_a_missing_bucket_is_a_store_error(moto_s3: Server, tmp_path: Path) -> None:
    spec = DataSpec(source="s3://nobody-has-this/pictures")
    with pytest.raises(StoreError, match="has no bucket 'nobody-has-this'"):
        pack(spec, SIDE, False, moto_s3.options, tmp_path / "cache")


def test_one_caption_for_all_images_gives_a_warning(packed: Packed) -> None:
    files = {f"set/sks/{n}.png": IMAGES[n] for n in range(3)}
    data = packed(files, folder_names_as_captions=True)
    (warning,) = data.warnings
    assert warning == (
        "all 3 images have the same caption, 'sks': the model cannot learn what prompts mean"
    )
    assert packed(files, need_captions=False, folder_names_as_captions=True).warnings == ()
