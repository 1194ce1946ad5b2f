"""What the nodes of the cluster can hold, and whether that can change."""

import ray

from nightpress.jobs.cluster.connection import draining_nodes, room
from nightpress.jobs.errors import ClusterError
from nightpress.pipelines.formatting import plural

FIRST_NOTICE_S = 20.0
"""A wait longer than this is reported."""

NOTICES_APART_S, MOST_APART_S = 60.0, 600.0
"""Seconds between the first two reports of a wait; each later pause is twice as long, up to the
most."""


def resources(cpus: float, gpus: float) -> str:
    """`2 CPUs and 1 GPU`."""
    return f"{_count(cpus, 'CPU')} and {_count(gpus, 'GPU')}"


def can_grow() -> bool:
    """Whether nodes may join: not if this process has started the cluster for itself."""
    # There is no public function; ray.init itself uses this.
    node = ray._private.worker._global_node
    return node is None or not node.is_head()


def node_resources() -> list[tuple[float, float]]:
    """CPUs and GPUs of every node that is alive and stays."""
    draining = draining_nodes()
    return [
        (float(node["Resources"].get("CPU", 0.0)), float(node["Resources"].get("GPU", 0.0)))
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in draining
    ]


def most_memory_bytes() -> int:
    """Bytes of memory that the node with the most gives to actors, as Ray counts it."""
    draining = draining_nodes()
    nodes = (node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in draining)
    return max((int(node["Resources"].get("memory", 0)) for node in nodes), default=0)


def cluster_line() -> str:
    """`the cluster has 2 nodes, each up to 8 CPUs and 1 GPU; free now: 3 CPUs and no GPU`."""
    nodes = node_resources()
    if not nodes:
        return "the cluster has no node"
    most = resources(max(cpus for cpus, _ in nodes), max(gpus for _, gpus in nodes))
    size = (
        f"one node, with {most}" if len(nodes) == 1 else f"{len(nodes):,} nodes, each up to {most}"
    )
    free = ray.available_resources()
    unused = resources(int(free.get("CPU", 0.0)), int(free.get("GPU", 0.0)))
    return f"the cluster has {size}; free now: {unused}"


def require_room(key: str, cpus: float, gpus: float, what: str) -> None:
    """Refuse what a cluster that cannot grow has no node for.

    Args:
        key: the keys of the job that ask for it, such as `cluster.cpus_per_actor`.
        cpus, gpus: what each one needs on one node.
        what: `an actor` or `a worker`.

    Raises:
        ClusterError: no node is large enough, and none will join.
    """
    if can_grow() or room(cpus, gpus) > 0:
        return
    raise ClusterError(
        f"{key}: {what} needs {resources(cpus, gpus)} on one node, but {cluster_line()}; ask for "
        "less, or join a cluster that has it with cluster.address"
    )


def waiting_line(what: str, cpus: float, gpus: float) -> str:
    """What is being waited for, and what the cluster has."""
    growth = "" if room(cpus, gpus) else "; no node is large enough, so this waits for one to join"
    return (
        f"waiting for {what} to start: it needs {resources(cpus, gpus)} on one node; "
        f"{cluster_line()}{growth}"
    )


class Notices:
    """When to report a wait: first after a while, then less and less often.

    Args:
        first_s: seconds until the first report.
        now: the time now, in seconds of any clock.
    """

    def __init__(self, now: float, first_s: float = FIRST_NOTICE_S) -> None:
        self._next = now + first_s
        self._apart_s = NOTICES_APART_S

    def due(self, now: float) -> bool:
        """Whether to report at this time; if so, the next report is due later."""
        if now < self._next:
            return False
        self._next = now + self._apart_s
        self._apart_s = min(MOST_APART_S, 2 * self._apart_s)
        return True


def _count(number: float, noun: str) -> str:
    """`2 CPUs`, `0.5 GPUs`, `no GPU`."""
    if not number:
        return f"no {noun}"
    return plural(int(number), noun) if number == int(number) else f"{number:g} {noun}s"
