"""The Ray cluster of a run: joining or starting it, its capacity, and tasks on its nodes."""

import os
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import nightpress
from nightpress.diffusion_core.errors import one_line
from nightpress.jobs.cluster.address import provide_token, require_head
from nightpress.jobs.cluster.import_path import worker_imports
from nightpress.jobs.cluster.local_head import SYSTEM_CONFIG, lean_head
from nightpress.jobs.cluster.ray_errors import is_node_loss
from nightpress.jobs.cluster.shadowing import require_libraries
from nightpress.jobs.cluster.worker_template import WorkerTemplate, worker_template
from nightpress.jobs.errors import ClusterError, ClusterUnavailable

T = TypeVar("T")
R = TypeVar("R")

LOCAL_OBJECT_STORE_BYTES = 512 * 2**20
"""Enough for a local Ray, because pixels never go through the object store."""

_OUT_OF_TIME = re.compile(r"time[d ]? ?out|overloaded|Failed to connect", re.IGNORECASE)
"""What Ray's errors say when a process of its own was too slow."""


class ClusterAddress(Protocol):
    """The part of a job that says which cluster to join."""

    @property
    def address(self) -> str | None:
        """Address as in `ray.init`; None for RAY_ADDRESS, or else a local Ray."""
        ...

    @property
    def ship_package(self) -> bool:
        """Whether to send the nightpress package to the nodes."""
        ...


@contextmanager
def cluster(spec: ClusterAddress) -> Iterator[bool]:
    """Connect to the job's cluster, or start a local Ray if the job names none.

    An existing connection, as in a notebook, is used and left open. The value of the context says
    whether the connection is ours, so that it ends with the context.

    Raises:
        ClusterError, ClusterUnavailable: as `connect` raises them.
    """
    if ray.is_initialized():
        require_libraries(also_in=[os.getcwd()])  # which its workers import from first
        yield False
        return
    require_libraries()
    with ExitStack() as stack:
        template = None
        if address_of(spec) is None:
            template = stack.enter_context(worker_template())
        with _own_signals():
            connect(spec, template)
        stack.callback(ray.shutdown)
        yield True


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the caller's SIGTERM handler: Ray's own ends the process without a message."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def connect(spec: ClusterAddress, template: WorkerTemplate | None = None) -> None:
    """Join the cluster at the job's address or RAY_ADDRESS, or start a local Ray.

    Args:
        spec: says which cluster.
        template: what the workers of a local Ray are forks of.

    Raises:
        ClusterError: there is no cluster at the address, or it refuses this process.
        ClusterUnavailable: Ray does not start, or the cluster does not answer, in time.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address_of(spec)
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        quiet |= {"include_dashboard": False, "object_store_memory": LOCAL_OBJECT_STORE_BYTES}
        provide_token()
        with lean_head(template):
            _init(
                "Ray on this machine",
                "start",
                address="local",
                _system_config=SYSTEM_CONFIG,
                **quiet,
            )
        return
    require_head(address)
    where = f"the Ray cluster at {address}"
    _init(where, "answer", address=address, runtime_env=runtime_env(spec), **quiet)


def _init(what: str, deed: str, **settings: Any) -> None:
    """Call ray.init; its failure becomes one line.

    Args:
        what: what is started or joined.
        deed: what it fails to do, `start` or `answer`.
    """
    try:
        ray.init(job_config=worker_imports(), **settings)
    except Exception as error:  # Ray raises plain exceptions when a node does not start
        reason = one_line(error, None)
        if isinstance(error, TimeoutError) or _OUT_OF_TIME.search(reason):
            raise ClusterUnavailable(
                f"{what} did not {deed} in time; try again when the machine is less busy: {reason}"
            ) from error
        advice = "; Ray needs a HOME and a /tmp that it can write" if _is_disk(error) else ""
        raise ClusterError(f"{what} cannot be used: {reason}{advice}") from error


def _is_disk(error: Exception) -> bool:
    """Whether a file or folder could not be written."""
    return isinstance(error, OSError) and error.filename is not None


def address_of(spec: ClusterAddress) -> str | None:
    """Address of the cluster to join; None to start a local Ray."""
    address = spec.address or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


def is_chosen() -> bool:
    """Whether it is settled which cluster a job without an address uses: RAY_ADDRESS names one, or
    this process has joined one."""
    return ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS"))


def runtime_env(spec: ClusterAddress) -> dict[str, Any]:
    """What the job sends to the nodes: this package, unless they have it installed."""
    if not spec.ship_package:
        return {}
    return {"py_modules": [str(installed_package())], "excludes": ["__pycache__"]}


def installed_package() -> Path:
    """The folder that `import nightpress` loads; in a checkout it links to the packages."""
    return Path(nightpress.__file__).parent


ROUNDING = 1e-9
"""Lets ten actors of 0.1 GPU fit on one GPU in spite of binary rounding."""


def has_gpus() -> bool:
    """Whether any node offers a GPU."""
    return bool(ray.cluster_resources().get("GPU", 0) > 0)


def resolved_gpus(wanted: float | str) -> float:
    """GPUs of one process; `auto` is 1 if the cluster has any, otherwise 0."""
    if wanted == "auto":
        return 1.0 if has_gpus() else 0.0
    return float(wanted)


def room(cpus: float, gpus: float, memory_bytes: int = 0) -> int:
    """How many actors of this size all nodes together can hold when nothing else runs."""
    draining = draining_nodes()
    return sum(
        int(
            min(
                node["Resources"].get(resource, 0.0) / share + ROUNDING
                for resource, share in (("CPU", cpus), ("GPU", gpus), ("memory", memory_bytes))
                if share > 0
            )
        )
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in draining
    )


def alive_nodes() -> dict[str, str]:
    """Node id -> address, of the nodes that are alive now."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def most_cpus() -> float:
    """CPUs of the node that has the most."""
    return max(float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])


