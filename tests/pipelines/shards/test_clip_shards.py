"""Shards of clips: committed, adopted, verified and repaired as images are."""

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.clip_runs import WALKS, ClipSampler, clip_run, made_clips
from support.fakes.fake_runs import attempt_on, make_shard, work_on

from nightpress.pipelines.image_files.clips.frames import frames_sha256
from nightpress.pipelines.image_files.clips.reading import frames_in
from nightpress.pipelines.image_files.encoding import read_facts
from nightpress.pipelines.records import CLIP_COLUMNS, CLIP_TYPE, FailureType
from nightpress.pipelines.run_directory.commit import read_commit, shard_path
from nightpress.pipelines.run_directory.orphans import delete_orphans
from nightpress.pipelines.run_directory.reader import Run, open_run
from nightpress.pipelines.run_directory.verify import Damage, Finding, orphan_images, verify
from nightpress.pipelines.shards.batching import planned_images
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.shards.work import Amendment

FORMATS = ("mp4", "webp")
KEEP = {"keep": ["first_frame"]}


def rows_of(run: Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run.metadata.to_table().to_pylist()
    return rows


def findings(run: Run) -> list[Finding]:
    return [finding for shard in verify(open_run(run.url)) for finding in shard.findings]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_row_says_its_frames_its_rate_its_end_and_the_hash_of_its_frames(
    tmp_path: Path, kind: str
) -> None:
    run = made_clips(tmp_path, images={"format": kind})
    by_prompt = {row["prompt"]: row for row in rows_of(run)}
    for walk in WALKS:
        row = by_prompt[walk["prompt"]]
        assert row["status"] == "ok"
        assert row["file"].endswith(f".{kind}")
        assert (row["num_frames"], row["fps"]) == (walk["num_frames"], walk.get("fps", 8.0))
        assert (row["to_prompt"], row["to_seed"]) == (walk.get("to_prompt"), walk.get("to_seed"))
        data = run.store.read(row["file"])
        assert read_facts(data).as_dict().items() <= {**row, "loras": []}.items()
        frames = np.stack(list(frames_in(data)))
        assert len(frames) == walk["num_frames"]
        if kind == "webp":
            assert frames_sha256(frames) == row["frames_sha256"]
    assert findings(run) == []


def test_frames_have_one_hash_whatever_file_they_are_in(tmp_path: Path) -> None:
    found = [
        {
            row["image_id"]: row["frames_sha256"]
            for row in rows_of(made_clips(folder, images=images))
        }
        for folder, images in (
            (tmp_path / "mp4", {"format": "mp4"}),
            (tmp_path / "webp", {"format": "webp"}),
        )
    ]
    assert found[0] == found[1]


def test_a_run_makes_the_same_bytes_again(tmp_path: Path) -> None:
    one, two = (made_clips(tmp_path / name, images=KEEP) for name in ("one", "two"))
    for row in rows_of(one):
        for path in (row["file"], row["first_frame"]["file"]):
            assert one.store.read(path) == two.store.read(path)


def test_walks_are_sampled_one_at_a_time_if_their_frames_fill_a_batch(tmp_path: Path) -> None:
    short = [{"prompt": "a", "seed": n, "to_seed": 50 + n, "num_frames": 2} for n in range(5)]
    store, record, rows = clip_run(tmp_path, [*WALKS, *short])
    sampler = ClipSampler()
    make_shard(store, record, rows, sampler)
    assert sorted(sampler.batches) == [1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_first_frame_is_stored_beside_the_clip_with_its_facts(
    tmp_path: Path, kind: str
) -> None:
    run = made_clips(tmp_path, images=KEEP | {"format": kind})
    assert len(run.store.list("images")) == 2 * len(WALKS)
    for row in rows_of(run):
        frame = row["first_frame"]
        assert frame["file"] == row["file"].replace(f".{kind}", ".png")
        data = run.store.read(frame["file"])
        assert len(data) == frame["num_bytes"]
        assert read_facts(data) == read_facts(run.store.read(row["file"]))
        first = next(frames_in(run.store.read(row["file"])))
        still = np.asarray(Image.open(BytesIO(data)))
        assert still.shape == first.shape
        assert np.array_equal(still, first) or kind == "mp4"
    assert orphan_images(run) == []


@pytest.mark.parametrize("embed", ["full", "minimal"])
@pytest.mark.parametrize("kind", FORMATS)
def test_clips_of_an_earlier_attempt_are_adopted_and_not_sampled(
    tmp_path: Path, kind: str, embed: str
) -> None:
    images = KEEP | {"format": kind}
    run = made_clips(tmp_path, images=images, provenance={"embed": embed})
    before = read_commit(run.store, 0)
    run.store.delete(shard_path(0))
    store, record, rows = clip_run(tmp_path, images=images, provenance={"embed": embed})
    sampler = ClipSampler()
    events = make_shard(store, record, rows, sampler, work_on(rows, attempt=2, look_first=True))
    assert events[-1] == ShardDone(0, num_ok=3, num_failed=0)
    assert sampler.seeds == []
    after = read_commit(store, 0)
    for name in ("file", "sha256", *CLIP_COLUMNS):
        assert after.column(name) == before.column(name), name


@pytest.mark.parametrize("harm", [None, lambda data: data[:90], lambda data: data[:-2] + b"xx"])
@pytest.mark.parametrize("which", ["clip", "frame"])
def test_what_is_missing_or_damaged_is_made_again_with_the_same_bytes(
    tmp_path: Path, which: str, harm: Callable[[bytes], bytes] | None
) -> None:
    run = made_clips(tmp_path, images=KEEP)
    row = rows_of(run)[1]
    path = row["file"] if which == "clip" else row["first_frame"]["file"]
    whole = run.store.read(path)
    run.store.delete(shard_path(0))
    run.store.delete(path)
    if harm is not None:
        run.store.put(path, harm(whole))
    store, record, rows = clip_run(tmp_path, images=KEEP)
    sampler = ClipSampler()
    events = make_shard(store, record, rows, sampler, work_on(rows, attempt=2, look_first=True))
    assert events[-1] == ShardDone(0, num_ok=3, num_failed=0)
    assert sampler.seeds == [row["seed"]]
    assert store.read(path) == whole


def test_another_file_under_the_name_of_a_first_frame_is_kept(tmp_path: Path) -> None:
    store, record, rows = clip_run(tmp_path, images=KEEP)
    path = planned_images(rows)[0].file.replace(".mp4", ".png")
    store.create(path, b"somebody else's")
    events = make_shard(store, record, rows, ClipSampler())
    assert events[-1] == ShardDone(0, num_ok=2, num_failed=1)
    part = read_commit(store, 0).to_pylist()[0]
    assert part["error_type"] == FailureType.NAME_TAKEN
    assert path in part["error"]
    assert store.read(path) == b"somebody else's"


def test_a_clip_that_does_not_move_fails_by_that_name(tmp_path: Path) -> None:
    run = made_clips(tmp_path, [*WALKS, {**WALKS[0], "prompt": "still"}])
    failed = [row for row in rows_of(run) if row["status"] == "failed"]
    assert [(each["error_type"], each["error"]) for each in failed] == [
        ("Still", "all frames are equal")
    ]
    assert failed[0]["frames_sha256"] is None


@pytest.mark.parametrize("kind", FORMATS)
def test_verify_finds_a_clip_that_is_missing_or_changed_and_its_first_frame(
    tmp_path: Path, kind: str
) -> None:
    run = made_clips(tmp_path, images=KEEP | {"format": kind})
    rows, store = rows_of(run), run.store
    clip, frame = rows[0]["file"], rows[1]["first_frame"]["file"]
    data = bytearray(store.read(clip))
    data[len(data) // 2] ^= 1
    store.put(clip, bytes(data))
    store.delete(frame)
    assert [(each.damage, each.path, each.row) for each in findings(run)] == [
        (Damage.CHANGED, clip, 0),
        (Damage.MISSING, frame, 1),
    ]
    store.put(frame, b"other")
    assert [each.damage for each in findings(run)] == [Damage.CHANGED] * 2


@pytest.mark.parametrize("kind", FORMATS)
def test_repair_replaces_a_clip_and_its_first_frame_with_the_same_bytes(
    tmp_path: Path, kind: str
) -> None:
    images = KEEP | {"format": kind}
    run = made_clips(tmp_path, images=images)
    row, store = rows_of(run)[1], run.store
    paths = [row["file"], row["first_frame"]["file"]]
    whole = [store.read(path) for path in paths]
    for path in paths:
        store.put(path, b"damaged")
    _, record, rows = clip_run(tmp_path, images=images)
    work = work_on(rows, amends=Amendment((1,), replaces=True))
    make_shard(store, record, rows, ClipSampler(), work)
    assert [store.read(path) for path in paths] == whole
    assert findings(run) == []


def test_a_draw_that_does_not_move_is_drawn_again_where_there_are_gates(tmp_path: Path) -> None:
    rows = [{**WALKS[0], "prompt": "still"}, WALKS[1]]
    gates = {"require": ["sharpness >= 0"], "max_draws": 3}
    run = made_clips(tmp_path, rows, gates=gates)
    found = {row["prompt"]: row for row in rows_of(run)}
    assert (found["still"]["status"], found["still"]["draws"]) == ("failed", 3)
    assert found["a dog"]["status"] == "ok"


def test_a_row_with_other_frames_than_planned_is_damage_of_the_metadata(tmp_path: Path) -> None:
    run = made_clips(tmp_path)
    path = tmp_path / "out/run" / shard_path(0)
    part = pq.read_table(path)
    place = part.schema.get_field_index("to_seed")
    wrong = [None if value is None else value + 1 for value in part.column(place).to_pylist()]
    part = part.set_column(place, part.schema.field(place), [wrong])
    pq.write_table(part, path)
    (found,) = findings(run)
    assert found.damage == Damage.METADATA
    assert "column to_seed" in found.text


def test_first_frames_that_no_commit_names_are_deleted_and_no_others(tmp_path: Path) -> None:
    run = made_clips(tmp_path, images=KEEP)
    run.store.create("images/lost.png", b"lost")
    kept = set(run.store.list("images")) - {"images/lost.png"}

    class Holder:
        number = 1

        def require(self, store: object) -> None:
            """The lease is ours."""

    assert delete_orphans(open_run(run.url), Holder()) == ["images/lost.png"]  # type: ignore[arg-type]
    assert set(run.store.list("images")) == kept


def test_the_facts_of_a_plan_lack_only_the_hash_of_the_frames(tmp_path: Path) -> None:
    store, record, rows = clip_run(tmp_path)
    attempt = attempt_on(store, record, rows)
    made = made_clips(tmp_path)
    for image in planned_images(rows):
        facts = read_facts(made.store.read(image.file))
        assert facts is not None
        assert attempt.facts(image, 4) == replace(facts, frames_sha256=None)
        assert facts.frames_sha256 is not None
    assert set(CLIP_TYPE.names) - {"model_fps"} < set(CLIP_COLUMNS)


@pytest.mark.parametrize("kind", FORMATS)
def test_clips_are_packed_as_images_are(tmp_path: Path, kind: str) -> None:
    run = made_clips(tmp_path, images={"format": kind, "packing": "webdataset"})
    assert [row["status"] for row in rows_of(run)] == ["ok"] * 3
    assert all(row["member"].endswith(f".{kind}") for row in rows_of(run))
    assert findings(run) == []
