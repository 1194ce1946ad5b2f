"""Scores in the commits of a run: of the bytes as stored, in every format, also when adopted."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.fakes.fake_runs import FakeSampler, prepare, work_on
from support.fakes.fake_scorers import loaded

from nightpress.diffusion_core.sampling.sampler import ImageRequest, SampledBatch, SamplingParams
from nightpress.pipelines.image_files.encoding import decoded
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.records import FailureType
from nightpress.pipelines.run_directory.commit import read_commit, shard_path
from nightpress.pipelines.run_directory.metadata_rows import metadata_rows
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.scoring import image_scorer
from nightpress.pipelines.scoring.measurements import measure
from nightpress.pipelines.scoring.perceptual_hash import perceptual_hash
from nightpress.pipelines.scoring.scorer import LoadedScorer, ScoredImage, ScorerNote
from nightpress.pipelines.shards import runner as runner_module
from nightpress.pipelines.shards.events import BatchDone, BatchSampled
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.work import SetAsideRow
from nightpress.pipelines.storage import Store

FORMATS = [("png", None), ("webp", None), ("webp", 60), ("jpeg", None)]


class NoisySampler(FakeSampler):
    """Fills each image with noise that its seed decides, which lossy formats change."""

    def sample(
        self,
        requests: Sequence[ImageRequest],
        params: SamplingParams,
        batch_size: int | None = None,
    ) -> SampledBatch:
        made = super().sample(requests, params, batch_size)
        pixels = np.stack(
            [
                np.random.default_rng(request.seed).integers(0, 256, each.shape, np.uint8)
                for each, request in zip(made.pixels, requests, strict=True)
            ]
        )
        return SampledBatch(pixels, made.faults)


class ScoredRun:
    """A run of four images in one shard; the last of them fails."""

    def __init__(self, folder: Path, packing: str = "none", **images: Any) -> None:
        prompts = ["a", "b", "c", "nan"]
        self.store, record, self.rows = prepare(folder, prompts, packing=packing)
        spec = ImagesSpec.model_validate({"packing": packing, **images})
        spec = record.spec.model_copy(update={"images": spec})
        self.record: RunRecord = replace(record, spec=spec)

    def make(
        self, scorers: Mapping[str, LoadedScorer] | None = None, **work: Any
    ) -> list[dict[str, Any]]:
        """Make what is missing; returns the metadata rows."""
        runner = ShardRunner(
            self.store,
            self.record,
            NoisySampler(),  # type: ignore[arg-type]
            "here:1",
            scorers=scorers or {},
        )
        self.events = list(runner.run(work_on(self.rows, look_first=True, **work), self.rows))
        runner.close()
        return metadata_rows(read_commit(self.store, 0))


def as_stored(store: Store, row: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(decoded(image_bytes(store, row)).convert("RGB"))


@pytest.mark.parametrize("packing", ["none", "parquet"])
@pytest.mark.parametrize(("kind", "quality"), FORMATS)
def test_scores_are_those_of_the_bytes_as_stored(
    tmp_path: Path, kind: str, quality: int | None, packing: str
) -> None:
    run = ScoredRun(tmp_path, packing, format=kind, quality=quality)
    rows = run.make()
    for row in rows[:3]:
        pixels = as_stored(run.store, row)
        assert row["scores"] == measure(pixels)
        assert row["perceptual_hash"] == perceptual_hash(pixels)
    assert rows[3]["status"] == "failed"
    assert (rows[3]["scores"], rows[3]["perceptual_hash"]) == (None, None)


@pytest.mark.parametrize(("kind", "quality"), FORMATS)
def test_an_adopted_image_has_the_scores_that_it_had(
    tmp_path: Path, kind: str, quality: int | None
) -> None:
    scorers = {"mean": loaded(lambda image: {"": float(image.pixels.mean())})}
    run = ScoredRun(tmp_path, format=kind, quality=quality)
    before = run.make(scorers)
    run.store.delete(shard_path(0))
    after = run.make(scorers)
    assert [row["sampling_s"] for row in after[:3]] == [None] * 3  # they were found
    assert [row["scores"] for row in after] == [row["scores"] for row in before]
    assert [row["perceptual_hash"] for row in after] == [row["perceptual_hash"] for row in before]


def test_the_stored_images_of_a_shard_without_rows_to_try_are_scored(tmp_path: Path) -> None:
    scorers = {"mean": loaded(lambda image: {"": float(image.pixels.mean())})}
    run = ScoredRun(tmp_path)
    before = run.make(scorers)
    for path in (shard_path(0), before[1]["file"]):
        run.store.delete(path)
    aside = [SetAsideRow(row, 4, FailureType.WORKER_KILLED, "it died") for row in range(4)]
    after = run.make(scorers, set_aside=tuple(aside))
    assert [row["status"] for row in after] == ["ok", "failed", "ok", "failed"]
    assert {row["error_type"] for row in after} == {None, "WorkerKilled"}
    assert [after[n]["scores"] for n in (0, 2)] == [before[n]["scores"] for n in (0, 2)]
    assert not any(isinstance(event, BatchSampled) for event in run.events)
    assert run.store.size(before[1]["file"]) is None


def test_scorers_get_the_row_of_each_image(tmp_path: Path) -> None:
    seen: list[tuple[object, float]] = []

    def note(image: ScoredImage) -> dict[str, float]:
        seen.append((image.columns["prompt"], float(image.pixels.mean())))
        return {"": seen[-1][1]}

    run = ScoredRun(tmp_path)
    rows = run.make({"mean": loaded(note)})
    assert sorted(seen) == sorted((row["prompt"], row["scores"]["mean"]) for row in rows[:3])
    assert set(seen[0][0:1]) <= {"a", "b", "c"}


def test_an_image_that_a_scorer_fails_on_is_ok_and_its_score_is_null(tmp_path: Path) -> None:
    def pick(image: ScoredImage) -> dict[str, float]:
        if image.columns["prompt"] == "b":
            raise RuntimeError("no text found")
        return {"": 1.0}

    rows = ScoredRun(tmp_path).make({"text": loaded(pick)})
    assert [row["status"] for row in rows] == ["ok", "ok", "ok", "failed"]
    assert [row["scores"]["text"] for row in rows[:3]] == [1.0, None, 1.0]


def test_a_scorer_that_hangs_is_noticed_as_a_batch_that_hangs_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "SCORING_HANG_S", 0.05)
    entered, leave = threading.Event(), threading.Event()

    def hang(image: ScoredImage) -> dict[str, float]:
        entered.set()
        leave.wait(10)
        return {"": 1.0}

    run = ScoredRun(tmp_path)
    runner = ShardRunner(
        run.store,
        run.record,
        NoisySampler(),  # type: ignore[arg-type]
        "here:1",
        scorers={"slow": loaded(hang)},
    )
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(lambda: list(runner.run(work_on(run.rows), run.rows)))
        assert entered.wait(10)
        time.sleep(0.1)
        assert runner.is_stuck(0)
        leave.set()
        work.result()
    assert not runner.is_stuck(0)
    runner.close()


def test_scorers_that_take_long_together_do_not_hang_unless_one_image_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, seen = [0.0], list[tuple[bool, bool]]()
    monkeypatch.setattr(image_scorer, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def slow(image: ScoredImage) -> dict[str, float]:
        clock[0] += 200.0
        seen.append((runner.is_stuck(0), runner.is_stuck(0, scoring_limit_s=150.0)))
        return {"": 1.0}

    run = ScoredRun(tmp_path)
    runner = ShardRunner(
        run.store,
        run.record,
        NoisySampler(),  # type: ignore[arg-type]
        "here:1",
        scorers={"one": loaded(slow), "two": loaded(slow)},
    )
    events = list(runner.run(work_on(run.rows), run.rows))
    runner.close()
    assert seen == [(False, True)] * 6  # 1,200 s together, and 400 s an image
    worked = [event.scoring_s for event in events if isinstance(event, BatchDone | BatchSampled)]
    assert sum(worked) == 1200.0
    scoring_s = [row["scoring_s"] for row in read_commit(run.store, 0).to_pylist()]
    assert scoring_s == [400.0] * 3 + [None]


def test_what_is_told_of_scorers_travels_with_the_batches(tmp_path: Path) -> None:
    def fail(image: ScoredImage) -> dict[str, float]:
        raise RuntimeError("no text found")

    run = ScoredRun(tmp_path)
    run.make({"text": loaded(fail)})
    notes = [note for each in run.events if isinstance(each, BatchDone) for note in each.notes]
    assert notes == [ScorerNote("text", "no text found", 3, True)]
