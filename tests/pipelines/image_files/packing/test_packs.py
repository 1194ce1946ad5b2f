"""Packs hold the bytes of image files, and other libraries can read them."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.made_runs import FACTS

from nightpress.pipelines.image_files.encoding import encode, read_facts
from nightpress.pipelines.image_files.packing import (
    Member,
    is_intact_pack,
    member_of,
    pack,
    pack_path,
    packed_shard,
    parquet,
    split_member,
)
from nightpress.pipelines.image_files.packing.webdataset import member_name
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.training.data import DataSpec
from nightpress.pipelines.training.data import pack as training_data

KINDS = ("webdataset", "parquet")


def members(names: list[str], image_format: str = "png") -> list[Member]:
    """Images of one colour each, under these names."""
    images = ImagesSpec.model_validate({"format": image_format})
    made = []
    for number, name in enumerate(names):
        facts = replace(FACTS, image_id=f"{number}_00", id=str(number), prompt=f"Katze {number} 猫")
        pixels = np.full((16, 16, 3), number, np.uint8)
        made.append(Member(name, encode(pixels, facts, images), facts))
    return made


def no_columns(number: int) -> pa.Table:
    return pa.table({"row": range(number)}).select([])


def carried(**columns: Any) -> pa.Table:
    return pa.table(columns)


def test_a_pack_holds_the_bytes_of_the_files_at_their_locations() -> None:
    for kind in KINDS:
        for image_format in ("png", "webp", "jpeg"):
            suffix = ImagesSpec.model_validate({"format": image_format}).suffix
            ours = members([f"cat/{n}_00.{suffix}" for n in range(230)], image_format)
            made = pack(kind, ours, carried(row=range(230)))  # type: ignore[arg-type]
            path = pack_path(kind, 3, made.data)
            for member, location in zip(ours, made.locations, strict=True):
                assert made.data[location.offset :][: len(member.data)] == member.data
            assert member_of(path, made.data, made.locations[117].member) == ours[117].data


@pytest.mark.parametrize("kind", KINDS)
def test_equal_members_are_equal_bytes(kind: Any) -> None:
    first, second = (pack(kind, members(["a.png", "b.png"]), no_columns(2)) for _ in range(2))
    assert first == second
    assert pack(kind, members(["a.png"]), no_columns(1)).data != first.data


def test_a_tar_is_what_webdataset_reads() -> None:
    ours = members(["cat/0_00.png", "cat/v1.2_00.png"])
    made = pack("webdataset", ours, carried(topic=["x", None]))
    with tarfile.open(fileobj=io.BytesIO(made.data)) as tar:
        infos = tar.getmembers()
        files = {info.name: tar.extractfile(info).read() for info in infos}  # type: ignore[union-attr]
    # A key, and behind the first dot an extension; the files of a key follow each other.
    assert [info.name.split("/")[-1].split(".", 1) for info in infos] == [
        ["0_00", "png"],
        ["0_00", "json"],
        ["0_00", "txt"],
        ["v1%2E2_00", "png"],
        ["v1%2E2_00", "json"],
        ["v1%2E2_00", "txt"],
    ]
    assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in infos} == {
        (0, 0, 0, "", "", 0o644)
    }
    assert files["cat/0_00.txt"].decode() == "Katze 0 猫"
    assert json.loads(files["cat/0_00.json"]) == ours[0].facts.as_dict() | {"topic": "x"}
    assert json.loads(files["cat/v1%2E2_00.json"])["topic"] is None
    assert read_facts(files["cat/0_00.png"]) == ours[0].facts


def test_names_of_any_length_and_script_come_back_from_a_tar() -> None:
    names = ["猫" * 60 + ".png", "/".join(["folder" * 20] * 3) + "/a.png", "100%.png"]
    made = pack("webdataset", members(names), no_columns(3))
    with tarfile.open(fileobj=io.BytesIO(made.data)) as tar:
        found = [name for name in tar.getnames() if name.endswith(".png")]
    assert found == [names[0], names[1], "100%25.png"]
    assert found == [location.member for location in made.locations]


@given(st.sets(st.text("ab._%5EF2/", min_size=1, max_size=6), min_size=2, max_size=8))
def test_different_names_stay_different_in_a_tar(stems: set[str]) -> None:
    names = [member_name(f"x/{stem}.png") for stem in stems]
    names += [member_name(f"{stem}.png") for stem in stems]
    assert len(set(names)) == 2 * len(stems)
    assert all(name.rpartition("/")[2].count(".") == 1 for name in names)


def test_names_that_webdataset_would_skip_are_encoded() -> None:
    assert member_name("__meta__/a.png") == "%5F_meta__/a.png"


def test_any_value_of_a_manifest_is_json_in_a_tar() -> None:
    odd = carried(
        number=[float("nan"), 1.5],
        raw=[b"\x00\xff", None],
        day=[date(2026, 11, 21), None],
        nested=[{"tags": ["a", None], "size": float("inf")}, None],
    )
    made = pack("webdataset", members(["a.png", "b.png"]), odd)
    path = pack_path("webdataset", 0, made.data)
    found = json.loads(member_of(path, made.data, "a.json"))
    assert {name: found[name] for name in odd.column_names} == {
        "number": None,
        "raw": "AP8=",
        "day": "2026-11-21",
        "nested": {"tags": ["a", None], "size": None},
    }


def test_a_parquet_file_is_laid_out_as_datasets_expects() -> None:
    ours = members(["cat/0_00.png", "b.png"])
    topics = pa.array(["x", "y"]).dictionary_encode()
    made = pack("parquet", ours, carried(topic=topics, image=["theirs", None]))
    table = pq.read_table(io.BytesIO(made.data), page_checksum_verification=True)
    assert table.schema.field("image") == pa.field(
        "image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}}
    assert table.schema.field("topic").type == pa.string()
    rows = table.to_pylist()
    assert [row["image"]["path"] for row in rows] == ["cat/0_00.png", "b.png"]
    assert Image.open(io.BytesIO(rows[1]["image"]["bytes"])).getpixel((0, 0)) == (1, 1, 1)
    for row, member in zip(rows, ours, strict=True):
        assert {**member.facts.as_dict()}.items() <= row.items()
    assert [(row["topic"], row["manifest_image"]) for row in rows] == [("x", "theirs"), ("y", None)]


@pytest.mark.parametrize("kind", KINDS)
def test_packs_can_be_used_as_training_data(tmp_path: Path, kind: Any) -> None:
    ours = members(["cat/0_00.png", "cat/v1.2_00.png"])
    made = pack(kind, ours, no_columns(2))
    path = tmp_path / pack_path(kind, 0, made.data)
    path.parent.mkdir()
    path.write_bytes(made.data)
    data = training_data(DataSpec(source=str(path)), 16, True, cache=tmp_path / "cache")
    assert (len(data), data.num_bad) == (2, 0)
    assert [data.captions(n) for n in range(2)] == [(each.facts.prompt,) for each in ours]
    assert [Image.open(io.BytesIO(data.bytes(n))).getpixel((3, 3)) for n in range(2)] == [
        (0, 0, 0),
        (1, 1, 1),
    ]


def test_columns_of_any_type_are_carried_into_a_parquet_pack() -> None:
    odd = carried(
        amount=pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
        when=pa.array([1, None], pa.timestamp("ns", "UTC")),
        tags=pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int32())),
        nested=pa.array([{"x": [1.5], "y": None}, None]),
        half=pa.array([np.float16(0.5), None], pa.float16()),
        raw=pa.array([b"\0", None], pa.large_binary()),
        nothing=pa.nulls(2),
        label=pa.array(["x", "y"], pa.large_string()).dictionary_encode(),
    )
    made = pack("parquet", members(["a.png", "b.png"]), odd)
    found = pq.read_table(io.BytesIO(made.data)).select(odd.column_names)
    assert found.to_pylist() == odd.to_pylist()
    tar = pack("webdataset", members(["a.png", "b.png"]), odd)
    told = json.loads(member_of("x.tar", tar.data, "a.json"))
    assert (told["amount"], told["tags"], told["half"]) == ("1.50", [["a", 1]], 0.5)


def test_a_changed_page_of_a_parquet_pack_is_refused() -> None:
    made = pack("parquet", members(["a.png", "b.png"]), no_columns(2))
    damaged = bytearray(made.data)
    damaged[made.locations[1].offset + 40] ^= 1
    with pytest.raises(ValueError, match="truncated or invalid Parquet file"):
        member_of("x.parquet", bytes(damaged), "b.png")


def test_a_small_row_group_holds_a_hundred_images() -> None:
    made = pack("parquet", members([f"{n}.png" for n in range(120)]), no_columns(120))
    file = pq.ParquetFile(io.BytesIO(made.data))
    assert [file.metadata.row_group(n).num_rows for n in range(2)] == [100, 20]


def test_a_row_group_of_large_images_holds_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = members(["a.png", "b.png", "c.png"])
    monkeypatch.setattr(parquet, "ROW_GROUP_BYTES", len(ours[0].data) + 1)
    made = pack("parquet", ours, carried(topic=["x", "y", "z"]))
    file = pq.ParquetFile(io.BytesIO(made.data))
    assert [file.metadata.row_group(n).num_rows for n in range(2)] == [2, 1]
    assert file.read().column("topic").to_pylist() == ["x", "y", "z"]
    for member, location in zip(ours, made.locations, strict=True):
        assert made.data[location.offset :][: len(member.data)] == member.data


def test_the_name_of_a_pack_tells_its_shard_and_its_content() -> None:
    path = pack_path("webdataset", 12, b"bytes")
    digest = hashlib.sha256(b"bytes").hexdigest()
    assert path == f"images/shard-00012-{digest[:16]}.tar"
    assert packed_shard(path) == 12
    assert is_intact_pack(path, b"bytes")
    assert not is_intact_pack(path, b"other")
    for other in ("images/a.png", "images/shard-1-00.tar", f"{path}.tar", "metadata/x.parquet"):
        assert packed_shard(other) is None
        assert not is_intact_pack(other, b"")


def test_a_member_is_named_by_its_pack_and_its_own_name() -> None:
    path = f"images/shard-00012-{'0' * 16}.tar"
    assert split_member(f"s3://a/run/{path}/cat/0_00.png") == (f"s3://a/run/{path}", "cat/0_00.png")
    assert split_member(path) == (path, "")
    copied = path.removeprefix("images/")
    assert split_member(f"{copied}/0_00.png") == (copied, "0_00.png")
    assert split_member(f"press/x{copied}/0_00.png") is None
    assert split_member("press/images/0_00.png") is None
    assert split_member(f"{path}.png") is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_member_or_an_invalid_pack_is_an_error(kind: Any) -> None:
    made = pack(kind, members(["a.png"]), no_columns(1))
    path = pack_path(kind, 0, made.data)
    with pytest.raises(ValueError, match=r"no member 'b.png'; it has: a.png"):
        member_of(path, made.data, "b.png")
    with pytest.raises(ValueError, match="truncated or invalid"):
        member_of(path, b"nothing of the kind" * 100, "a.png")


def test_carried_lists_that_hold_only_null_are_packed() -> None:
    columns = carried(c=pa.array([[None], [None, None]], pa.list_(pa.null())))
    packed = pack("parquet", members(["a.png", "b.png"]), columns)
    assert pq.read_table(io.BytesIO(packed.data))["c"].to_pylist() == [[None], [None, None]]
