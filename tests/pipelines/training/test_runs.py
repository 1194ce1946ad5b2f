"""How far a training is, as any machine reads it from the store."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.training_jobs import autoencoder_job, draw_pictures

from nightpress.pipelines.errors import RunNotFound
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.events import CheckpointSaved, StepDone
from nightpress.pipelines.training.loop import train
from nightpress.pipelines.training.runs import TrainingRun, open_training
from nightpress.pipelines.training.spec import TrainSpec


@pytest.fixture
def job(tmp_path: Path) -> TrainSpec:
    draw_pictures(tmp_path / "pictures")
    return autoencoder_job(tmp_path)


def opened(spec: TrainSpec, now: TrainSpec | None = None) -> TrainingRun:
    run = open_training(Store(spec.url), now)
    assert run is not None
    return run


def test_a_finished_training_is_complete_and_names_what_it_left(job: TrainSpec) -> None:
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


def test_an_interrupted_training_is_as_far_as_its_last_checkpoint(job: TrainSpec) -> None:
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


def test_a_longer_job_is_not_complete_where_the_shorter_one_was(job: TrainSpec) -> None:
    list(train(job, cache=Path(job.output).parent / "cache"))
    options = job.training.model_copy(update={"max_train_steps": 12})
    progress = opened(job, job.model_copy(update={"training": options})).progress()
    assert (progress.step, progress.max_train_steps, progress.complete) == (6, 12, False)


def test_before_the_first_checkpoint_there_is_nothing_to_tell(job: TrainSpec) -> None:
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


def test_an_empty_folder_holds_no_training_and_another_file_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert open_training(store) is None
    store.put("train.json", b"{}")
    with pytest.raises(RunNotFound, match="no training of this version"):
        open_training(store)
