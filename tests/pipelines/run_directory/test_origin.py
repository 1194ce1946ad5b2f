"""A file is found again in its run: as it is, signed, stripped, edited, packed."""

import zlib
from collections.abc import Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.fakes.fake_runs import finished_run
from support.signers import Studio

from nightpress.pipelines.image_files.content_credentials.parts import without_credential
from nightpress.pipelines.image_files.encoding import decoded, encode, read_facts
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.run_directory import origin
from nightpress.pipelines.run_directory.commit import commit_shard, read_commit, shard_path
from nightpress.pipelines.run_directory.origin import Likeness, find_origin
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import Store

PROMPTS = ("a red cat", "a blue cat", "a nan dog", "a fish", "a bird", "a fox", "a cow")


@cache
def studio() -> Studio:
    return Studio.new()


def made(run: Run) -> list[Mapping[str, Any]]:
    """The rows of the images that are ok."""
    rows = [row for shard in run.committed for row in read_commit(run.store, shard).to_pylist()]
    return [row for row in rows if row["status"] == "ok"]


def stripped(data: bytes) -> bytes:
    """The same pixels in a file without any metadata."""
    file = BytesIO()
    decoded(data).convert("RGB").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("packing", "kind", "embed"),
    [
        ("none", "png", "full"),
        ("none", "jpeg", "minimal"),
        ("none", "webp", "none"),
        ("webdataset", "webp", "full"),
        ("parquet", "png", "minimal"),
        ("webdataset", "jpeg", "none"),
    ],
)
def test_every_image_is_found_by_its_bytes_and_stripped_by_its_pixels(
    tmp_path: Path, packing: str, kind: str, embed: str
) -> None:
    sections = {"images": {"format": kind}, "provenance": studio().job(embed=embed)}
    run = Run(*finished_run(tmp_path, PROMPTS, 3, packing, studio().key, **sections))
    rows = made(run)
    assert len(rows) == len(PROMPTS) - 1
    for row in rows[::3]:
        data = image_bytes(run.store, row)
        unsigned = without_credential(data)
        for file, likeness in (
            (data, Likeness.FILE),
            (unsigned, Likeness.PIXELS),
            (stripped(data), Likeness.PIXELS),
        ):
            found = find_origin([run], file)
            assert found is not None
            assert found.likeness == likeness
            assert found.row["image_id"] == row["image_id"]
            assert found.row["prompt"] == row["prompt"]


@pytest.mark.parametrize("embed", ["full", "minimal"])
def test_an_edited_image_is_found_by_the_metadata_that_it_kept(tmp_path: Path, embed: str) -> None:
    run = Run(*finished_run(tmp_path, PROMPTS, 3, provenance={"embed": embed}))
    row = made(run)[4]
    data = image_bytes(run.store, row)
    with decoded(data) as image:
        info = {k: v for k, v in image.info.items() if k in ("nightpress", "parameters")}
        pixels = np.array(image)
    pixels[:4] = 255
    text = b"".join(_itxt(key.encode(), value.encode()) for key, value in info.items())
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    edited = file.getvalue()[:33] + text + file.getvalue()[33:]
    found = find_origin([run], edited)
    assert found is not None
    assert (found.likeness, found.row["image_id"]) == (Likeness.FACTS, row["image_id"])


def _itxt(key: bytes, text: bytes) -> bytes:

    body = b"iTXt" + key + b"\0\0\0\0\0" + text
    return (len(body) - 4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)


def test_images_of_other_runs_are_not_found(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path / "one", PROMPTS, 3))
    other = Run(*finished_run(tmp_path / "two", [f"another {p}" for p in PROMPTS], 3, seed=9))
    for row in made(other):
        data = image_bytes(other.store, row)
        assert find_origin([run], data) is None
        facts = read_facts(data)
        assert facts is not None
        black = encode(np.zeros((facts.height, facts.width, 3), np.uint8), facts, ImagesSpec())
        assert find_origin([run], black) is None
        assert find_origin([run], stripped(data)) is None


def test_a_file_that_is_no_image_is_an_error(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, PROMPTS[:2]))
    with pytest.raises(ValueError, match="not a PNG"):
        find_origin([run], b"hello")


def test_damaged_and_missing_images_of_the_run_are_passed_over(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, PROMPTS, 10))
    first, second, third, *_ = made(run)
    wanted = stripped(image_bytes(run.store, third))
    run.store.delete(first["file"])
    run.store.put(second["file"], b"hello")
    found = find_origin([run], wanted)
    assert found is not None
    assert found.row["image_id"] == third["image_id"]


def test_the_surest_likeness_in_any_run_wins(tmp_path: Path) -> None:
    one = Run(*finished_run(tmp_path / "one", PROMPTS, 3))
    two = Run(*finished_run(tmp_path / "two", PROMPTS, 3, images={"format": "webp"}))
    row = made(one)[2]
    data = image_bytes(one.store, row)
    facts = read_facts(data)
    assert facts is not None
    edited = encode(np.zeros((facts.height, facts.width, 3), np.uint8), facts, ImagesSpec())
    for file, likeness, url in (
        (data, Likeness.FILE, one.url),
        (stripped(data), Likeness.PIXELS, two.url),
        (edited, Likeness.FACTS, two.url),
    ):
        found = find_origin([two, one], file)
        assert found is not None
        assert (found.likeness, found.url) == (likeness, url)
        assert found.row["image_id"] == row["image_id"]


def test_only_images_with_the_same_perceptual_hash_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(*finished_run(tmp_path, PROMPTS, 3))
    first, *others = made(run)
    hashes = [row["perceptual_hash"] for row in others]
    assert first["perceptual_hash"] not in hashes
    wanted = stripped(image_bytes(run.store, first))
    read = list[str]()

    def noted(store: Store, row: Mapping[str, Any]) -> bytes:
        read.append(row["image_id"])
        return image_bytes(store, row)

    monkeypatch.setattr(origin, "image_bytes", noted)
    found = find_origin([run], wanted)
    assert found is not None
    assert read == [first["image_id"]]


def test_images_of_older_versions_which_have_no_perceptual_hash_are_read(tmp_path: Path) -> None:
    store, record = finished_run(tmp_path, PROMPTS, 100)
    part = read_commit(store, 0)
    values = [row | {"perceptual_hash": None} for row in part.to_pylist()]
    store.delete(shard_path(0))
    commit_shard(store, 0, pa.Table.from_pylist(values, part.schema))
    run = Run(store, record)
    row = made(run)[3]
    found = find_origin([run], stripped(image_bytes(store, row)))
    assert found is not None
    assert found.row["image_id"] == row["image_id"]
