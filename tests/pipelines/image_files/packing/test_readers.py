"""The `webdataset` and `datasets` libraries read packs, as the README says."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.fakes.fake_runs import finished_run

from nightpress.pipelines.run_directory.reader import Run

PROMPTS = ["a cat", "a v1.2 dog", "ein Käse", "nan", "a 猫"]


def packed(folder: Path, packing: str) -> Run:
    """A run with three packs; one of its images failed."""
    return Run(*finished_run(folder, PROMPTS, shard_size=2, packing=packing))


def facts(run: Run) -> list[dict[str, Any]]:
    """The metadata rows of the images that are ok, in sampling order."""
    return [row for row in run.metadata.to_table().to_pylist() if row["status"] == "ok"]


def pixels_of(run: Run, row: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The pixels of an image, read from the pack at the offset in the metadata."""
    data = run.store.read(row["file"])[row["member_offset"] :][: row["num_bytes"]]
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.filterwarnings("ignore:.*WebDataset:UserWarning")
def test_webdataset_reads_pictures_facts_and_captions(tmp_path: Path) -> None:
    import webdataset

    run = packed(tmp_path, "webdataset")
    samples = list(webdataset.WebDataset(run.packs, shardshuffle=False).decode("pil"))
    rows = facts(run)
    assert len(samples) == len(rows) == len(PROMPTS) - 1
    for sample, row in zip(samples, rows, strict=True):
        assert np.array_equal(np.asarray(sample["png"]), pixels_of(run, row))
        assert sample["json"]["image_id"] == row["image_id"]
        assert sample["txt"] == sample["json"]["prompt"] == row["prompt"]


def test_datasets_reads_pictures_and_facts(tmp_path: Path) -> None:
    import datasets

    run = packed(tmp_path, "parquet")
    cache = str(tmp_path / "cache")
    read = datasets.load_dataset("parquet", data_files=run.packs, split="train", cache_dir=cache)
    rows = facts(run)
    assert isinstance(read.features["image"], datasets.Image)
    assert read["prompt"][:] == [row["prompt"] for row in rows]
    assert read["seed"][:] == [row["seed"] for row in rows]
    for image, row in zip(read["image"], rows, strict=True):
        assert np.array_equal(np.asarray(image.convert("RGB")), pixels_of(run, row))
