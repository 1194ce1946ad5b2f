"""What runs in the workers of a training job, the actor between them and the driver, and what their
errors mean to the driver."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray.exceptions import RayError

from nightpress.diffusion_core.acceleration.numerics import fix_numerics
from nightpress.diffusion_core.errors import DiffusionError, SettingsError
from nightpress.diffusion_core.silence_libraries import silence_process
from nightpress.jobs.errors import NightpressError, RunBlocked, RunStopped, in_mid_run
from nightpress.pipelines.errors import (
    PipelineError,
    StoreDenied,
    StoreError,
    StoreMissing,
    TrainingDiverged,
)
from nightpress.pipelines.run_directory.lease import FreeLease, Lease, held
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.events import Finished, ImagesRead, Stopped, TrainingEvent
from nightpress.pipelines.training.spec import train_spec


class TrainingCoordinator:
    """A Ray actor that passes events from the workers to the driver, and requests back to them."""

    def __init__(self, free: FreeLease) -> None:
        self._free = free
        self._events: list[TrainingEvent] = []
        self._error: Exception | None = None
        self._stop = self._aborted = self._is_over = self._has_begun = False
        self._workers: list[Any] = []

    def join(self, worker: Any) -> bool:
        """Note the Ray handle of a worker that starts; return whether it has anything to do.

        It has not if the training was aborted, or failed in a way that a restart cannot fix.
        """
        self._workers.append(worker)
        return self._error is None and not self._aborted

    def abort(self) -> list[Any]:
        """End the training: workers that start from now on return at once.

        Returns:
            The Ray handles of all workers so far, for the driver to end.
        """
        self._aborted = True
        return self._workers

    def joined(self, start: int) -> list[Any]:
        """The Ray handles of the workers that have joined so far, without the first `start`."""
        return self._workers[start:]

    def is_over(self) -> bool:
        """Whether the training has ended, so that no worker needs to join any more."""
        return self._is_over or self._error is not None

    def report(self, event: TrainingEvent) -> bool:
        """Store an event for the driver; return whether the workers should stop."""
        self._is_over = self._is_over or isinstance(event, Finished | Stopped)
        self._events.append(event)
        return self._stop

    def free_lease(self) -> FreeLease:
        """The lease to acquire: the one that the driver found free, or the workers' own."""
        return self._free

    def record_lease(self, own: FreeLease) -> None:
        """Store the workers' own lease, so that their replacements may acquire it again."""
        self._free, self._has_begun = own, True

    def has_begun(self) -> bool:
        """Whether a worker has held the lease, so that something is written."""
        return self._has_begun

    def take_events(self) -> list[TrainingEvent]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def fail(self, error: Exception) -> None:
        """Store an error that a retry cannot fix; only the first one is kept."""
        self._error = self._error or error

    def error(self) -> Exception | None:
        """The error passed to `fail`, if any."""
        return self._error

    def request_stop(self) -> None:
        """Ask the workers to stop after the current step."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Whether the workers should stop."""
        return self._stop


def worker_loop(config: dict[str, Any]) -> None:
    """Run the training loop in one worker of the trainer."""
    import torch
    from ray import train as ray_train
    from ray.train.torch import get_device

    from nightpress.pipelines.training.loop import train
    from nightpress.pipelines.training.stepping import WorkerRank

    silence_process()
    coordinator = config["coordinator"]
    if not ray.get(coordinator.join.remote(ray.get_runtime_context().current_actor)):
        return
    spec = train_spec(config["spec"])
    fix_numerics(spec.cluster.cpus_per_worker if str(get_device()) == "cpu" else 0)
    context = ray_train.get_context()
    worker = WorkerRank(context.get_world_rank(), context.get_world_size(), str(get_device()))
    should_stop = StopPoller(coordinator)
    hold_lease = partial(_hold_lease, coordinator)
    try:
        for event in train(spec, worker, should_stop, store=config["store"], hold_lease=hold_lease):
            # One worker per machine packs the data, and it need not be the main one.
            if worker.is_main or isinstance(event, ImagesRead):
                should_stop.update(ray.get(coordinator.report.remote(event)))
    except torch.OutOfMemoryError as error:
        ray.get(coordinator.fail.remote(_out_of_memory(error)))
        raise
    except (PipelineError, DiffusionError) as error:
        ray.get(coordinator.fail.remote(error))
        raise


@contextmanager
def _hold_lease(coordinator: Any, store: Store) -> Iterator[Lease]:
    """Hold the lease in the main worker, so that a worker that replaces it can acquire it again."""
    with held(store, ray.get(coordinator.free_lease.remote())) as lease:
        ray.get(coordinator.record_lease.remote(lease.handover))
        yield lease


def _out_of_memory(error: Exception) -> SettingsError:
    reason = str(error).split(". ")[0]
    return SettingsError(
        f"the device ran out of memory ({reason}); to use less, set "
        "training.gradient_checkpointing: true or training.mixed_precision: bf16, raise "
        "training.gradient_accumulation_steps, or lower training.resolution"
    )


class StopPoller:
    """Whether the driver wants the workers to stop, polled without waiting for the answer."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator
        self._answer = coordinator.stop_requested.remote()
        self._stop = False

    def update(self, stop: bool) -> None:
        """Take into account an answer that another call returned."""
        self._stop = self._stop or stop

    def __call__(self) -> bool:
        """Return the latest answer, and ask again once it has arrived."""
        ready, _ = ray.wait([self._answer], timeout=0)
        if ready:
            self.update(ray.get(self._answer))
            self._answer = self._coordinator.stop_requested.remote()
        return self._stop


def driver_error(error: BaseException, has_begun: bool) -> BaseException:
    """The error to raise in the driver: lost workers as one line, our own for what they mean.

    Args:
        has_begun: whether something is written.
    """
    from ray.train.v2.api.exceptions import TrainingFailedError

    match error:
        case TrainingDiverged():  # it says itself which checkpoint is kept
            return RunBlocked(str(error))
        case NightpressError() if has_begun:
            return in_mid_run(error)
        case StoreDenied() | StoreMissing():
            return error
        case StoreError():
            return in_mid_run(error)
        case TrainingFailedError() | RayError():
            reason = f"the workers failed: {' '.join(str(error).split())[-500:]}"
            if _is_no_loss(error):
                return RunBlocked(f"{reason} (checkpoints are kept)")
            return RunStopped(f"{reason}; run the same command again to resume")
        case _:
            return error


def _is_no_loss(error: BaseException) -> bool:
    """Whether the workers failed by themselves: each raised an error, and none was lost."""
    failures = getattr(error, "worker_failures", {}).values()
    return bool(failures) and not any(isinstance(each, RayError) for each in failures)
