"""Clips have strips: thumbnails of their frames, made beside them or late, bound to their bytes."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from support.clip_runs import ClipSampler, clip_run, made_clips
from support.fakes.fake_runs import make_shard, work_on
from support.slow_cases import slow_except

from nightpress.pipelines.image_files.atlas import CELL_PX, COLUMNS, strip_frames, strip_of_pixels
from nightpress.pipelines.image_files.clips import mp4
from nightpress.pipelines.image_files.clips.reading import frames_in
from nightpress.pipelines.review.thumbnails import ThumbsMade, make_again, make_missing
from nightpress.pipelines.run_directory.commit import shard_path
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.orphans import delete_thumbs, orphan_thumbs
from nightpress.pipelines.run_directory.reader import Run, open_run
from nightpress.pipelines.run_directory.thumbs import (
    StripPlace,
    is_atlas,
    read_thumbs,
    store_index,
    store_strips,
)
from nightpress.pipelines.shards import shard_thumbs
from nightpress.pipelines.shards.events import ShardDone

FORMATS = ("mp4", "webp")
LENGTHS = [3 + n * 37 // 16 for n in range(17)]
WALKS_OF_17 = [
    {"prompt": f"walk {n}", "seed": n, "to_seed": 10 + n, "num_frames": length}
    for n, length in enumerate(LENGTHS)
]
THUMBS = {"thumbs": True}


def clips(folder: Path, kind: str = "webp", **others: Any) -> Run:
    return made_clips(folder, WALKS_OF_17, images={"format": kind}, **others)


def atlases(run: Run) -> dict[str, bytes]:
    return {path: run.store.read(path) for path in run.store.list("thumbs") if is_atlas(path)}


def late(run: Run) -> list[ThumbsMade]:
    return list(make_missing(run, read_thumbs(run.store)))


def cells_of(run: Run, place: StripPlace, width: int, height: int) -> NDArray[np.uint8]:
    """What the cells of a strip show of frames of a size: (cells, height, width, 3)."""
    sheet = np.asarray(Image.open(BytesIO(run.store.read(place.path))).convert("RGB"))
    found = []
    for cell in range(place.first_cell, place.first_cell + place.num):
        y = cell // COLUMNS * CELL_PX + (CELL_PX - height) // 2
        x = cell % COLUMNS * CELL_PX + (CELL_PX - width) // 2
        found.append(sheet[y : y + height, x : x + width])
    return np.stack(found)


def differences(run: Run) -> list[float]:
    """For each clip the mean difference of its cells from the thumbnails of its frames."""
    strips, found = read_thumbs(run.store).strips, []
    for number, row in enumerate(run.metadata.to_table().to_pylist()):
        place = strips[row["image_id"], row["sha256"]]
        assert place.num == len(strip_frames(row["num_frames"])) == min(row["num_frames"], 16)
        assert place.first_cell == number % 4 * 16
        wanted = np.stack(strip_of_pixels(np.stack(list(frames_in(run.store.read(row["file"]))))))
        shown = cells_of(run, place, wanted.shape[2], wanted.shape[1])
        found.append(np.abs(shown.astype(int) - wanted).mean())
        backwards = np.abs(shown[::-1].astype(int) - wanted).mean()
        assert backwards > 2 * found[-1], "the frames differ by more than WebP loses"
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_the_cells_of_17_clips_are_the_thumbnails_of_their_frames(
    tmp_path: Path, kind: str
) -> None:
    run = clips(tmp_path, kind, review=THUMBS)
    found = read_thumbs(run.store)
    assert set(found.strips) == set(found.places) == set(run.hashes().items())
    assert found.problems == {}
    assert sorted(len(each.strips) for each in found.named.values()) == [0, 1, 4, 4, 4, 4]
    assert max(differences(run)) < 6


@pytest.mark.parametrize("kind", slow_except(FORMATS, "mp4"))
def test_strips_that_are_made_late_are_those_that_actors_make(tmp_path: Path, kind: str) -> None:
    asked, run = clips(tmp_path / "asked", kind, review=THUMBS), clips(tmp_path / "late", kind)
    assert run.store.list("thumbs") == {}
    steps = late(run)
    assert (steps[-1].num_made, steps[-1].num_missing, steps[-1].num_failed) == (34, 34, 0)
    assert max(differences(run)) < 6
    if kind == "webp":  # H.264 changes pixels, so the file has other frames than were made
        assert atlases(run) == atlases(asked)
    before = run.store.list("thumbs")
    assert late(run) == []
    assert run.store.list("thumbs") == before


def test_equal_clips_give_equal_atlases_also_those_that_are_adopted(tmp_path: Path) -> None:
    one, two = (clips(tmp_path / name, review=THUMBS) for name in ("one", "two"))
    before = atlases(one)
    assert before == atlases(two)
    for path in [*one.store.list("thumbs"), shard_path(0)]:
        one.store.delete(path)
    store, record, rows = clip_run(
        tmp_path / "one", WALKS_OF_17, images={"format": "webp"}, review=THUMBS
    )
    sampler = ClipSampler()
    make_shard(store, record, rows, sampler, work_on(rows, attempt=2, look_first=True))
    assert sampler.seeds == []
    assert atlases(one) == before


def test_a_run_with_thumbnails_of_an_older_version_gets_only_strips(tmp_path: Path) -> None:
    run = clips(tmp_path, review=THUMBS)
    before = atlases(run)
    found = read_thumbs(run.store)
    for path in [p for p, each in found.named.items() if each.strips]:
        run.store.delete(path)
    assert [step.num_made for step in late(run)] == [4, 8, 12, 16, 17]
    assert atlases(run) == before


def test_a_strip_that_cannot_be_made_is_counted_and_the_clip_is_ok(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(frames: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(shard_thumbs, "strip_of_pixels", fails)
    store, record, rows = clip_run(tmp_path, review=THUMBS)
    done = make_shard(store, record, rows, ClipSampler())[-1]
    assert done == ShardDone(
        0, num_ok=3, num_failed=0, num_without_thumb=3, thumb_error="MemoryError: no room"
    )
    found = read_thumbs(store)
    assert (len(found.places), found.strips) == (3, {})


def test_without_av_clips_of_mp4_are_told_to_be_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = clips(tmp_path, "mp4")
    monkeypatch.setattr(mp4, "has_av", lambda: False)
    last = late(run)[-1]
    assert (last.num_made, last.num_missing, last.num_failed) == (0, 34, 34)
    assert set(last.unreadable) == set(run.hashes())
    assert all("nightpress[video]" in why for why in last.unreadable.values())


def test_a_damaged_atlas_of_strips_is_made_again_from_the_clips_that_are_left(
    tmp_path: Path,
) -> None:
    run = clips(tmp_path, review=THUMBS)
    [atlas] = [
        each
        for each in read_thumbs(run.store).named.values()
        if ("00000004_00" in {strip.image[0] for strip in each.strips.values()})
    ]
    whole = run.store.read(atlas.path)
    run.store.put(atlas.path, whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert make_again(run, atlas) == whole
    run.store.delete(f"images/{atlas.strips[0].image[0]}.webp")
    assert make_again(run, atlas) not in (None, whole)
    found = read_thumbs(run.store)
    assert set(run.hashes().items()) - set(found.strips) == {atlas.strips[0].image}


def test_strips_of_clips_of_the_run_are_no_orphans_and_others_are(tmp_path: Path) -> None:
    run = clips(tmp_path)
    late(run)
    before = run.store.list("thumbs")
    assert orphan_thumbs(open_run(run.url)) == []
    strip = [np.full((16, 32, 3), n, np.uint8) for n in range(4)]
    atlas = store_strips(run.store, 0, {2: (("00000000_00", "e" * 64), strip)})
    index = store_index(run.store, 0, [atlas])
    assert delete_thumbs(run, FencingToken(1, "mine")) == sorted([atlas.path, index])
    assert run.store.list("thumbs") == before
