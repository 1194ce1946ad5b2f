"""The progress of a training run, as any machine reads it from the store."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.training_jobs import autoencoder_job, draw_images

from nightpress.pipelines.errors import RunNotFound, UnsupportedFormat
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.events import CheckpointSaved, StepDone
from nightpress.pipelines.training.loop import train
from nightpress.pipelines.training.runs import TrainingRun, open_training
from nightpress.pipelines.training.spec import TrainSpec


@pytest.fixture
def job(tmp_path: Path) -> TrainSpec:
    draw_images(tmp_path / "pictures")
    return autoencoder_job(tmp_path)


def opened(spec: TrainSpec, current: TrainSpec | None = None) -> TrainingRun:
    run = open_training(Store(spec.url), current)
    assert run is not None
    return run


def test_a_finished_training_is_complete_and_names_its_files(job: TrainSpec) -> None:
    events = list(train(job, cache=Path(job.output).parent / "cache"))
    progress = opened(job).progress()
    last = [event.metrics for event in events if isinstance(event, StepDone)][-1]
    saved = [event for event in events if isinstance(event, CheckpointSaved)][-1]
    assert progress.complete
    assert (progress.step, progress.max_train_steps) == (6, 6)
    assert progress.loss == last.loss
    assert progress.left_s == 0
    assert progress.checkpoint is not None
    assert (progress.checkpoint.path, progress.checkpoint.num_bytes) == (
        saved.path,
        saved.num_bytes,
    )
    assert progress.checkpoint.at == last.at.astimezone(UTC).isoformat(timespec="seconds")
    for path in (progress.samples, progress.model):
        assert path is not None
        assert (Path(job.url) / path).exists()


def test_the_progress_of_an_interrupted_training_is_that_of_its_last_checkpoint(
    job: TrainSpec,
) -> None:
    events = train(job, cache=Path(job.output).parent / "cache")
    for event in events:
        if isinstance(event, StepDone) and event.metrics.step == 5:
            break
    events.close()
    progress = opened(job).progress()
    assert progress.step == 4
    assert not progress.complete
    assert progress.model is None
    assert progress.images_per_s is not None
    assert progress.left_s == pytest.approx(2 * 4 / progress.images_per_s)


def test_a_finished_training_is_incomplete_for_a_longer_job(job: TrainSpec) -> None:
    list(train(job, cache=Path(job.output).parent / "cache"))
    options = job.training.model_copy(update={"max_train_steps": 12})
    progress = opened(job, job.model_copy(update={"training": options})).progress()
    assert (progress.step, progress.max_train_steps, progress.complete) == (6, 12, False)


def test_there_is_no_progress_before_the_first_checkpoint(job: TrainSpec) -> None:
    events = train(job, cache=Path(job.output).parent / "cache")
    for event in events:
        if isinstance(event, StepDone):
            break
    events.close()
    run = opened(job)
    progress = run.progress()
    assert (progress.step, progress.checkpoint, progress.loss, progress.left_s) == (
        *(0, None, None, None),
    )
    assert run.recipe == "autoencoder"
    assert datetime.fromisoformat(run.record.created_at).tzinfo is not None


def test_an_empty_folder_holds_no_training_and_an_invalid_record_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert open_training(store) is None
    store.put("train.json", b"{}")
    with pytest.raises(RunNotFound, match=r"train\.json: not a training record"):
        open_training(store)


def test_a_training_in_a_newer_format_is_refused(job: TrainSpec) -> None:
    list(train(job, cache=Path(job.output).parent / "cache"))
    store = Store(job.url)
    record = json.loads(store.read("train.json"))
    assert record["format_version"] == 1
    store.put("train.json", json.dumps({**record, "format_version": 2}).encode())
    message = (
        f"{store.url}: this training run was written in format 2; this nightpress reads up to "
        "format 1. Upgrade nightpress."
    )
    with pytest.raises(UnsupportedFormat, match=f"^{re.escape(message)}$"):
        open_training(store)
    with pytest.raises(UnsupportedFormat, match=f"^{re.escape(message)}$"):
        list(train(job, cache=Path(job.output).parent / "cache"))
