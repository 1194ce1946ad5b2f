"""Run a training job on a Ray cluster: a `TorchTrainer` runs `pipelines.training` in each worker.

Starts the workers, replaces lost ones, and passes their events to the driver. What a worker does
is in `pipelines.training.loop`.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nightpress.jobs.cluster.capacity import (
    FIRST_NOTICE_S,
    Notices,
    can_grow,
    cluster_line,
    resources,
    waiting_line,
)
from nightpress.jobs.cluster.connection import cluster, resolved_gpus, room
from nightpress.jobs.errors import ClusterError, RunStopped, StoppedOnRequest
from nightpress.jobs.signals import first_interruption
from nightpress.jobs.training_worker import (
    TrainingCoordinator,
    driver_error,
    worker_loop,
)
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.models.location import absolute_source
from nightpress.pipelines.run_directory.lease import SILENCE_S, FreeLease, require_free
from nightpress.pipelines.storage import Store, require_answers
from nightpress.pipelines.storage.urls import absolute
from nightpress.pipelines.training.events import (
    Finished,
    StepDone,
    Stopped,
    StopRequested,
    TrainingEvent,
    WaitingForLease,
    WaitingForRoom,
)
from nightpress.pipelines.training.sections import TrainClusterSpec
from nightpress.pipelines.training.spec import TrainSpec, train_spec

POLL_S = 0.2
NO_ROOM_S = 3.0
"""Workers for which the cluster is too small are reported after this time."""

LOOK_S = 2.0
"""Seconds between two looks at whether the workers are there."""

END_S = 20.0
"""How long an interrupted training waits for its workers to end."""

NO_WORKERS = "stopped while waiting for room for the workers; run the same command again to train"

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
        RunBlocked: it stopped early, by something that must be changed first.
    """
    _require_ray_train()
    store = Store(spec.url, spec.storage)
    store.check()
    require_answers(spec.inputs, spec.storage)
    if not store.honours_create_only():
        store = store.reading_back()
    free = require_free(
        store, take_over, lambda holder: on_event(WaitingForLease(str(holder), SILENCE_S))
    )
    spec = with_absolute_paths(spec)
    with (
        cluster(spec.cluster) as is_ours,
        closing(_events(spec, store, free, ends_with_ray=is_ours)) as events,
    ):
        return _result(spec.url, events, on_event)


def _result(
    url: str, events: Iterable[TrainingEvent], on_event: Callable[[TrainingEvent], None]
) -> TrainResult:
    """Pass on all events, and summarize them.

    Raises:
        RunStopped: training ended before the last step.
        RunBlocked: likewise, and the same command would end in the same way.
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
        message = f"training stopped{stopped_at}; run the same command again to resume"
        raise StoppedOnRequest(message) if stopped_at else RunStopped(message)
    return result


def _events(
    spec: TrainSpec, store: Store, free: FreeLease, ends_with_ray: bool
) -> Generator[TrainingEvent, None, None]:
    """Run the workers and yield their events.

    The first interruption asks the workers to stop with a checkpoint, or ends the wait for them;
    the second one stops them at once.

    Args:
        ends_with_ray: whether Ray is shut down afterwards, which ends what is left of the workers.
    """
    num = num_workers(spec)
    coordinator = _start_coordinator(free)
    stopping = False
    workers = Workers(coordinator)
    room_notices = RoomNotices(spec.cluster, num)
    with first_interruption() as interrupted:
        fit = _run_in_thread(partial(_fit, spec, num, store, coordinator))
        try:
            while not fit.done():
                yield from ray.get(coordinator.take_events.remote())
                yield from room_notices.due(time.monotonic(), workers.are_awaited)
                wait([fit], POLL_S)
                if interrupted.is_set() and not stopping:
                    if workers.are_awaited():
                        raise StoppedOnRequest(NO_WORKERS)
                    stopping = True
                    ray.get(coordinator.request_stop.remote())
                    yield StopRequested()
        finally:
            if not fit.done():
                _end_workers(coordinator)
                wait([fit], 0.0 if ends_with_ray else END_S)
    yield from ray.get(coordinator.take_events.remote())
    error = ray.get(coordinator.error.remote()) or fit.exception()
    if error is not None:
        raise driver_error(error, ray.get(coordinator.has_begun.remote())) from error


def _end_workers(coordinator: Any) -> None:
    """End the workers at once, and nothing else: Ray and other work on it may be the caller's."""
    with suppress(RayError):  # if Ray itself has ended, so have the workers
        for worker in ray.get(coordinator.abort.remote()):
            ray.kill(worker)


