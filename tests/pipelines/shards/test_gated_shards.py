"""Shards of gated runs in one process: what is drawn, which draw is taken, and what is recorded."""

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from support.fakes.fake_runs import FakeSampler, make_shard, prepare, work_on
from support.fakes.fake_scorers import loaded
from support.picture_files import png
from support.pictured_runs import PictureSampler, begin
from support.slow_cases import slow_except

from nightpress.diffusion_core.sampling.sampler import Fault, SampledBatch
from nightpress.pipelines.image_files.encoding import read_facts
from nightpress.pipelines.planning import read_shard
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.draws import (
    LostDraw,
    draws_dataset,
    read_draws,
    store_draws,
)
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.scoring.draws import decide, draw_seed
from nightpress.pipelines.scoring.gates import Gates
from nightpress.pipelines.scoring.measurements import measure
from nightpress.pipelines.shards.batching import planned_images
from nightpress.pipelines.shards.events import BatchBegun, DrawsJudged, ShardDone, ShardLeft
from nightpress.pipelines.shards.failed_shard import UNJUDGED, UNRECOGNIZED, fail_shard
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.work import Amendment, SetAsideRow
from nightpress.pipelines.storage import Store

HALF = {"require": ["exposure > 0.45"], "max_draws": 12}
"""About half of the colours are bright enough."""

BEST = HALF | {"best_of": 3, "rank_by": "exposure"}
NEVER = {"require": ["exposure > 2"], "max_draws": 5}

Prepared = tuple[Store, RunRecord, pa.Table]


def gated(tmp_path: Path, gates: Mapping[str, Any], num: int = 20, **job: Any) -> Prepared:
    return prepare(tmp_path, [f"picture {n}" for n in range(num)], gates=dict(gates), **job)


def rows_of(store: Store, shard: int = 0) -> list[dict[str, Any]]:
    return read_commit(store, shard).to_pylist()


