"""Run a training job on a Ray cluster: a `TorchTrainer` runs `pipelines.training` in each worker.

Starts the workers, replaces lost ones, and passes their events to the driver. What a worker does
is in `pipelines.training.loop`.
"""

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nightpress.diffusion_core.errors import DiffusionError, SettingsError
from nightpress.diffusion_core.silence_libraries import silence_process
from nightpress.jobs.cluster.connection import cluster, resolved_gpus, room
from nightpress.jobs.errors import ClusterError, RunStopped
from nightpress.jobs.signals import first_interruption
from nightpress.pipelines.errors import (
    PipelineError,
    SpecError,
    StoreDenied,
    StoreError,
    StoreMissing,
    TrainingDiverged,
)
from nightpress.pipelines.models.location import absolute_source
from nightpress.pipelines.run_directory.lease import SILENCE_S, FreeLease, Lease, held, require_free
from nightpress.pipelines.storage import Store
from nightpress.pipelines.storage.urls import absolute
from nightpress.pipelines.training.events import (
    Finished,
    ImagesRead,
    StepDone,
    Stopped,
    StopRequested,
    TrainingEvent,
    WaitingForLease,
)
from nightpress.pipelines.training.spec import TrainSpec, train_spec

POLL_S = 0.2
COLLECTIVE_WAIT_S = 24 * 3600
"""Timeout of collective operations, in which workers wait for each other."""


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a finished training run."""

    url: str
    """URL of the run directory."""
    step: int
    loss: float | None
    """From the last row of metrics; None if there were no steps left to train."""
    model: str
    """URL of the trained model's folder."""


class TrainingCoordinator:
    """A Ray actor that passes events from the workers to the driver, and requests back to them."""

    def __init__(self, free: FreeLease) -> None:
        self._free = free
        self._events: list[TrainingEvent] = []
        self._error: Exception | None = None
        self._stop = False

    def report(self, event: TrainingEvent) -> bool:
        """Store an event for the driver; return whether the workers should stop."""
        self._events.append(event)
        return self._stop

    def free_lease(self) -> FreeLease:
        """The lease to acquire: the one that the driver found free, or the workers' own."""
        return self._free

    def record_lease(self, own: FreeLease) -> None:
        """Store the workers' own lease, so that their replacements may acquire it again."""
        self._free = own

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


def train(
    spec: TrainSpec,
    on_event: Callable[[TrainingEvent], None] = lambda event: None,
    *,
    take_over: bool = False,
) -> TrainResult:
    """Train on the job's cluster to the end, or resume an interrupted training run.

    Args:
        spec: the job.
        on_event: called with every event, for example to show progress.
        take_over: take over from another process that is working on the same training run.

    Raises:
        SpecError, DataError, DiffusionError, StoreDenied, ClusterError: the job cannot run;
            nothing was written.
        ChangedRunError: the run directory belongs to another training run.
        RunHeld: another process is working on this training run.
        LeaseLost: another process has taken this training run over.
        RunStopped: training stopped early; calling this again resumes from the last checkpoint.
    """
    _require_ray_train()
    store = Store(spec.url, spec.storage)
    store.check()
    if not store.honours_create_only():
        store = store.reading_back()
    free = require_free(
        store, take_over, lambda holder: on_event(WaitingForLease(str(holder), SILENCE_S))
    )
    spec = _with_absolute_paths(spec)
    with cluster(spec.cluster):
        return _result(spec.url, _events(spec, store, free), on_event)


def _result(
    url: str, events: Iterator[TrainingEvent], on_event: Callable[[TrainingEvent], None]
) -> TrainResult:
    """Pass on all events, and summarize them.

    Raises:
        RunStopped: training ended before the last step.
    """
    loss: float | None = None
    stopped_at = ""
    result: TrainResult | None = None
    for event in events:
        on_event(event)
        match event:
            case StepDone():
                loss = event.metrics.loss
            case Stopped():
                stopped_at = f" at step {event.step:,}"
            case Finished():
                result = TrainResult(url, event.step, loss, f"{url}/{event.path}")
    if result is None:
        raise RunStopped(f"training stopped{stopped_at}; run the same command again to resume")
    return result


def _events(spec: TrainSpec, store: Store, free: FreeLease) -> Iterator[TrainingEvent]:
    """Run the workers and yield their events.

    The first interruption asks the workers to stop with a checkpoint; the second one stops them at
    once.
    """
    coordinator = _start_coordinator(free)
    stopping = False
    with first_interruption() as interrupted:
        fit = _run_in_thread(partial(_fit, spec, store, coordinator))
        try:
            while not fit.done():
                yield from ray.get(coordinator.take_events.remote())
                wait([fit], POLL_S)
                if interrupted.is_set() and not stopping:
                    stopping = True
                    ray.get(coordinator.request_stop.remote())
                    yield StopRequested()
        finally:
            if not fit.done():
                ray.shutdown()  # also ends the workers
    yield from ray.get(coordinator.take_events.remote())
    error = ray.get(coordinator.error.remote()) or fit.exception()
    if error is not None:
        raise _driver_error(error) from error


