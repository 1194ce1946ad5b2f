"""Where nights happen: a store, a cluster of several nodes with trouble in them, a model.

Knows nothing of runs.
"""

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
"""Between a spot machine's notice and its end."""

PREEMPTION = 2
"""Ray's number for that reason."""


@dataclass
class Place:
    """Where a night happens."""

    folder: Path
    """Of this machine, for job files and logs."""
    bucket: Folder
    """The store itself."""
    proxy: FaultyProxy | None
    """In front of it; a local folder has none."""
    cluster: Cluster
    model: Path
    log: Path
    """What is sampled, and why it is sampled again; see `trouble/sitecustomize.py`."""
    undisturbed: dict[str, bytes] = field(default_factory=dict)
    """The bytes of every healthy image when nothing happens, by image id, once they were made."""

    @property
    def full(self) -> Path:
        """While this file is there, the disk takes no more."""
        return self.log.with_suffix(".full")

    @property
    def storage(self) -> dict[str, Any]:
        """As in a job file, with the proxy before the store."""
        return self.bucket.options if self.proxy is None else self.proxy.options


STORES = {"seaweed": servers.seaweed, "rclone": servers.rclone}


@contextmanager
def place_at(folder: Path, server: servers.Server | None) -> Iterator[Place]:
    """A place with a model, a log and a cluster.

    Args:
        folder: of this machine; without a server, the runs lie there too.
        server: the store; trouble stands before it.
    """
    model = tiny_models.save("sd", folder / "model")
    log = folder / "sampled"
    log.touch()
    with ExitStack() as stack:
        faulty = None if server is None else stack.enter_context(proxy(server.endpoint))
        bucket = Folder(f"{folder}/out", {}) if server is None else server.folder()
        cluster = stack.enter_context(cluster_of_nodes(log))
        yield Place(folder, bucket, faulty, cluster, model, log)


@contextmanager
def cluster_of_nodes(log: Path) -> Iterator[Cluster]:
    """A head that runs no actors, and nodes that do, with trouble in their workers."""
    tests = Path(__file__).parents[1]
    path = [str(tests / "chaos/trouble"), str(tests), os.environ.get("PYTHONPATH", "")]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "NIGHTPRESS_CHAOS_LOG": str(log),
        # Dead nodes are seen in seconds, as in a cluster that is set up for spot machines.
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    kept = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
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
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def actors_on(node: Any) -> list[psutil.Process]:
    """The processes of actors on one node of this cluster, and on no other of this machine."""
    (raylet,) = node.all_processes[PROCESS_TYPE_RAYLET]
    actors = []
    for process in psutil.Process(raylet.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ray::SamplerActor" in " ".join(process.cmdline()):
                actors.append(process)
    return actors


def notify(cluster: Cluster, node: Any) -> None:
    """Tell a spot machine that it will be gone in `NOTICE_S`."""
    soon_ms = int((time.time() + NOTICE_S) * 1000)
    client = GcsClient(address=cluster.address)
    accepted, why = client.drain_node(node.node_id, PREEMPTION, "spot", soon_ms)
    assert accepted, why
