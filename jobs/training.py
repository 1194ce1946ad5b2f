"""A training job on a Ray cluster: `TorchTrainer` runs `pipelines.training` in each worker.

Owns the workers, what happens when one is lost, and how their events reach the driver. What a
worker does, `pipelines.training.loop` knows.
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
    DataRead,
    Finished,
    StepDone,
    Stopped,
    Stopping,
    TrainingEvent,
    Watching,
)
from nightpress.pipelines.training.spec import TrainSpec, train_spec

POLL_S = 0.2
COLLECTIVE_WAIT_S = 24 * 3600
"""How long workers wait for each other."""


@dataclass(frozen=True)
class TrainResult:
    """How a training ended."""

    url: str
    step: int
    loss: float | None
    """Of the last row of metrics; None when nothing was left to train."""
    model: str
    """URL of the trained model's folder."""


class Board:
    """An actor: the workers' events for the driver, and the driver's wishes for them."""

    def __init__(self, free: FreeLease) -> None:
        self._free = free
        self._events: list[TrainingEvent] = []
        self._error: Exception | None = None
        self._stop = False

    def tell(self, event: TrainingEvent) -> bool:
        """Hand in an event; the answer is whether to stop."""
        self._events.append(event)
        return self._stop

    def found_free(self) -> FreeLease:
        """What is known of the lease: what the driver found, or the workers' own."""
        return self._free

    def hold(self, own: FreeLease) -> None:
        """The workers hold the lease; those that replace them may take it again."""
        self._free = own

    def take(self) -> list[TrainingEvent]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def fail(self, error: Exception) -> None:
        """Hand in what makes going on pointless; the first one counts."""
        self._error = self._error or error

    def failed(self) -> Exception | None:
        """What was handed in."""
        return self._error

    def stop(self) -> None:
        """Ask the workers to end after the step in hand."""
        self._stop = True

    def stopping(self) -> bool:
        """Whether they were asked to."""
        return self._stop


def train(
    spec: TrainSpec,
    on_event: Callable[[TrainingEvent], None] = lambda event: None,
    *,
    take_over: bool = False,
) -> TrainResult:
    """Train on the job's cluster to the end, or go on with what was interrupted.

    Args:
        spec: the job.
        on_event: called with every event, for those who show progress.
        take_over: push aside another start that works on the same training.

    Raises:
        SpecError, DataError, DiffusionError, StoreDenied, ClusterError: nothing was written.
        ChangedRunError: the run directory belongs to another training.
        RunHeld: another start works on it.
        LeaseLost: another start took it over; this one stopped.
        RunStopped: stopped early; calling this again goes on from the last checkpoint.
    """
    _require_ray_train()
    store = Store(spec.url, spec.storage)
    store.check()
    if not store.honours_create_only():
        store = store.reading_back()
    free = require_free(store, take_over, lambda claim: on_event(Watching(str(claim), SILENCE_S)))
    spec = _with_whole_paths(spec)
    last: dict[type, Any] = {}
    with cluster(spec.cluster):
        for event in _events(spec, store, free):
            last[type(event)] = event
            on_event(event)
    if Finished not in last:
        stopped = last.get(Stopped)
        at = f" at step {stopped.step:,}" if stopped else ""
        raise RunStopped(f"stopped{at}; the same command goes on from there")
    loss = last[StepDone].metrics.loss if StepDone in last else None
    return TrainResult(spec.url, last[Finished].step, loss, f"{spec.url}/{last[Finished].path}")


def _events(spec: TrainSpec, store: Store, free: FreeLease) -> Iterator[TrainingEvent]:
    """What the workers tell; a first interruption asks them for a checkpoint, a second ends it."""
    board = _board_here(free)
    stopping = False
    with first_interruption() as asked:
        fit = _beside(partial(_fit, spec, store, board))
        try:
            while not fit.done():
                yield from ray.get(board.take.remote())
                wait([fit], POLL_S)
                if asked.is_set() and not stopping:
                    stopping = True
                    ray.get(board.stop.remote())
                    yield Stopping()
        finally:
            if not fit.done():
                ray.shutdown()  # takes the workers with it
    yield from ray.get(board.take.remote())
    error = ray.get(board.failed.remote()) or fit.exception()
    if error is not None:
        raise _as_stop(error) from error


def _board_here(free: FreeLease) -> Any:
    """The board, on the driver's own node: it must not go with a worker's."""
    node = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote(free)


