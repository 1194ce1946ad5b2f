"""A node that is frozen, raylet and actor: the driver goes on, and obeys a signal."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from ray.cluster_utils import Cluster

from nightpress.pipelines import open_run
from nightpress.pipelines.job.spec import RunSpec

pytestmark = pytest.mark.chaos

DRAIN_S = 5


@pytest.fixture
def two_nodes(local_ray: None) -> Iterator[Cluster]:
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def num_workers(spec: RunSpec) -> int:
    """How many actors have committed a shard."""
    if not Path(spec.url, "run.json").is_file():
        return 0
    return len(set(open_run(spec.url).metadata.to_table(["worker"]).column(0).to_pylist()))


def test_a_frozen_node_does_not_keep_the_driver_from_ending(
    two_nodes: Cluster, make_spec: Callable[..., RunSpec], tmp_path: Path
) -> None:
    spec = make_spec(
        sampling={"num_inference_steps": 300, "height": 64, "guidance_scale": 3.0},
        batch={"size": 2, "shard_size": 2},
        cluster={"actors": 2, "address": two_nodes.address, "drain_s": DRAIN_S},
    )
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(spec.as_dict()))
    program = Path(sys.executable).parent / "nightpress"
    (node,) = two_nodes.worker_nodes
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    with subprocess.Popen([program, "run", job], stderr=subprocess.PIPE, text=True) as driver:
        end = time.monotonic() + 120
        while num_workers(spec) < 2 and time.monotonic() < end:
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.1)
        frozen = [raylet, *raylet.children(recursive=True)]
        for process in frozen:
            process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(1.0)
            assert driver.poll() is None, driver.communicate()
            asked = time.monotonic()
            driver.send_signal(signal.SIGTERM)
            _, said = driver.communicate(timeout=90)
            took_s = time.monotonic() - asked
        finally:
            for process in frozen:
                process.send_signal(signal.SIGCONT)
    assert driver.returncode == 4, said
    print(f"ended {took_s:.1f} s after SIGTERM")
    assert took_s < DRAIN_S + 15.0, said