class Workers:
    """Whether workers are at work, found out without waiting for any answer."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator
        self._num_joined = 0
        self._pings: list[tuple[Any, Any]] = []
        """Workers that have joined and are not known to be lost, and the newest ping of each."""

    def are_awaited(self) -> bool:
        """Whether workers have yet to start: at first, and after all of them were lost."""
        if ray.get(self._coordinator.is_over.remote()):
            return False
        new = ray.get(self._coordinator.joined.remote(self._num_joined))
        self._num_joined += len(new)
        pings = [*self._pings, *((worker, _ping(worker)) for worker in new)]
        self._pings = [found for pair in pings if (found := _renewed(*pair)) is not None]
        return not self._pings


def _ping(worker: Any) -> Any:
    return worker.__ray_ready__.remote()


def _renewed(worker: Any, ping: Any) -> tuple[Any, Any] | None:
    """The worker with a ping that is under way; None if the worker is lost."""
    if not ray.wait([ping], timeout=0.0, fetch_local=False)[0]:
        return worker, ping
    try:
        ray.get(ping)
    except RayError:
        return None
    return worker, _ping(worker)


class RoomNotices:
    """Reports, less and less often, that the workers wait for room on the cluster."""

    def __init__(self, spec: TrainClusterSpec, num: int) -> None:
        self._num = num
        self._cpus = float(spec.cpus_per_worker)
        self._gpus = resolved_gpus(spec.gpus_per_worker)
        self._next_look = 0.0
        self._notices: Notices | None = None

    def due(self, now: float, are_awaited: Callable[[], bool]) -> Iterator[TrainingEvent]:
        """An event, if it is time for one and the workers are awaited.

        Args:
            now: the time, in seconds of any clock.
            are_awaited: called every `LOOK_S` at most.
        """
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        if not are_awaited():
            self._notices = None
            return
        if self._notices is None:
            fits = room(self._cpus, self._gpus) >= self._num
            self._notices = Notices(now, FIRST_NOTICE_S if fits else NO_ROOM_S)
        if self._notices.due(now):
            what = plural(self._num, "worker")
            yield WaitingForRoom(waiting_line(what, self._cpus, self._gpus))


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


def _fit(spec: TrainSpec, num: int, store: Store, coordinator: Any) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        trainer(spec, num, store, coordinator, scratch).fit()


def trainer(spec: TrainSpec, num: int, store: Store, coordinator: Any, scratch: str) -> Any:
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
            num_workers=num,
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


def num_workers(spec: TrainSpec) -> int:
    """The number of workers of a job; `auto` is the most that fit and split a batch evenly.

    Raises:
        ClusterError: the cluster has no room for them, and cannot grow.
        SpecError: they cannot split a batch evenly.
    """
    cpus = spec.cluster.cpus_per_worker
    gpus = resolved_gpus(spec.cluster.gpus_per_worker)
    most = room(cpus, gpus)
    if spec.cluster.workers == "auto":
        even = (n for n in range(1, most + 1) if spec.shares_evenly(n))
        num = max(even, default=1)
    else:
        num = spec.cluster.workers
    if num > most and not can_grow():
        raise ClusterError(
            f"cluster.workers: {plural(num, 'worker')} of {resources(cpus, gpus)} each do not fit: "
            f"there is room for {most}, since {cluster_line()}"
        )
    spec.require_even_shares(num)
    return num


def _require_ray_train() -> None:
    if find_spec("pandas") is None:
        raise SpecError(
            "training requires ray[train], but pandas is not installed: "
            'pip install -c infra/constraints.txt ".[train]"'
        )


def with_absolute_paths(spec: TrainSpec) -> TrainSpec:
    """Make local paths absolute, because workers have another working directory."""
    values = spec.as_dict()
    values["output"] = absolute(values["output"])
    if values["training"]["tensorboard"] is not None:
        values["training"]["tensorboard"] = absolute(values["training"]["tensorboard"])
    source = values["data"]["source"]
    values["data"]["source"] = (
        [absolute(url) for url in source] if isinstance(source, list) else absolute(source)
    )
    values["data"]["roots"] = [absolute(url) for url in values["data"]["roots"]]
    values["model"] = {
        key: absolute_source(value) if isinstance(value, str) else value
        for key, value in values["model"].items()
    }
    return train_spec(values)