def _beside(function: Callable[[], object]) -> "Future[None]":
    """Call it in a thread: the main one must keep its hand on signals.

    Nothing ever waits for the thread. Ray does not always wake one that waits for an answer when
    it is shut down (seen with 2.60).
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


def _fit(spec: TrainSpec, store: Store, board: Any) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        trainer(spec, store, board, scratch).fit()


def trainer(spec: TrainSpec, store: Store, board: Any, scratch: str) -> Any:
    """The `TorchTrainer` of a job. Its own storage holds nothing: checkpoints go to the run."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus = resolved_gpus(spec.cluster.gpus_per_worker)
    cpus = spec.cluster.cpus_per_worker
    return TorchTrainer(
        worker_loop,
        train_loop_config={"spec": spec.as_dict(), "store": store, "board": board},
        scaling_config=ScalingConfig(
            num_workers=num_workers(spec),
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})},
        ),
        # Others wait while one packs, encodes, draws or saves; Ray itself sees who died.
        torch_config=TorchConfig(timeout_s=COLLECTIVE_WAIT_S),
        run_config=RunConfig(
            name=spec.name,
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=spec.cluster.max_failures),
        ),
    )


def worker_loop(config: dict[str, Any]) -> None:
    """What each worker of the trainer runs."""
    import torch
    from ray import train as ray_train
    from ray.train.torch import get_device

    from nightpress.pipelines.training.loop import train
    from nightpress.pipelines.training.stepping import Place

    board = config["board"]
    if ray.get(board.failed.remote()) is not None:
        return  # another worker's error has made going on pointless
    spec = train_spec(config["spec"])
    if str(get_device()) == "cpu":
        torch.set_num_threads(spec.cluster.cpus_per_worker)
    context = ray_train.get_context()
    place = Place(context.get_world_rank(), context.get_world_size(), str(get_device()))
    stop = StopRequest(board)

    @contextmanager
    def hold(store: Store) -> Iterator[Lease]:
        with held(store, ray.get(board.found_free.remote())) as lease:
            ray.get(board.hold.remote(lease.handover))
            yield lease

    try:
        for event in train(spec, place, stop, store=config["store"], hold=hold):
            # Of the workers of a machine only one packs, and that need not be the first.
            if place.leads or isinstance(event, DataRead):
                stop.heard(ray.get(board.tell.remote(event)))
    except torch.OutOfMemoryError as error:
        ray.get(board.fail.remote(_out_of_memory(error)))
        raise
    except (PipelineError, DiffusionError) as error:
        ray.get(board.fail.remote(error))
        raise


def _out_of_memory(error: Exception) -> SettingsError:
    reason = str(error).split(". ")[0]
    return SettingsError(
        f"the device has too little memory for this job ({reason}); less is needed with a larger "
        "training.gradient_accumulation_steps, training.gradient_checkpointing: true, "
        "mixed_precision: bf16, or a smaller resolution"
    )


class StopRequest:
    """Whether the driver wants the workers to stop; asked again when the last answer is there."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._answer = board.stopping.remote()
        self._stop = False

    def heard(self, stop: bool) -> None:
        """An answer that came with another call."""
        self._stop = self._stop or stop

    def __call__(self) -> bool:
        """The last answer; asks again without waiting."""
        ready, _ = ray.wait([self._answer], timeout=0)
        if ready:
            self.heard(ray.get(self._answer))
            self._answer = self._board.stopping.remote()
        return self._stop


def num_workers(spec: TrainSpec) -> int:
    """The workers of a job; `auto` is the most that there is room for and that share evenly.

    Raises:
        ClusterError: there is no room for them.
        SpecError: they cannot share a batch evenly.
    """
    cpus = spec.cluster.cpus_per_worker
    gpus = resolved_gpus(spec.cluster.gpus_per_worker)
    most = room(cpus, gpus)
    if spec.cluster.workers == "auto":
        found = max((n for n in range(1, most + 1) if spec.shares_evenly(n)), default=min(most, 1))
    else:
        found = spec.cluster.workers
    if not 0 < found <= most:
        raise ClusterError(
            f"the cluster has room for {most} workers of {cpus} CPUs and {gpus:g} GPUs; "
            f"{max(found, 1)} are wanted"
        )
    spec.require_even_shares(found)
    return found


def _as_stop(error: BaseException) -> BaseException:
    """What the driver raises: our own errors as they are, lost workers in a line."""
    from ray.train.v2.api.exceptions import TrainingFailedError

    match error:
        case StoreDenied() | StoreMissing():
            return error
        case TrainingDiverged() | StoreError():
            return RunStopped(str(error))
        case TrainingFailedError() | RayError():
            reason = " ".join(str(error).split())[-500:]
            return RunStopped(f"the workers failed: {reason}; the same command goes on")
        case _:
            return error


def _require_ray_train() -> None:
    missing = [name for name in ("pandas",) if find_spec(name) is None]
    if missing:
        raise SpecError(
            f"training needs ray[train] ({missing[0]} is missing): "
            'pip install -c infra/constraints.txt ".[train]"'
        )


def _with_whole_paths(spec: TrainSpec) -> TrainSpec:
    """Local folders by their full paths: workers stand elsewhere."""
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