def draining_nodes() -> set[str]:
    """Ids of the nodes that will go away: drained by hand, by the autoscaler, or preempted."""
    ask = _draining_nodes_function()
    return set(ask() or {}) if ask is not None else set()


def tells_draining_nodes() -> bool:
    """Whether this version of Ray tells which nodes will go away.

    If not, an actor works until its node is gone; its shards then go to others.
    """
    return _draining_nodes_function() is not None


def _draining_nodes_function() -> Callable[[], Any] | None:
    # Ray's own libraries use this; there is no public function.
    state = getattr(getattr(ray._private, "state", None), "state", None)
    return getattr(state, "get_draining_nodes", None)


def spread_map(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map` over Ray tasks, in order, with at most one task per CPU in flight.

    The tasks reserve no CPU, so planning does not wait for actors that hold all of them.
    """
    apply = _remote_apply(scheduling_strategy="SPREAD")
    limit = max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: deque[Any] = deque()
    for item in items:
        pending.append(apply.remote(function, item))
        if len(pending) >= limit:
            yield remote_value(pending.popleft())
    while pending:
        yield remote_value(pending.popleft())


def spread_some(
    function: Callable[[Sequence[T]], Iterable[R]], items: Sequence[T], at_once: int
) -> Iterator[R]:
    """What `function` makes of all items, in order, with `at_once` of them in each Ray task."""
    some = (items[n : n + at_once] for n in range(0, len(items), at_once))
    for found in spread_map(partial(_listed, function), some):
        yield from found


def _listed(function: Callable[[Sequence[T]], Iterable[R]], items: Sequence[T]) -> list[R]:
    return list(function(items))


def on_every_node(function: Callable[[T], R], item: T) -> list[tuple[str, R]]:
    """Call `function(item)` once on each node; returns (node address, result) pairs."""
    nodes = alive_nodes()
    references = [
        _remote_apply(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
        ).remote(function, item)
        for node_id in nodes
    ]
    found = []
    for (node_id, address), reference in zip(nodes.items(), references, strict=True):
        try:
            found.append((address, remote_value(reference)))
        except ClusterError:
            if node_id in alive_nodes():
                raise  # unless the node has gone away in the meantime
    return found


def _remote_apply(**options: Any) -> Any:
    """A Ray task that calls a function and reserves no CPU."""
    return ray.remote(_apply).options(num_cpus=0, max_retries=3, **options)


def _apply(function: Callable[[T], R], item: T) -> R:
    return function(item)


def remote_value(reference: Any) -> Any:
    """The value of a reference; the remote code's own error is raised as if it came from here.

    Raises:
        ClusterUnavailable: a node was lost.
        ClusterError: Ray failed otherwise.
    """
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        kind = ClusterUnavailable if is_node_loss(error) else ClusterError
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise kind(f"the cluster failed: {reason}") from error
