"""Training on a real Ray: several workers, lost workers, signals, and refused jobs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import safetensors.torch
import torch
import yaml
from support.training_jobs import autoencoder_job, denoiser_job, draw_images, save_parts

from nightpress.diffusion_core.errors import SettingsError
from nightpress.jobs import training
from nightpress.jobs.cli import exit_code
from nightpress.jobs.errors import ClusterError, RunBlocked, StoppedOnRequest
from nightpress.jobs.training import train
from nightpress.jobs.training_worker import TrainingCoordinator, driver_error
from nightpress.pipelines.errors import DataError, SpecError, StoreDenied
from nightpress.pipelines.run_directory.lease import FreeLease
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.events import (
    CheckpointSaved,
    ImagesRead,
    Resumed,
    StepDone,
    Stopped,
    TrainingEvent,
    WaitingForRoom,
)
from nightpress.pipelines.training.layout import checkpoint_path, checkpoint_steps
from nightpress.pipelines.training.loop import train as train_here
from nightpress.pipelines.training.metrics import read_metrics
from nightpress.pipelines.training.sections import TrainClusterSpec
from nightpress.pipelines.training.spec import TrainSpec

TWO = {"workers": 2}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images and the parts of a denoiser; packed data is cached in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw_images(tmp_path / "pictures")
    save_parts(tmp_path / "parts")
    return tmp_path


def weights(spec: TrainSpec, step: int | None = None) -> dict[str, torch.Tensor]:
    """The trained tensors of a checkpoint, by default the last one."""
    store = Store(spec.url)
    step = checkpoint_steps(store)[-1] if step is None else step
    tensors = safetensors.torch.load(store.read(checkpoint_path(step)))
    return {key: value for key, value in tensors.items() if key.startswith("model.")}


def losses(spec: TrainSpec) -> list[float]:
    return [float(loss) for loss in read_metrics(Store(spec.url))["loss"].to_pylist()]


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of any weight."""
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


def training_workers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.chaos
@pytest.mark.usefixtures("local_ray")
def test_two_workers_train_the_same_weights_as_one_even_if_a_worker_dies(root: Path) -> None:
    steps = {"max_train_steps": 24, "checkpointing_steps": 6, "checkpoints_total_limit": 4}
    alone = denoiser_job(root, name="alone", training=steps)
    undisturbed = denoiser_job(root, name="undisturbed", cluster=TWO, training=steps)
    disturbed = denoiser_job(root, name="disturbed", cluster=TWO, training=steps)
    list(train_here(alone, cache=root / "cache"))
    result = train(undisturbed)
    assert result.step == 24
    assert Path(result.model, "model_index.json").is_file()
    # Sums over a batch are rounded in another order.
    assert largest_difference(weights(alone, 6), weights(undisturbed, 6)) < 1e-4
    assert losses(undisturbed) == pytest.approx(losses(alone), rel=1e-3)

    killed: list[int] = []
    events: list[TrainingEvent] = []

    def kill_once(event: TrainingEvent) -> None:
        events.append(event)
        if isinstance(event, CheckpointSaved) and not killed:
            victim = training_workers()[-1]
            killed.append(victim.pid)
            victim.kill()

    assert train(disturbed, kill_once).step == 24
    assert killed
    assert any(isinstance(event, Resumed) for event in events)
    assert largest_difference(weights(undisturbed), weights(disturbed)) == 0


@pytest.mark.slow
def test_sigterm_stops_with_a_checkpoint_and_exit_code_4(root: Path) -> None:
    spec = autoencoder_job(root, training={"max_train_steps": 400, "checkpointing_steps": 1000})
    with _started(root, spec) as process:
        _wait_for(lambda: (Path(spec.url) / "train.json").exists(), process)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 4, stderr
    steps = checkpoint_steps(Store(spec.url))
    assert len(steps) == 1
    assert f"training stopped at step {steps[0]:,}; run the same command again to resume" in stderr


@pytest.mark.chaos
def test_a_second_interruption_stops_at_once(root: Path) -> None:
    spec = autoencoder_job(root, training={"max_train_steps": 100_000, "train_batch_size": 512})
    with _started(root, spec) as process:
        _wait_for(lambda: (Path(spec.url) / "train.json").exists(), process)
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=40)
    assert process.returncode == 4, stderr
    assert "Traceback" not in stderr