def _start_coordinator(free: FreeLease) -> Any:
    """Start the coordinator on the driver's node, so that it survives the loss of other nodes."""
    node = ray.get_runtime_context().get_node_id()
    on_driver = NodeAffinitySchedulingStrategy(node, soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": on_driver}
    return ray.remote(TrainingCoordinator).options(**options).remote(free)


def _run_in_thread(function: Callable[[], object]) -> "Future[None]":
    """Call a function in a thread, because the main thread must handle signals.

    It is a daemon thread that nothing joins: Ray 2.60 does not always wake a thread that waits for
    a result when Ray shuts down.
    """
    future: Future[None] = Future()

    def call() -> None:
        try:
            function()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=call, name="fit", daemon=True).start()
    return future


def _fit(spec: TrainSpec, store: Store, coordinator: Any) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        trainer(spec, store, coordinator, scratch).fit()


def trainer(spec: TrainSpec, store: Store, coordinator: Any, scratch: str) -> Any:
    """Create a job's `TorchTrainer`; it stores nothing itself, checkpoints go to the run."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus = resolved_gpus(spec.cluster.gpus_per_worker)
    cpus = spec.cluster.cpus_per_worker
    return TorchTrainer(
        worker_loop,
        train_loop_config={
            "spec": spec.as_dict(),
            "store": store,
            "coordinator": coordinator,
        },
        scaling_config=ScalingConfig(
            num_workers=num_workers(spec),
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})},
        ),
        # The others wait while one worker packs, encodes, samples or saves; Ray detects dead ones.
        torch_config=TorchConfig(timeout_s=COLLECTIVE_WAIT_S),
        run_config=RunConfig(
            name=spec.name,
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=spec.cluster.max_failures),
        ),
    )


def worker_loop(config: dict[str, Any]) -> None:
    """Run the training loop in one worker of the trainer."""
    import torch
    from ray import train as ray_train
    from ray.train.torch import get_device

    from nightpress.pipelines.training.loop import train
    from nightpress.pipelines.training.stepping import WorkerRank

    silence_process()
    coordinator = config["coordinator"]
    if ray.get(coordinator.error.remote()) is not None:
        return  # another worker failed in a way that a restart cannot fix
    spec = train_spec(config["spec"])
    if str(get_device()) == "cpu":
        torch.set_num_threads(spec.cluster.cpus_per_worker)
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


def num_workers(spec: TrainSpec) -> int:
    """The number of workers of a job; `auto` is the most that fit and split a batch evenly.

    Raises:
        ClusterError: the cluster has no room for them.
        SpecError: they cannot split a batch evenly.
    """
    cpus = spec.cluster.cpus_per_worker
    gpus = resolved_gpus(spec.cluster.gpus_per_worker)
    most = room(cpus, gpus)
    if spec.cluster.workers == "auto":
        even = (n for n in range(1, most + 1) if spec.shares_evenly(n))
        num = max(even, default=min(most, 1))
    else:
        num = spec.cluster.workers
    if not 0 < num <= most:
        raise ClusterError(
            f"cluster.workers: {max(num, 1)} workers need {cpus} CPUs and {gpus:g} GPUs each, but "
            f"the cluster has room for {most}"
        )
    spec.require_even_shares(num)
    return num


def _driver_error(error: BaseException) -> BaseException:
    """The error to raise in the driver: our own unchanged, lost workers as one line."""
    from ray.train.v2.api.exceptions import TrainingFailedError

    match error:
        case StoreDenied() | StoreMissing():
            return error
        case TrainingDiverged() | StoreError():
            return RunStopped(str(error))
        case TrainingFailedError() | RayError():
            reason = " ".join(str(error).split())[-500:]
            return RunStopped(f"the workers failed: {reason}; run the same command again to resume")
        case _:
            return error


def _require_ray_train() -> None:
    if find_spec("pandas") is None:
        raise SpecError(
            "training requires ray[train], but pandas is not installed: "
            'pip install -c infra/constraints.txt ".[train]"'
        )


def _with_absolute_paths(spec: TrainSpec) -> TrainSpec:
    """Make local paths absolute, because workers have another working directory."""
    values = spec.as_dict()
    values["output"] = absolute(values["output"])
    if values["training"]["tensorboard"] is not None:
        values["training"]["tensorboard"] = absolute(values["training"]["tensorboard"])
    source = values["data"]["source"]
    values["data"]["source"] = (
        [absolute(url) for url in source] if isinstance(source, list) else absolute(source)
    )
    values["model"] = {
        key: absolute_source(value) if isinstance(value, str) else value
        for key, value in values["model"].items()
    }
    return train_spec(values)
