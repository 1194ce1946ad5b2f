"""Nodes of a real Ray cluster on this machine, as `ray start` starts them."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.servers import free_ports

START_S = 120

RAY = (sys.executable, "-c", "from ray.scripts.scripts import main; main()")
"""The command `ray` of this environment."""


@dataclass(frozen=True)
class RayHead:
    """A running head; its token is in `environment`, and nowhere else."""

    dashboard: str
    address: str
    environment: dict[str, str]


@contextmanager
def ray_head(num_cpus: int = 2) -> Iterator[RayHead]:
    """Start a head that asks for a token, on free ports and in a folder of its own."""
    folder = tempfile.mkdtemp(prefix="np-ray-", dir="/tmp")  # sockets need short paths
    ports = free_ports(4)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    start = [
        *RAY,
        *("start", "--head", "--block", "--disable-usage-stats", f"--num-cpus={num_cpus}"),
        *(f"--temp-dir={folder}", f"--port={ports[0]}", "--dashboard-host=127.0.0.1"),
        *(f"--dashboard-port={ports[1]}", f"--dashboard-agent-listen-port={ports[2]}"),
        *(f"--ray-client-server-port={ports[3]}", "--node-ip-address=127.0.0.1"),
        f"--object-store-memory={256 * 2**20}",
    ]
    log = Path(folder) / "start.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            start, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    dashboard = f"http://127.0.0.1:{ports[1]}"
    try:
        _wait_for(dashboard, process, log)
        yield RayHead(dashboard, f"127.0.0.1:{ports[0]}", environment)
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ray_worker(head: RayHead, num_cpus: int = 1) -> Iterator["subprocess.Popen[bytes]"]:
    """Start another node, which joins a head; its process drains it on SIGTERM."""
    start = [
        *RAY,
        *("start", "--block", "--disable-usage-stats", f"--address={head.address}"),
        *(f"--num-cpus={num_cpus}", f"--object-store-memory={256 * 2**20}"),
        *("--node-ip-address=127.0.0.1", f"--dashboard-agent-listen-port={free_ports(1)[0]}"),
    ]
    process = subprocess.Popen(
        start,
        env=head.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask a node to end, and kill it with its processes if it does not within 30 s."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def _wait_for(dashboard: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(f"{dashboard}/api/version", timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # it answers, and asks for its token
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"no head has started: {log.read_text()}")
