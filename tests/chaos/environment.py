"""The environment of chaos tests: a store, a cluster of several nodes, and a model."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from support import servers, tiny_models
from support.fakes.faulty_proxy import FaultyProxy, proxy
from support.servers import Folder

NUM_NODES = 2
ACTORS_PER_NODE = 1
NUM_ACTORS = NUM_NODES * ACTORS_PER_NODE

NOTICE_S = 5.0
"""Seconds between a spot machine's notice and its end."""

PREEMPTION = 2
"""Ray's number for preemption as the reason to drain a node."""


@dataclass
class Environment:
    """Where a chaos test runs."""

    folder: Path
    """A local folder for job files and logs."""
    bucket: Folder
    """The store itself."""
    proxy: FaultyProxy | None
    """A proxy in front of the store; a local folder has none."""
    cluster: Cluster
    model: Path
    log: Path
    """What is sampled, and why it may be sampled again; see `trouble/sitecustomize.py`."""
    undisturbed: dict[str, bytes] = field(default_factory=dict)
    """Image id -> bytes of every healthy image in a run without faults, once there was one."""

    @property
    def full(self) -> Path:
        """While this file exists, the disk is full."""
        return self.log.with_suffix(".full")

    @property
    def storage(self) -> dict[str, Any]:
        """The `storage` section of a job file, with the proxy in front of the store."""
        return self.bucket.options if self.proxy is None else self.proxy.options


STORES = {"seaweed": servers.seaweed, "rclone": servers.rclone}


@contextmanager
def environment_in(folder: Path, server: servers.Server | None) -> Iterator[Environment]:
    """An environment with a model, a log and a cluster.

    Args:
        folder: a local folder, which also holds the runs if there is no server.
        server: the store, which is used through a faulty proxy.
    """
    model = tiny_models.save("sd", folder / "model")
    log = folder / "sampled"
    log.touch()
    with ExitStack() as stack:
        faulty = None if server is None else stack.enter_context(proxy(server.endpoint))
        bucket = Folder(f"{folder}/out", {}) if server is None else server.folder()
        cluster = stack.enter_context(cluster_of_nodes(log))
        yield Environment(folder, bucket, faulty, cluster, model, log)


@contextmanager
def cluster_of_nodes(log: Path) -> Iterator[Cluster]:
    """A head node without actors, and worker nodes whose processes fail as prompts say."""
    tests = Path(__file__).parents[1]
    path = [str(tests / "chaos/trouble"), str(tests), os.environ.get("PYTHONPATH", "")]
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "NIGHTPRESS_CHAOS_LOG": str(log),
        # Dead nodes are noticed within seconds, as in a cluster set up for spot machines.
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        try:
            for _ in range(NUM_NODES):
                cluster.add_node(num_cpus=ACTORS_PER_NODE)
            yield cluster
        finally:
            cluster.shutdown()
    finally:
        for name, value in previous.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def actors_on(node: Any) -> list[psutil.Process]:
    """The actor processes of one node of this cluster."""
    (raylet,) = node.all_processes[PROCESS_TYPE_RAYLET]
    actors = []
    for process in psutil.Process(raylet.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ray::SamplerActor" in " ".join(process.cmdline()):
                actors.append(process)
    return actors


def notify(cluster: Cluster, node: Any) -> None:
    """Give a spot machine notice that it will be gone in `NOTICE_S`."""
    soon_ms = int((time.time() + NOTICE_S) * 1000)
    client = GcsClient(address=cluster.address)
    accepted, why = client.drain_node(node.node_id, PREEMPTION, "spot", soon_ms)
    assert accepted, why