def test_a_thread_that_ray_never_wakes_does_not_keep_the_process_alive() -> None:
    hanging = (
        "import threading; from nightpress.jobs import training;"
        "training._run_in_thread(threading.Event().wait)"
    )
    subprocess.run([sys.executable, "-c", hanging], check=True, timeout=60)


def test_every_local_path_of_a_job_is_absolute_for_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts/vae").mkdir(parents=True)
    spec = denoiser_job(
        Path(),
        data={"source": ["tables"], "roots": ["pictures", "./more/", "s3://bucket/a"]},
        training={"tensorboard": "logs"},
    )
    sent = training.with_absolute_paths(spec)
    assert sent.data.source == [f"{tmp_path}/tables"]
    assert sent.data.roots == [f"{tmp_path}/pictures", f"{tmp_path}/more", "s3://bucket/a"]
    assert sent.output == f"{tmp_path}/runs"
    assert sent.training.tensorboard == f"{tmp_path}/logs"
    assert f"{tmp_path}/parts/vae" in sent.inputs
    assert {*sent.data.source, *sent.data.roots} <= set(sent.inputs)


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize(
    ("job", "sections", "error", "message"),
    [
        pytest.param(
            *(denoiser_job, {"data": {"source": "ROOT/empty"}}, DataError, "empty"),
            marks=pytest.mark.chaos,
        ),
        (denoiser_job, {"training": {"train_batch_size": 5}, "cluster": TWO}, SpecError, "evenly"),
        (denoiser_job, {"cluster": {"workers": 99}}, ClusterError, "room for"),
        (denoiser_job, {"output": "/proc/nowhere"}, StoreDenied, "/proc/nowhere"),
    ],
)
def test_a_job_that_cannot_run_is_refused_in_one_line_before_anything_is_written(
    root: Path, job: Callable[..., TrainSpec], sections: Any, error: type[Exception], message: str
) -> None:
    (root / "empty").mkdir()
    if "data" in sections:
        sections = {"data": {"source": str(root / "empty")}}
    spec = job(root, **sections)
    with pytest.raises(error, match=message) as caught:
        train(spec)
    assert "\n" not in str(caught.value)
    assert not Path(spec.url).exists()


@pytest.mark.parametrize(("room", "first_s"), [(2, 20), (9, 20), (1, 3)])
def test_workers_that_do_not_start_are_reported_even_if_the_cluster_is_large_enough(
    monkeypatch: pytest.MonkeyPatch, room: int, first_s: float
) -> None:
    monkeypatch.setattr(training, "room", lambda cpus, gpus: room)
    monkeypatch.setattr(training, "waiting_line", lambda what, cpus, gpus: f"waiting for {what}")
    monkeypatch.setattr(training, "resolved_gpus", lambda gpus: 0.0)
    notices = training.RoomNotices(TrainClusterSpec(), 2)

    def reported(start: int, end: int, awaited: bool) -> list[int]:
        return [now for now in range(start, end) for _ in notices.due(float(now), lambda: awaited)]

    first = reported(1000, 1200, awaited=True)
    assert first_s <= first[0] - 1000 <= first_s + training.LOOK_S
    assert 60 <= first[1] - first[0] <= 60 + training.LOOK_S
    assert reported(1200, 5000, awaited=False) == []
    after_a_loss = reported(5000, 5050, awaited=True)
    assert first_s <= after_a_loss[0] - 5000 <= first_s + training.LOOK_S


def test_no_worker_is_awaited_once_the_training_is_over() -> None:
    coordinator = TrainingCoordinator(FreeLease())
    assert not coordinator.is_over()
    coordinator.report(ImagesRead(1))
    assert not coordinator.is_over()
    coordinator.report(Stopped(3))
    assert coordinator.is_over()
    failed = TrainingCoordinator(FreeLease())
    failed.fail(DataError("no images"))
    assert failed.is_over()


