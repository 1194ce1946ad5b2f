"""TensorBoard files are written if the job says so, and do not affect training."""

import sys
from pathlib import Path

import pytest
from support.training_jobs import autoencoder_job, draw_images

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.training.events import Finished, TrainingEvent
from nightpress.pipelines.training.loop import train
from nightpress.pipelines.training.spec import TrainSpec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw_images(tmp_path / "pictures")
    return tmp_path


def job(root: Path, folder: Path | str | None, steps: int = 2) -> TrainSpec:
    tensorboard = None if folder is None else str(folder)
    return autoencoder_job(root, training={"max_train_steps": steps, "tensorboard": tensorboard})


def run(root: Path, spec: TrainSpec) -> list[TrainingEvent]:
    return list(train(spec, cache=root / "cache"))


def test_each_start_writes_one_tensorboard_file(root: Path) -> None:
    folder = root / "board"
    run(root, job(root, folder))
    (first,) = (folder / "tiny").iterdir()
    assert b"train/loss" in first.read_bytes()
    run(root, job(root, folder, steps=4))
    assert len(list((folder / "tiny").iterdir())) == 2


@pytest.mark.slow
def test_tensorboard_may_be_switched_on_or_off_on_resume(root: Path) -> None:
    run(root, job(root, None))
    assert isinstance(run(root, job(root, root / "board", steps=3))[-1], Finished)
    assert isinstance(run(root, job(root, None, steps=4))[-1], Finished)


def test_a_missing_tensorboardx_is_reported_before_anything_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = [name for name in sys.modules if name.partition(".")[0] == "tensorboardX"]
    for name in missing:
        monkeypatch.delitem(sys.modules, name)
    elsewhere = [path for path in sys.path if not Path(path, "tensorboardX").exists()]
    monkeypatch.setattr(sys, "path", elsewhere)
    spec = job(root, root / "board")
    with pytest.raises(SpecError, match=r"requires tensorboardX: pip install") as caught:
        run(root, spec)
    assert "\n" not in str(caught.value)
    assert not Path(spec.url).exists()


def test_a_folder_that_cannot_be_created_is_reported_before_anything_is_written(root: Path) -> None:
    (root / "file").write_text("")
    spec = job(root, root / "file" / "board")
    with pytest.raises(SpecError, match=r"training\.tensorboard: .*file/board: Not a directory"):
        run(root, spec)
    assert not Path(spec.url).exists()


def test_a_url_is_refused(root: Path) -> None:
    with pytest.raises(SpecError, match=r"training\.tensorboard.*only a local folder"):
        job(root, "s3://bucket/board")
