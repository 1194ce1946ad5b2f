"""`review` makes the thumbnails that a run lacks, and only those."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fakes.fake_runs import finished_run

from nightpress.pipelines.review.thumbnails import ThumbsMade, make_again, make_missing
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import (
    Thumbs,
    is_atlas,
    read_thumbs,
    store_atlas,
    store_index,
)

PROMPTS = [f"picture {n}" for n in range(10)]


def finished(folder: Path, prompts: list[str] = PROMPTS, **others: Any) -> Run:
    return Run(*finished_run(folder, prompts, **others))


def made(run: Run) -> tuple[Thumbs, list[ThumbsMade]]:
    thumbs = read_thumbs(run.store)
    return thumbs, list(make_missing(run, thumbs))


def atlases(run: Run) -> set[str]:
    return {path for path in run.store.list("thumbs") if is_atlas(path)}


@pytest.mark.parametrize("packing", ["none", "webdataset", "parquet"])
def test_a_run_that_asked_for_none_gets_those_that_its_actors_would_have_made(
    tmp_path: Path, packing: str
) -> None:
    asked = finished(tmp_path / "asked", packing=packing, review={"thumbs": True})
    run = finished(tmp_path / "late", packing=packing)
    thumbs, steps = made(run)
    assert set(thumbs.places) == set(run.hashes().items())
    assert [(step.num_made, step.num_missing) for step in steps] == [(4, 10), (8, 10), (10, 10)]
    assert set(read_thumbs(run.store).places) == set(thumbs.places)
    assert atlases(run) == atlases(asked)


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    run = finished(tmp_path, review={"thumbs": True})
    before = run.store.list("thumbs")
    assert made(run)[1] == []
    assert run.store.list("thumbs") == before


def test_only_the_atlas_that_is_gone_is_made_again_with_the_same_bytes(tmp_path: Path) -> None:
    run = finished(tmp_path, review={"thumbs": True})
    before = run.store.list("thumbs")
    gone = min(atlases(run))
    run.store.delete(gone)
    assert [step.num_made for step in made(run)[1]] == [4]
    assert run.store.list("thumbs") == before


def test_images_that_are_missing_or_damaged_are_told_and_the_others_have_thumbnails(
    tmp_path: Path,
) -> None:
    run = finished(tmp_path)
    run.store.delete("images/00000001_00.png")
    run.store.put("images/00000006_00.png", run.store.read("images/00000006_00.png")[:-9])
    thumbs, steps = made(run)
    assert (steps[-1].num_made, steps[-1].num_missing) == (8, 10)
    assert steps[-1].unreadable == {
        "00000001_00": "the image is not in the store",
        "00000006_00": "its bytes are not those that were stored",
    }
    assert len(thumbs.places) == 8


def test_an_interruption_keeps_every_atlas_that_was_stored(tmp_path: Path) -> None:
    run = finished(tmp_path, [f"picture {n}" for n in range(130)], shard_size=130)
    steps = make_missing(run, read_thumbs(run.store))
    first = next(steps)
    steps.close()
    assert first.atlas
    found = read_thumbs(run.store)
    assert set(found.places) == set(first.atlas.cells.values())
    assert len(found.places) == 64
    assert [step.num_made for step in made(run)[1]] == [64, 66]


def test_sets_of_images_with_the_same_thumbnails_share_an_atlas(tmp_path: Path) -> None:
    run = finished(tmp_path)
    black = {0: np.zeros((8, 8, 3), np.uint8)}
    for image in (("a_00", "a" * 64), ("b_00", "b" * 64)):
        store_index(run.store, 0, [store_atlas(run.store, 0, {0: image}, black)])
    found = read_thumbs(run.store)
    assert set(found.places) == {("a_00", "a" * 64), ("b_00", "b" * 64)}
    assert len(found.named) == 1


def test_a_damaged_atlas_is_made_again_under_its_name(tmp_path: Path) -> None:
    run = finished(tmp_path, review={"thumbs": True})
    atlas = next(iter(read_thumbs(run.store).named.values()))
    data = run.store.read(atlas.path)
    run.store.put(atlas.path, data[:100] + bytes([data[100] ^ 1]) + data[101:])
    assert make_again(run, atlas) == data
    assert run.store.read(atlas.path) == data


def test_a_damaged_atlas_whose_images_are_gone_in_part_has_the_others(tmp_path: Path) -> None:
    run = finished(tmp_path, review={"thumbs": True})
    atlas = min(read_thumbs(run.store).named.values(), key=lambda each: each.path)
    gone, kept = atlas.cells[0][0], {atlas.cells[cell] for cell in (1, 2, 3)}
    run.store.delete(f"images/{gone}.png")
    assert make_again(run, atlas)
    found = read_thumbs(run.store)
    assert atlas.path not in found.listed
    assert kept <= set(found.places)
    assert (gone, atlas.cells[0][1]) not in found.places
    for image_id, _ in kept:
        run.store.delete(f"images/{image_id}.png")
    assert make_again(run, atlas) is None