@pytest.mark.parametrize(
    ("error", "before", "after"),
    [(SettingsError("out of memory"), 2, 1), (StoreDenied("access denied"), 2, 4)],
)
def test_what_an_error_of_the_workers_means_depends_on_whether_something_is_written(
    error: Exception, before: int, after: int
) -> None:
    coordinator = TrainingCoordinator(FreeLease())
    assert exit_code(driver_error(error, coordinator.has_begun())) == before
    coordinator.record_lease(FreeLease(1))
    assert exit_code(driver_error(error, coordinator.has_begun())) == after


@ray.remote(num_cpus=0)
class Joiner:
    """A stand-in for a worker."""


@pytest.mark.usefixtures("local_ray")
def test_workers_are_awaited_until_one_has_joined_and_again_once_all_are_lost() -> None:
    coordinator = ray.remote(TrainingCoordinator).options(num_cpus=0).remote(FreeLease())
    workers = training.Workers(coordinator)
    assert workers.are_awaited()
    joiners = [Joiner.remote() for _ in range(2)]
    for joiner in joiners:
        assert ray.get(coordinator.join.remote(joiner))
    assert not workers.are_awaited()
    ray.kill(joiners[0])
    for _ in range(10):
        assert not workers.are_awaited()
        time.sleep(0.05)
    ray.kill(joiners[1])
    _wait_until(workers.are_awaited)
    ray.get(coordinator.report.remote(Stopped(3)))
    assert not workers.are_awaited()
    ray.kill(coordinator)


@ray.remote(num_cpus=4)
class Busy:
    """Takes all CPUs of `local_ray`."""


@pytest.mark.chaos
@pytest.mark.usefixtures("local_ray")
def test_a_training_that_waits_for_room_says_so_and_ends_at_once_when_asked_to(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "FIRST_NOTICE_S", 0.0)
    busy = Busy.remote()
    ray.get(busy.__ray_ready__.remote())
    events: list[TrainingEvent] = []

    def interrupt(event: TrainingEvent) -> None:
        events.append(event)
        # The room that its workers then find is left to others.
        threading.Timer(1.0, ray.kill, [busy]).start()
        signal.raise_signal(signal.SIGINT)

    spec = autoencoder_job(root)
    with pytest.raises(StoppedOnRequest, match="waiting for room for the workers; run the same"):
        train(spec, interrupt)
    assert [type(event) for event in events] == [WaitingForRoom]
    assert not Path(spec.url).exists()


def _wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within 20 s")


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_diverged_training_is_not_retried(root: Path) -> None:
    spec = denoiser_job(root, cluster=TWO, training={"max_train_steps": 30, "learning_rate": 1e30})
    events: list[TrainingEvent] = []
    with pytest.raises(RunBlocked, match=r"the loss is (nan|inf)") as caught:
        train(spec, events.append)
    seen = [event.metrics.step for event in events if isinstance(event, StepDone)]
    assert seen == sorted(set(seen))  # no step was retried
    assert exit_code(caught.value) == 1


@contextmanager
def _started(root: Path, spec: TrainSpec) -> Iterator["subprocess.Popen[str]"]:
    """Run the command in a process, and kill it afterwards."""
    job = root / "tiny.yaml"
    job.write_text(yaml.safe_dump(spec.as_dict()))
    process = subprocess.Popen(
        [sys.executable, "-c", "from nightpress.jobs.cli import main; main()", "train", str(job)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "XDG_CACHE_HOME": str(root / "cache")},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    for _ in range(3000):
        if condition():
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1])
        time.sleep(0.1)
    raise AssertionError("the training did not begin")


@ray.remote(num_cpus=0)
class Notebook:
    """Something of the caller's own on the same Ray."""

    def answer(self) -> int:
        return 42


@pytest.mark.chaos
@pytest.mark.usefixtures("local_ray")
def test_an_interrupted_training_ends_its_workers_and_nothing_else_of_the_callers_ray(
    root: Path,
) -> None:
    notebook = Notebook.remote()
    spec = autoencoder_job(root, training={"max_train_steps": 100_000})

    def interrupt(event: TrainingEvent) -> None:
        if isinstance(event, StepDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(spec, interrupt)
    assert ray.is_initialized()
    assert ray.get(notebook.answer.remote()) == 42
    _, alive = psutil.wait_procs(training_workers(), timeout=30)
    assert alive == []
    ray.kill(notebook)
