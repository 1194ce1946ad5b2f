"""TensorBoard beside a training: asked for in the job, and no part of what is trained."""

import sys
from pathlib import Path

import pytest
from support.training_jobs import autoencoder_job, draw_pictures

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.training.events import Finished, TrainingEvent
from nightpress.pipelines.training.loop import train
from nightpress.pipelines.training.spec import TrainSpec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw_pictures(tmp_path / "pictures")
    return tmp_path


def job(root: Path, folder: Path | str | None, steps: int = 2) -> TrainSpec:
    told = None if folder is None else str(folder)
    return autoencoder_job(root, training={"max_train_steps": steps, "tensorboard": told})


def run(root: Path, spec: TrainSpec) -> list[TrainingEvent]:
    return list(train(spec, cache=root / "cache"))


def test_a_job_writes_its_figures_there_and_each_start_a_file(root: Path) -> None:
    board = root / "board"
    run(root, job(root, board))
    (first,) = (board / "tiny").iterdir()
    assert b"train/loss" in first.read_bytes()
    run(root, job(root, board, steps=4))
    assert len(list((board / "tiny").iterdir())) == 2


def test_a_training_goes_on_with_it_or_without(root: Path) -> None:
    run(root, job(root, None))
    assert isinstance(run(root, job(root, root / "board", steps=3))[-1], Finished)
    assert isinstance(run(root, job(root, None, steps=4))[-1], Finished)


def test_without_tensorboardx_it_is_told_in_a_line_and_nothing_is_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = [name for name in sys.modules if name.partition(".")[0] == "tensorboardX"]
    for name in missing:
        monkeypatch.delitem(sys.modules, name)
    elsewhere = [path for path in sys.path if not Path(path, "tensorboardX").exists()]
    monkeypatch.setattr(sys, "path", elsewhere)
    spec = job(root, root / "board")
    with pytest.raises(SpecError, match=r"needs tensorboardX: pip install") as told:
        run(root, spec)
    assert "\n" not in str(told.value)
    assert not Path(spec.url).exists()


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_written(root: Path) -> None:
    (root / "file").write_text("")
    spec = job(root, root / "file" / "board")
    with pytest.raises(SpecError, match=r"training\.tensorboard: .*file/board: Not a directory"):
        run(root, spec)
    assert not Path(spec.url).exists()


def test_a_url_is_refused(root: Path) -> None:
    with pytest.raises(SpecError, match=r"training\.tensorboard.*a folder of this machine"):
        job(root, "s3://bucket/board")
