"""`nightpress fid`: which images of runs and files are compared, and what is said of the figure."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from support.exports import finished_run

from nightpress import jobs
from nightpress.jobs.cli import command
from nightpress.jobs.runs.image_sets import image_set
from nightpress.pipelines.errors import Damaged, DataError, SpecError, StoreMissing
from nightpress.pipelines.scoring.inception import InceptionFeatures


def means(batch: torch.Tensor) -> torch.Tensor:
    return batch.mean(dim=(2, 3))


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three features, the means of the channels, in place of InceptionV3."""
    load = staticmethod(lambda device: InceptionFeatures(means, device, "three means"))
    monkeypatch.setattr(InceptionFeatures, "load", load)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five files in three formats, some of them in a folder below."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.JPG", "more/c.webp", "more/d.jpeg", "more/e.png"]):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def sizes(url: str, **choice: Any) -> list[tuple[int, int]]:
    return list(image_set(url, **choice).each(lambda image: image.size))


def nightpress(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["fid", *map(str, arguments)])


def test_a_folder_stands_for_its_image_files(photos: Path) -> None:
    assert sizes(str(photos)) == [(30, 20)] * 5
    assert sizes(f"{photos}/more/*.png") == [(30, 20)]
    with pytest.raises(StoreMissing, match="no folder with"):
        image_set(str(photos / "none"))


def test_images_are_found_in_parquet_and_tar_files(photos: Path, tmp_path: Path) -> None:
    data = [path.read_bytes() for path in sorted(photos.rglob("*.png"))]
    packed = tmp_path / "packed"
    packed.mkdir()
    as_structs = [{"bytes": each, "path": "x.png"} for each in data]
    pq.write_table(pa.table({"image": as_structs}), packed / "a.parquet")
    pq.write_table(pa.table({"image": data, "n": [1, 2]}), packed / "b.parquet")
    pq.write_table(pa.table({"n": [1]}), packed / "c.parquet")
    with tarfile.open(packed / "d.tar", "w") as tar:
        tar.add(photos / "a.png", "000.png")
        tar.add(photos / "notes.txt", "000.txt")
    assert sizes(str(packed)) == [(30, 20)] * 5
    with pytest.raises(DataError, match=r"c\.parquet: no images; .* in a column 'image'"):
        sizes(str(packed / "c.parquet"))


def test_a_run_gives_its_images_that_are_ok_or_a_selection(tmp_path: Path) -> None:
    run = finished_run(tmp_path)
    num_ok = run.progress().num_ok
    assert len(sizes(run.url)) == num_ok
    ids = run.metadata.to_table(columns=["image_id"]).column(0).to_pylist()
    assert len(sizes(run.url, where=f"image_id = '{ids[0]}'")) == 1
    jobs.select(run.url, "few", where=f"image_id < '{ids[3]}'")
    assert len(sizes(run.url, selection="few")) == 3
    with pytest.raises(SpecError, match="not by both"):
        image_set(run, where="seed > 1", selection="few")


@pytest.mark.parametrize("damage", ["gone", "other"])
def test_a_damaged_image_of_a_run_is_named(tmp_path: Path, damage: str) -> None:
    run = finished_run(tmp_path)
    rows = run.metadata.to_table(columns=["image_id", "file"]).to_pylist()
    row = next(row for row in rows if row["file"])
    if damage == "gone":
        run.store.delete(row["file"])
    else:
        run.store.put(row["file"], b"other")
    with pytest.raises(Damaged, match=f"image {row['image_id']} is missing or damaged"):
        sizes(run.url)


def damaged(photos: Path) -> Iterator[tuple[Path, str]]:
    (photos / "a.png").write_bytes((photos / "a.png").read_bytes()[:200])
    yield photos / "a.png", "a.png: truncated or invalid image"
    (photos / "x.tar").write_bytes(b"x" * 5000)
    yield photos / "x.tar", "x.tar: "
    (photos / "x.parquet").write_bytes(b"PAR1")
    yield photos / "x.parquet", "x.parquet: truncated or invalid"
    pq.write_table(pa.table({"image": ["https://x/y.png"]}), photos / "y.parquet")
    yield photos / "y.parquet", "row 0 has no image bytes"


def test_a_file_that_cannot_be_read_is_named(photos: Path) -> None:
    for file, message in damaged(photos):
        with pytest.raises(DataError, match=message):
            sizes(str(file))


@pytest.mark.usefixtures("network")
def test_the_command_says_how_the_figure_was_made_and_warns_of_few_images(
    photos: Path, tmp_path: Path
) -> None:
    run = finished_run(tmp_path)
    told = nightpress(run.url, "--reference", photos, "--json")
    assert told.exit_code == 0
    values = json.loads(told.stdout)
    assert values["fid"] > 0
    assert (values["num_images"], values["num_reference"]) == (run.progress().num_ok, 5)
    assert values["network"] == "three means"
    assert values["resize"].startswith("Pillow, bicubic, 299 x 299")
    assert ["fewer than the 2,048 features" in each for each in values["warnings"]] == [True] * 2
    text = nightpress(photos, "--reference", photos).stdout
    assert text.startswith("FID 0\n")
    assert text.count("warning: ") == 1  # both are the same set
    assert f"reference  5 of {photos}\n" in text


@pytest.mark.usefixtures("network")
def test_what_cannot_be_compared_is_refused_in_one_line(photos: Path) -> None:
    for arguments, message in [
        ((photos / "a.png", "--reference", photos), "1 image; a covariance needs at least 2"),
        (
            (photos, "--where", "seed > 1", "--reference", photos),
            "no run here, so there is nothing",
        ),
        ((photos, "--reference", photos / "none"), "no folder with"),
    ]:
        told = nightpress(*arguments)
        assert told.exit_code == 2, told.output
        assert message in told.stderr
        assert told.stderr.count("\n") == 1