def exposure(seed: int) -> float:
    """What the image of a seed measures; see `FakeSampler`."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:] = [seed % 256, seed // 256 % 256, 7]
    return measure(pixels)["exposure"]


def expected(record: RunRecord, rows: pa.Table) -> dict[str, tuple[int | None, int]]:
    """Image id -> the draw that must be taken, and how many are considered."""
    gates, found = Gates(record.spec.gates), {}  # type: ignore[arg-type]
    for image in planned_images(rows):
        seeds = [draw_seed(image.seed, image.id, image.variant, n) for n in range(12)]
        verdicts = {n: gates.judge({"exposure": exposure(seed)}) for n, seed in enumerate(seeds)}
        decision = decide(verdicts, gates.rule)
        assert decision is not None
        found[image.image_id] = decision.winner, decision.num_draws
    return found


@pytest.mark.parametrize("gates", [HALF, BEST])
@pytest.mark.parametrize("packing", ["none", "parquet"])
def test_the_draw_that_the_definition_names_is_taken_and_recorded(
    tmp_path: Path, gates: dict[str, Any], packing: str
) -> None:
    store, record, rows = gated(tmp_path, gates, packing=packing)
    events = make_shard(store, record, rows, FakeSampler())
    assert events[-1] == ShardDone(0, num_ok=20, num_failed=0)
    made = {row["image_id"]: row for row in rows_of(store)}
    taken = {image_id: (row["draw"], row["draws"]) for image_id, row in made.items()}
    assert taken == expected(record, rows)
    for image in planned_images(rows):
        row = made[image.image_id]
        seed = draw_seed(image.seed, image.id, image.variant, row["draw"])
        assert row["seed"] == seed
        assert dict(row["scores"])["exposure"] == pytest.approx(exposure(seed))
        assert row["gate"] is None


class Killed(BaseException):
    """The process ends here."""


def make_until_killed(store: Store, record: RunRecord, rows: pa.Table, num_writes: int) -> set[int]:
    """Make a shard until its process ends after some writes; returns the seeds it has drawn."""
    plain, count, sampler = Store.create, iter(range(10**6)), FakeSampler()

    def create(self: Store, path: str, data: bytes) -> bool:
        if next(count) >= num_writes:
            raise Killed
        return plain(self, path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "create", create)
        with pytest.raises(Killed):
            make_shard(store, record, rows, sampler)
    return set(sampler.seeds)


def stored_seeds(store: Store, rows: pa.Table) -> set[int]:
    """The seeds of the draws that are recorded, or stored as images."""
    images = [store.read_if_any(image.file) for image in planned_images(rows)]
    facts = [read_facts(data) for data in images if data is not None]
    recorded = read_draws(store, 0).draws
    return {each.seed for each in facts if each is not None} | {each.seed for each in recorded}


DECIDED = ("image_id", "status", "file", "sha256", "seed", "draw", "draws", "gate", "error_type")


def decided(store: Store) -> list[dict[str, Any]]:
    """What must not depend on how a shard was made."""
    return read_commit(store, 0).select([*DECIDED, "error", "scores", "batch_size"]).to_pylist()


@pytest.mark.parametrize(
    ("gates", "packing"),
    slow_except(
        [(HALF, "none"), (BEST, "none"), (BEST, "webdataset"), (NEVER, "none")],
        (HALF, "none"),
        (BEST, "webdataset"),
    ),
)
def test_a_shard_killed_at_any_write_ends_as_ever_and_makes_no_recorded_draw_again(
    tmp_path: Path, gates: dict[str, Any], packing: str
) -> None:
    undisturbed, record, rows = gated(tmp_path / "whole", gates, 3, packing=packing)
    make_shard(undisturbed, record, rows, FakeSampler())
    for num_writes in range(len(undisturbed.list())):
        store, record, rows = gated(tmp_path / str(num_writes), gates, 3, packing=packing)
        drawn = make_until_killed(store, record, rows, num_writes)
        known = stored_seeds(store, rows)
        assert known <= drawn
        second = FakeSampler()
        make_shard(store, record, rows, second, work_on(rows, attempt=2, look_first=True))
        assert decided(store) == decided(undisturbed)
        assert known.isdisjoint(second.seeds)
        assert len(second.seeds) == len(set(second.seeds))


@pytest.mark.parametrize("gates", [HALF, BEST], ids=["half", "best"])
def test_shard_size_batch_size_and_companions_do_not_change_what_is_taken(
    tmp_path: Path, gates: dict[str, Any]
) -> None:
    store, record, rows = gated(tmp_path / "one", gates, 10)
    make_shard(store, record, rows, FakeSampler())
    whole = {row["image_id"]: (row["sha256"], row["draw"], row["draws"]) for row in rows_of(store)}
    other, record, rows = gated(tmp_path / "two", gates, 10, shard_size=3)
    for shard in reversed(range(record.layout.num_shards)):
        part = rows.filter(pa.compute.equal(rows.column("shard"), shard))
        make_shard(other, record, part, FakeSampler(), work_on(part, shard))
        for row in rows_of(other, shard):
            assert (row["sha256"], row["draw"], row["draws"]) == whole[row["image_id"]]


def test_an_image_of_which_no_draw_passes_is_rejected_with_the_nearest_score(
    tmp_path: Path,
) -> None:
    store, record, rows = gated(tmp_path, NEVER, 3)
    events = make_shard(store, record, rows, sampler := FakeSampler())
    assert events[-1] == ShardDone(0, num_ok=0, num_failed=3, num_rejected=3)
    assert len(set(sampler.seeds)) == 15
    assert store.list("images") == {}
    for image, row in zip(planned_images(rows), rows_of(store), strict=True):
        seeds = [draw_seed(image.seed, image.id, image.variant, n) for n in range(5)]
        nearest = max(exposure(seed) for seed in seeds)
        assert (row["status"], row["error_type"]) == ("failed", "Rejected")
        assert row["error"] == f"exposure {nearest:.3g} < 2 in 5 of 5 draws"
        assert (row["draw"], row["draws"], row["seed"]) == (None, 5, image.seed)
    assert len(read_draws(store, 0).draws) == 15


def test_with_exhausted_keep_the_best_draw_is_taken_and_its_gate_named(tmp_path: Path) -> None:
    gates = NEVER | {"exhausted": "keep", "rank_by": "exposure"}
    store, record, rows = gated(tmp_path, gates, 3)
    make_shard(store, record, rows, FakeSampler())
    for image, row in zip(planned_images(rows), rows_of(store), strict=True):
        seeds = [draw_seed(image.seed, image.id, image.variant, n) for n in range(5)]
        assert row["seed"] == max(seeds, key=exposure)
        assert (row["status"], row["draws"]) == ("ok", 5)
        assert row["gate"] == f"exposure {exposure(row['seed']):.3g} < 2"


def test_every_draw_that_was_considered_and_not_taken_is_recorded_with_its_scores(
    tmp_path: Path,
) -> None:
    store, record, rows = gated(tmp_path, BEST)
    make_shard(store, record, rows, FakeSampler())
    images = {image.image_id: image for image in planned_images(rows)}
    recorded = {(each.image_id, each.draw): each for each in read_draws(store, 0).draws}
    for row in rows_of(store):
        lost = {n for n in range(row["draws"]) if n != row["draw"]}
        assert lost <= {draw for image_id, draw in recorded if image_id == row["image_id"]}
    for each in recorded.values():
        assert each.seed == images[each.image_id].drawn(each.draw).seed
        assert each.scores["exposure"] == pytest.approx(exposure(each.seed))
        assert each.passed == (each.scores["exposure"] > 0.45) == (each.reason is None)


def test_without_a_request_draws_that_lost_leave_no_thumbnail(tmp_path: Path) -> None:
    store, record, rows = gated(tmp_path, NEVER, 2)
    make_shard(store, record, rows, FakeSampler())
    thumbnails = draws_dataset(store).to_table(columns=["thumbnail"]).column("thumbnail")
    assert thumbnails.null_count == len(thumbnails) == 10


def test_thumbnails_of_draws_that_lost_are_kept_on_request(tmp_path: Path) -> None:
    store, record, rows = gated(tmp_path, NEVER | {"keep_rejected": "thumbnails"}, 2)
    make_shard(store, record, rows, FakeSampler())
    lost = draws_dataset(store).to_table(columns=["seed", "thumbnail"]).to_pylist()
    assert len(lost) == 10
    for row in lost:
        with Image.open(BytesIO(row["thumbnail"])) as image:
            assert image.format == "JPEG"
            assert max(image.size) <= 256
            red, green = np.asarray(image.convert("RGB"))[8, 8][:2].astype(int)
        assert abs(red - row["seed"] % 256) < 12
        assert abs(green - row["seed"] // 256 % 256) < 12


class Bright(FakeSampler):
    """A sampler that fails for some seeds, or for some prompts."""

    def __init__(self, faulty: frozenset[int] = frozenset()) -> None:
        super().__init__()
        self._faulty = faulty

    def sample(self, requests, params, batch_size=None):  # type: ignore[no-untyped-def]
        made = super().sample(requests, params, batch_size)
        faults = [Fault.BLANK if each.seed in self._faulty else None for each in requests]
        return SampledBatch(made.pixels, tuple(faults))


def test_a_blank_draw_does_not_pass_and_another_is_made(tmp_path: Path) -> None:
    store, record, rows = gated(tmp_path, HALF, 6)
    make_shard(store, record, rows, FakeSampler())
    taken = {row["image_id"]: row["seed"] for row in rows_of(store)}
    other, record, rows = gated(tmp_path / "blank", HALF, 6)
    blank = frozenset(list(taken.values())[:3])
    make_shard(other, record, rows, Bright(blank))
    for row in rows_of(other):
        assert (row["seed"] == taken[row["image_id"]]) == (taken[row["image_id"]] not in blank)
        assert row["status"] == "ok"
    faults = [each for each in read_draws(other, 0).draws if each.fault]
    assert {each.seed for each in faults} == blank
    assert {(each.fault, each.reason, each.passed) for each in faults} == {
        ("Blank", "Blank", False)
    }


def test_an_image_whose_draws_are_all_blank_is_rejected_as_such(tmp_path: Path) -> None:
    store, record, rows = gated(tmp_path, NEVER, 1)
    image = planned_images(rows)[0]
    blank = frozenset(image.drawn(n).seed for n in range(5))
    make_shard(store, record, rows, Bright(blank))
    assert rows_of(store)[0]["error"] == "Blank in 5 of 5 draws"


def test_a_row_that_cannot_be_sampled_fails_at_its_first_draw_and_alone(tmp_path: Path) -> None:
    prompts = ["a", "explode", "b"]
    store, record, rows = prepare(tmp_path, prompts, gates=HALF)
    make_shard(store, record, rows, FakeSampler())
    failed = [row for row in rows_of(store) if row["status"] == "failed"]
    image = next(each for each in planned_images(rows) if each.prompt == "explode")
    assert [(row["image_id"], row["error_type"]) for row in failed] == [
        (image.image_id, "SamplingError")
    ]
    assert (failed[0]["draw"], failed[0]["draws"], failed[0]["seed"]) == (0, 1, image.seed)


def test_an_image_of_a_run_without_gates_is_not_adopted_unless_its_draw_is_taken(
    tmp_path: Path,
) -> None:
    store, record, rows = gated(tmp_path, HALF)
    plain = replace(record, spec=record.spec.model_copy(update={"gates": None}))
    make_shard(store, plain, rows, FakeSampler())
    store.delete("metadata/shard-00000.parquet")
    make_shard(store, record, rows, FakeSampler(), work_on(rows, attempt=2, look_first=True))
    passes = {image.image_id: exposure(image.seed) > 0.45 for image in planned_images(rows)}
    assert 0 < sum(passes.values()) < 20
    for row in rows_of(store):
        ended = row["status"], row["error_type"], row["draw"] == 0
        taken = passes[row["image_id"]]
        assert ended == (("ok", None, True) if taken else ("failed", "NameTaken", False))


@pytest.mark.parametrize("packing", ["none", "webdataset"])
def test_damaged_images_are_made_again_as_the_draws_that_were_taken(
    tmp_path: Path, packing: str
) -> None:
    store, record, rows = gated(tmp_path, BEST, packing=packing)
    make_shard(store, record, rows, FakeSampler())
    before = decided(store)
    path = next(iter(store.list("images")))
    data = store.read(path)
    store.put(path, data[: len(data) // 2])
    numbers = tuple(n for n, row in enumerate(before) if row["file"] == path)
    sampler = FakeSampler()
    work = work_on(rows, amends=Amendment(numbers, replaces=True), attempt=2, look_first=True)
    make_shard(store, record, rows, sampler, work)
    assert store.read(path) == data
    assert decided(store) == before
    assert set(sampler.seeds) <= {before[n]["seed"] for n in numbers}


@pytest.mark.parametrize("gates", [BEST, NEVER], ids=["best", "never"])
@pytest.mark.parametrize("packing", slow_except(["none", "webdataset"], "webdataset"))
def test_a_lost_commit_is_made_again_from_images_and_recorded_draws(
    tmp_path: Path, packing: str, gates: dict[str, Any]
) -> None:
    store, record, rows = gated(tmp_path, gates, packing=packing)
    make_shard(store, record, rows, FakeSampler())
    before = decided(store)
    store.put("metadata/shard-00000.parquet", b"damaged")
    amends = Amendment(tuple(range(len(rows))), recommits=True)
    work = work_on(rows, amends=amends, attempt=2, look_first=True)
    make_shard(store, record, rows, sampler := FakeSampler(), work)
    assert decided(store) == before
    assert sampler.seeds == []


def test_a_damaged_record_of_draws_is_named_and_its_draws_are_made_again(tmp_path: Path) -> None:
    store, record, rows = gated(tmp_path, HALF, 8)
    make_shard(store, record, rows, FakeSampler())
    before = decided(store)
    store.delete("metadata/shard-00000.parquet")
    path = next(iter(store.list("draws")))
    store.put(path, store.read(path)[:-3])
    work = work_on(rows, attempt=2, look_first=True)
    events = make_shard(store, record, rows, sampler := FakeSampler(), work)
    assert events[0] == DrawsJudged(0, 0, damaged=(path,))
    assert sampler.seeds
    assert decided(store) == before


def test_the_winner_is_sampled_again_if_only_its_scores_are_recorded(tmp_path: Path) -> None:
    store, record, rows = gated(tmp_path, BEST, 4)
    make_shard(store, record, rows, FakeSampler())
    before = decided(store)
    images = {image.image_id: image for image in planned_images(rows)}
    won = [
        LostDraw(row["image_id"], row["draw"], row["seed"], 4, True, scores=dict(row["scores"]))
        for row in before
    ]
    store_draws(store, 0, won)
    for path in ["metadata/shard-00000.parquet", *(image.file for image in images.values())]:
        store.delete(path)
    work = work_on(rows, attempt=2, look_first=True)
    make_shard(store, record, rows, sampler := FakeSampler(), work)
    assert sorted(sampler.seeds) == sorted(row["seed"] for row in before)
    assert decided(store) == before


def test_gates_report_what_they_judged(tmp_path: Path) -> None:
    store, record, rows = gated(tmp_path, HALF)
    events = make_shard(store, record, rows, sampler := FakeSampler())
    judged = [event for event in events if isinstance(event, DrawsJudged)]
    num_draws = sum(row["draws"] for row in rows_of(store))
    assert sum(event.num_draws for event in judged) == num_draws
    assert sum(event.num_draws + event.num_unused for event in judged) == len(sampler.seeds)
    assert sum(event.num_passed for event in judged) == 20
    assert sum(sum(dict(event.failed).values()) for event in judged) == num_draws - 20
    assert {name for event in judged for name, _ in event.failed} == {"exposure > 0.45"}


def test_rows_that_are_set_aside_are_not_drawn(tmp_path: Path) -> None:
    store, record, rows = gated(tmp_path, HALF, 4)
    aside = SetAsideRow(2, 3, FailureType.WORKER_KILLED, "it died")
    make_shard(store, record, rows, FakeSampler(), work_on(rows, set_aside=(aside,)))
    assert [row["status"] for row in rows_of(store)] == ["ok", "ok", "failed", "ok"]
    assert rows_of(store)[2]["error_type"] == "WorkerKilled"


def test_parts_of_a_shard_store_winners_that_the_whole_then_finds(tmp_path: Path) -> None:
    undisturbed, record, rows = gated(tmp_path / "whole", BEST, 6)
    make_shard(undisturbed, record, rows, FakeSampler())
    store, record, rows = gated(tmp_path / "parts", BEST, 6)
    whole = work_on(rows)
    for part in (whole.part([0, 2], singly=True), whole.part([1, 3, 4, 5])):
        make_shard(store, record, rows, FakeSampler(), part)
    final = replace(whole, attempt=3, look_first=True)
    make_shard(store, record, rows, sampler := FakeSampler(), final)
    assert sampler.seeds == []
    assert decided(store) == decided(undisturbed)


def test_a_gated_shard_that_is_given_up_keeps_the_images_that_its_gates_take(
    tmp_path: Path,
) -> None:
    store, record, rows = gated(tmp_path, HALF)
    make_shard(store, record, rows, FakeSampler())
    before = decided(store)
    for path in ("metadata/shard-00000.parquet", before[3]["file"]):
        store.delete(path)
    fail_shard(store, record, work_on(rows, attempt=3), rows, FailureType.TIMEOUT, "it hung")
    after = decided(store)
    assert after[:3] + after[4:] == before[:3] + before[4:]
    assert (after[3]["error_type"], after[3]["draw"]) == ("Timeout", None)
    retried = work_on(rows, amends=Amendment((3,)), attempt=2, look_first=True)
    make_shard(store, record, rows, sampler := FakeSampler(), retried)
    assert decided(store) == before
    assert len(sampler.seeds) <= 4


@pytest.mark.parametrize("gates", [None, HALF], ids=["plain", "gated"])
def test_a_shard_that_is_given_up_names_stored_files_that_tell_nothing(
    tmp_path: Path, gates: dict[str, Any] | None
) -> None:
    job: dict[str, Any] = {"provenance": {"embed": "none"}, "gates": gates}
    store, record, rows = prepare(tmp_path, [f"picture {n}" for n in range(6)], **job)
    make_shard(store, record, rows, FakeSampler())
    before = decided(store)
    for path in ("metadata/shard-00000.parquet", before[3]["file"]):
        store.delete(path)
    done = fail_shard(store, record, work_on(rows, attempt=3), rows, FailureType.TIMEOUT, "x" * 900)
    assert (done.num_ok, done.num_failed) == (0, 6)
    told = [row["error"].partition("; ")[2] for row in decided(store)]
    assert told == [UNRECOGNIZED] * 3 + [""] + [UNRECOGNIZED] * 2
    retried = work_on(rows, amends=Amendment(tuple(range(6))), attempt=2, look_first=True)
    make_shard(store, record, rows, FakeSampler(), retried)
    assert decided(store) == before


def test_a_shard_that_is_given_up_names_stored_files_that_only_scorers_can_judge(
    tmp_path: Path,
) -> None:
    scorers = {"red": loaded(lambda image: {"": float(image.pixels[0, 0, 0])})}
    job = {"scores": {"red": {"scorer": "red.py:Red"}}}
    store, record, rows = gated(tmp_path, {"require": ["red > 90"], "max_draws": 12}, 6, **job)
    make_shard(store, record, rows, FakeSampler(), scorers=scorers)
    before = decided(store)
    store.delete("metadata/shard-00000.parquet")
    fail_shard(store, record, work_on(rows, attempt=3), rows, FailureType.TIMEOUT, "it hung")
    assert {row["error"] for row in decided(store)} == {f"it hung; {UNJUDGED}"}
    retried = work_on(rows, amends=Amendment(tuple(range(6))), attempt=2, look_first=True)
    make_shard(store, record, rows, sampler := FakeSampler(), retried, scorers=scorers)
    assert decided(store) == before
    assert sampler.seeds == []


def test_rejected_images_of_a_shard_that_is_given_up_are_still_rejected(tmp_path: Path) -> None:
    store, record, rows = gated(tmp_path, NEVER, 3)
    make_shard(store, record, rows, FakeSampler())
    before = decided(store)
    store.delete("metadata/shard-00000.parquet")
    fail_shard(store, record, work_on(rows, attempt=3), rows, FailureType.TIMEOUT, "it hung")
    assert decided(store) == before


def test_draws_of_a_batch_that_does_not_fit_are_made_in_smaller_ones(tmp_path: Path) -> None:
    store, record, rows = gated(tmp_path, BEST, 6)
    make_shard(store, record, rows, sampler := FakeSampler(fits=2))
    taken = {row["image_id"]: (row["draw"], row["draws"]) for row in rows_of(store)}
    assert taken == expected(record, rows)
    assert max(sampler.batches) == 2


def test_work_that_is_drained_records_what_it_has_judged(tmp_path: Path) -> None:
    store, record, rows = gated(tmp_path, BEST)
    runner = ShardRunner(store, record, first := FakeSampler(), "here:1")  # type: ignore[arg-type]
    events = []
    for event in runner.run(work_on(rows), rows):
        events.append(event)
        if isinstance(event, DrawsJudged):
            runner.drain()
    runner.close()
    assert events[-1] == ShardLeft(0)
    known = stored_seeds(store, rows)
    assert known <= set(first.seeds)
    make_shard(store, record, rows, second := FakeSampler(), work_on(rows, look_first=True))
    taken = {row["image_id"]: (row["draw"], row["draws"]) for row in rows_of(store)}
    assert taken == expected(record, rows)
    assert known.isdisjoint(second.seeds)


def test_each_batch_that_is_named_names_a_row_once(tmp_path: Path) -> None:
    store, record, rows = gated(tmp_path, BEST, 2)
    runner = ShardRunner(store, record, FakeSampler(), "here:1")  # type: ignore[arg-type]
    named = list(runner.run(work_on(rows, isolated=True), rows))
    runner.close()
    batches = [event.rows for event in named if isinstance(event, BatchBegun)]
    assert batches
    assert all(len(set(batch)) == len(batch) for batch in batches)


def test_shards_without_gates_have_no_draws(tmp_path: Path) -> None:
    store, record, rows = prepare(tmp_path, ["a", "b"])
    make_shard(store, record, rows, FakeSampler())
    assert {(row["draw"], row["draws"], row["gate"]) for row in rows_of(store)} == {
        (None, None, None)
    }
    assert store.list("draws") == {}


def test_every_draw_of_an_image_has_its_pictures_and_one_without_them_fails_alone(
    tmp_path: Path,
) -> None:
    for number in (0, 2):
        (tmp_path / f"{number}.png").write_bytes(png(40, 40, number))
    planned = [{"prompt": f"p{n}", "init_image": f"{n}.png"} for n in range(3)]
    gates = {"best_of": 3, "rank_by": "sharpness", "max_draws": 5}
    store, record = begin(tmp_path, planned, gates=gates)
    rows = read_shard(store, record.layout, 0)
    make_shard(store, record, rows, sampler := PictureSampler())
    ended = {row["prompt"]: (row["error_type"], row["draws"]) for row in rows_of(store)}
    assert ended == {"p0": (None, 3), "p1": ("InputMissing", 1), "p2": (None, 3)}
    assert all(request.images.init_image is not None for request in sampler.requests)
    assert {len(row["inputs"]) for row in rows_of(store)} == {1}

    (tmp_path / "1.png").write_bytes(png(40, 40, 1))
    missing = [row["prompt"] for row in rows_of(store)].index("p1")
    work = work_on(rows, amends=Amendment((missing,)), attempt=2, look_first=True)
    make_shard(store, record, rows, PictureSampler(), work)
    assert [row["draws"] for row in rows_of(store)] == [3, 3, 3]
    assert {row["status"] for row in rows_of(store)} == {"ok"}
