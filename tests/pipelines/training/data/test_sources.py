"""Every kind of source, local and on S3."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.servers import Folder
from support.training_files import (
    CAPTIONS,
    IMAGES,
    JSON_TAR,
    SIDE,
    TAR,
    Files,
    Packed,
    lines,
    parquet,
    put,
    table_of,
    tar,
)

from nightpress.pipelines.errors import DataError
from nightpress.pipelines.training.data import DataSpec, pack

KINDS: dict[str, tuple[str, Files]] = {
    "tars of png and txt": ("a.tar", {"a.tar": TAR}),
    "a folder of tars": ("set", {"set/a.tar": TAR}),
    "compressed tars of json and png": (
        "set/*.gz",
        {
            "set/a.tar.gz": tar(
                [("9.png", IMAGES[0]), ("9.json", b'{"text": "noise number 0"}')]
                + [
                    (f"{n}.{kind}", data)
                    for n in (1, 2, 3)
                    for kind, data in (
                        ("png", IMAGES[n]),
                        ("json", json.dumps({"text": [CAPTIONS[n]]}).encode()),
                    )
                ],
                "w:gz",
            )
        },
    ),
    "tars with json in front": ("a.tar", {"a.tar": JSON_TAR}),
    "parquet with bytes": (
        "a.parquet",
        {"a.parquet": parquet({"image": IMAGES, "caption": CAPTIONS, "n": [1, 2, 3, 4]})},
    ),
    "parquet of datasets": (
        "set",
        {
            f"set/train-{part}.parquet": parquet(
                {
                    "image": [{"bytes": IMAGES[n], "path": None} for n in rows],
                    "text": [CAPTIONS[n] for n in rows],
                }
            )
            for part, rows in enumerate(([0, 1], [2, 3]))
        },
    ),
    "parquet with paths": (
        "set/a.parquet",
        {f"set/pictures/{n}.png": IMAGES[n] for n in range(4)}
        | {
            "set/a.parquet": parquet(
                {"path": [f"pictures/{n}.png" for n in range(4)], "text": CAPTIONS}
            )
        },
    ),
    "a folder with txt": (
        "set",
        {f"set/deep/{n}.png": IMAGES[n] for n in range(4)}
        | {f"set/deep/{n}.txt": CAPTIONS[n].encode() + b"\n" for n in range(4)},
    ),
    "a pattern with txt": (
        "set/*/*.png",
        {f"set/deep/{n}.png": IMAGES[n] for n in range(4)}
        | {f"set/deep/{n}.txt": CAPTIONS[n].encode() for n in range(4)},
    ),
    "a folder with metadata.jsonl": (
        "set",
        {f"set/deep/{n}.PNG": IMAGES[n] for n in range(4)}
        | {
            "set/metadata.jsonl": lines(
                *({"file_name": f"deep/{n}.PNG", "prompt": CAPTIONS[n]} for n in (3, 2, 1, 0))
            )
        },
    ),
    "a folder with metadata.csv": (
        "set",
        {f"set/deep/{n}.png": IMAGES[n] for n in range(4)}
        | {
            "set/deep/metadata.csv": table_of(
                {"file_name": f"{n}.png", "text": CAPTIONS[n]} for n in range(4)
            )
        },
    ),
}

Put = Callable[[Files], str]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_its_images_and_captions_in_order(
    kind: str, folder: Folder, tmp_path: Path
) -> None:
    source, files = KINDS[kind]
    put(files, folder)
    data = pack(
        DataSpec(source=f"{folder.url}/{source}"), SIDE, True, folder.options, tmp_path / "cache"
    )
    assert [data.bytes(i) for i in range(len(data))] == IMAGES
    assert [data.captions(i) for i in range(len(data))] == [(text,) for text in CAPTIONS]
    assert len({data.name(i) for i in range(len(data))}) == 4
    assert (data.num_bad, data.bad, data.warnings) == (0, (), ())


def test_image_names_contain_the_file_and_the_member_or_row(packed: Packed) -> None:
    assert packed({"set/a.tar": JSON_TAR}).name(1) == "a.tar/deep/001.png"
    rows = {"image": IMAGES, "text": CAPTIONS}
    assert packed({"b.parquet": parquet(rows)}, "b.parquet").name(3) == "b.parquet#3"
    files = {"c/deep/1.png": IMAGES[0], "c/deep/1.txt": b"noise"}
    assert packed(files, "c").name(0) == "deep/1.png"


def test_several_sources_are_read_in_order_and_each_file_once(tmp_path: Path) -> None:
    put({"b/1.png": IMAGES[0], "a/1.png": IMAGES[1]}, Folder(str(tmp_path), {}))
    spec = DataSpec(source=[f"{tmp_path}/b", f"{tmp_path}/a"])
    data = pack(spec, SIDE, False, cache=tmp_path / "cache")
    assert [data.bytes(i) for i in range(len(data))] == IMAGES[:2]
    again = DataSpec(source=[f"{tmp_path}/b/1.png", f"{tmp_path}/*/1.png"])
    once = pack(again, SIDE, False, cache=tmp_path / "cache")
    assert [once.bytes(i) for i in range(len(once))] == IMAGES[:2]


@pytest.mark.parametrize(
    "files",
    [
        {"set/a.tar": tar([("1.png", IMAGES[0]), ("1.json", b'{"text": [" a ", null, "", "b"]}')])},
        {"set/a.parquet": parquet({"image": IMAGES[:1], "texts": [[" a ", None, "", "b"]]})},
        {
            "set/1.png": IMAGES[0],
            "set/metadata.jsonl": lines({"file_name": "1.png", "text": [" a ", None, "", "b"]}),
        },
    ],
)
def test_a_caption_may_be_a_list_of_strings(files: Files, packed: Packed) -> None:
    assert packed(files).captions(0) == ("a", "b")


def test_the_chosen_column_extension_or_key_is_read(packed: Packed) -> None:
    rows = {"image": IMAGES, "scan": IMAGES[::-1], "text": CAPTIONS, "alt": CAPTIONS[::-1]}
    data = packed({"a.parquet": parquet(rows)}, "a.parquet", image="scan", caption="alt")
    assert (data.bytes(0), data.captions(0)) == (IMAGES[3], (CAPTIONS[3],))
    members = [
        ("1.png", IMAGES[0]), ("1.left.png", IMAGES[1]), ("1.txt", b"text"),
        ("1.alt", b"other"), ("1.json", b'{"title": "key", "caption": "usual"}'),
    ]  # fmt: skip
    chosen = {
        caption: packed({"b.tar": tar(members)}, "b.tar", image="left.png", caption=caption)
        for caption in ("alt", "title", "json")
    }
    assert {name: data.captions(0) for name, data in chosen.items()} == {
        "alt": ("other",),
        "title": ("key",),
        "json": ("usual",),
    }
    assert chosen["alt"].bytes(0) == IMAGES[1]


def test_folder_names_are_used_as_captions_on_request(packed: Packed) -> None:
    files = {"set/red fox/1.png": IMAGES[0], "set/heron/1.png": IMAGES[1]}
    with pytest.raises(DataError, match="folder_names_as_captions"):
        packed(files)
    data = packed(files, folder_names_as_captions=True)
    assert [data.captions(i) for i in range(2)] == [("heron",), ("red fox",)]


def test_images_need_captions_only_if_the_recipe_does(
    packed: Packed,
) -> None:
    files = {f"set/{n}.png": IMAGES[n] for n in range(4)}
    assert len(packed(files, need_captions=False)) == 4
    with pytest.raises(DataError, match=r"no captions: looked for a \.txt beside each image"):
        packed(files)  # packed before, but refused all the same
    assert len(packed(files | {"set/1.txt": b"noise"})) == 1


def test_an_invalid_data_section_is_refused_and_every_key_has_a_description() -> None:
    assert DataSpec.model_validate({"source": "a"}).sources == ["a"]
    for wrong in ({}, {"source": []}, {"source": "a", "kind": "zip"}, {"source": "a", "url": "b"}):
        with pytest.raises(ValidationError):
            DataSpec.model_validate(wrong)
    properties = DataSpec.model_json_schema()["properties"]
    assert all("description" in values for values in properties.values())


def test_reading_a_job_file_does_not_import_the_readers() -> None:
    code = (
        "import sys; from nightpress.pipelines.training import data;"
        "data.DataSpec; print('pyarrow' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert printed.strip() == b"False"
