"""What each node of a cluster is and can do, as it says itself within a time limit."""

import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from ray._private.ray_constants import RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.diffusion_core.errors import NightpressError, one_line
from nightpress.jobs.cluster.connection import alive_nodes
from nightpress.pipelines.storage import Options, Store, require_answers, require_readable

PACKAGES = ("nightpress", "ray", "torch", "diffusers", "transformers", "numpy", "pillow", "pyarrow")
"""Packages whose versions should be the same on all nodes."""

ANSWER_S = 60.0
"""How long a node may take: its first task starts a process that imports nightpress."""

CLOCK_SAMPLES = 3


@dataclass(frozen=True)
class Questions:
    """What a node is asked about."""

    store: Store | None = None
    """The job's output."""
    marker: str | None = None
    """A file in a folder that all nodes should share."""
    urls: tuple[str, ...] = ()
    """What the job reads at URLs."""
    manifests: tuple[str, ...] = ()
    """Those of them that are its manifest."""
    paths: tuple[str, ...] = ()
    """Files and folders on disks that every node reads."""
    options: Options = field(default_factory=dict)
    """fsspec options by protocol, for all URLs."""


@dataclass(frozen=True)
class NodeFacts:
    """What a node has answered."""

    host: str
    python: str
    versions: dict[str, str | None]
    """Package -> version; None where it is not installed."""
    home: str
    home_fault: str | None
    """Why the home folder cannot be written; None if it can."""
    cache: str
    free_bytes: dict[str, int]
    """Free bytes where models are kept, and where Ray keeps its files, by their paths."""
    memory_bytes: int
    gpus: tuple[tuple[str, int], ...] | None
    """Name and memory in bytes of each GPU; None where nvidia-smi does not say."""
    ray_drains_s: float
    """How long Ray waits for the node's actors after SIGTERM."""
    output_fault: str | None
    input_fault: str | None


@dataclass(frozen=True)
class Node:
    """A node, and what is known about it."""

    address: str
    facts: NodeFacts | None
    """None if it did not answer."""
    silence: str
    """Why it did not answer; empty if it did."""
    ahead_s: float
    """How far its clock is ahead of this process's; negative if it is behind."""


def facts_of_nodes(questions: Questions) -> list[Node]:
    """Ask every node at once; one that is frozen or broken does not hold up the others."""
    nodes = alive_nodes()
    asked = {node_id: _on(node_id, ray.remote(facts_here)).remote(questions) for node_id in nodes}
    end_at = time.monotonic() + ANSWER_S
    return [
        _node(node_id, name, asked[node_id], max(0.1, end_at - time.monotonic()))
        for node_id, name in _names(nodes).items()
    ]


def num_gone() -> int:
    """Nodes that have left, were removed or have died since the cluster started."""
    return sum(not node["Alive"] for node in ray.nodes())


def _names(nodes: Mapping[str, str]) -> dict[str, str]:
    """The address of each node, with the beginning of its id where several share an address."""
    counts = Counter(nodes.values())
    return {
        node_id: address if counts[address] == 1 else f"{address} {node_id[:8]}"
        for node_id, address in nodes.items()
    }


def _on(node_id: str, function: Any) -> Any:
    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return function.options(num_cpus=0, max_retries=0, scheduling_strategy=strategy)


def _node(node_id: str, address: str, reference: Any, timeout_s: float) -> Node:
    try:
        facts = ray.get(reference, timeout=timeout_s)
        return Node(address, facts, "", _ahead_s(node_id))
    except GetTimeoutError:
        return Node(address, None, f"it has not answered within {ANSWER_S:.0f} s", 0.0)
    except RayTaskError as error:
        reason = one_line(error.cause, 300)
        return Node(address, None, f"{type(error.cause).__name__}: {reason}", 0.0)
    except RayError as error:
        if node_id not in alive_nodes():
            return Node(address, None, "it has died or left while it was asked", 0.0)
        return Node(address, None, f"{type(error).__name__}: {one_line(error, 300)}", 0.0)


def _ahead_s(node_id: str) -> float:
    """How far a node's clock is ahead, at least; by the quickest of a few answers."""
    clock = _on(node_id, ray.remote(_now))
    samples = []
    for _ in range(CLOCK_SAMPLES):
        before = time.time()
        there = ray.get(clock.remote(), timeout=ANSWER_S)
        samples.append((time.time() - before, before, there))
    took_s, before, there = min(samples)
    if there < before:
        return float(there - before)
    return max(0.0, float(there - before - took_s))


def _now() -> float:
    return time.time()


def facts_here(questions: Questions) -> NodeFacts:
    """The answers of this machine."""
    return NodeFacts(
        host=socket.gethostname(),
        python=platform.python_version(),
        versions={name: _version(name) for name in PACKAGES},
        home=os.path.expanduser("~"),
        home_fault=_write_fault(Path(os.path.expanduser("~"))),
        cache=_cache(),
        free_bytes=dict(free_bytes((_cache(), tempfile.gettempdir()))),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=_gpus(),
        ray_drains_s=RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S,
        output_fault=_output_fault(questions),
        input_fault=_input_fault(questions),
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cache() -> str:
    try:
        return str(cache_folder())
    except RuntimeError:  # there is no home folder
        return "no home folder"


def _write_fault(folder: Path) -> str | None:
    """Why a folder cannot be written; None if it can."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def free_bytes(paths: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Free bytes at paths, or at the nearest folder above them that exists."""
    for path in paths:
        folder = Path(path).absolute()
        while not folder.exists():
            folder = folder.parent
        yield path, shutil.disk_usage(folder).free


def _gpus() -> tuple[tuple[str, int], ...] | None:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [line.rpartition(", ") for line in done.stdout.splitlines()]
    if done.returncode or not all(memory.strip().isdigit() for _, _, memory in rows):
        return None
    return tuple((name, int(memory) * 2**20) for name, _, memory in rows)


def _output_fault(questions: Questions) -> str | None:
    if questions.marker is not None and not Path(questions.marker).exists():
        return "this folder is not shared with the node"
    if questions.store is None:
        return None
    try:
        questions.store.check()
    except NightpressError as error:
        return str(error)
    return None


def _input_fault(questions: Questions) -> str | None:
    for path in questions.paths:
        if not Path(path).exists():
            return f"{path} is not there; every node reads it, so share it or use a URL"
    try:
        require_answers(questions.urls, questions.options)
        require_readable(questions.manifests, questions.options)
    except NightpressError as error:
        return str(error)
    return None
