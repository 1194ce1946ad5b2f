"""S3 servers on loopback, each in a process that ends with the tests.

There are three: SeaweedFS, a real object store; moto, a light one; and rclone over a folder, which
ignores conditional writes as some stores do.
"""

import atexit
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import pytest
from botocore.exceptions import BotoCoreError

ACCESS_KEY = "nightpress-tests"
SECRET_KEY = "loopback-secret-0123456789"  # opens nothing but these servers
REGION = "us-east-1"
BUCKET = "press"

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": REGION,
}
"""The environment variables that a client needs."""

FOREIGN_VARIABLES = (
    *("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
    *("AWS_REGION", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
)
"""Variables of a developer's machine that must not influence the tests."""

START_S = 60


@contextmanager
def environment() -> Iterator[None]:
    """Set the credentials of these servers and hide the machine's own settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name in FOREIGN_VARIABLES:
            patch.delenv(name, raising=False)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/nonexistent/config")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials")
        yield


START_ATTEMPTS = 3


@dataclass(frozen=True)
class Server:
    """A running server."""

    endpoint: str
    pid: int
    log: Path

    @property
    def options(self) -> dict[str, dict[str, str]]:
        """The options for a job file's `storage`."""
        return {"s3": {"endpoint_url": self.endpoint}}

    def folder(self) -> "Folder":
        """A new folder in this server's bucket; a bucket per test would need too many volumes."""
        return Folder(f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}", self.options)

    def driver(self) -> Any:
        """s3fs, for what `Store` cannot do: create buckets and set their policies."""
        patience = {"connect_timeout": 2, "read_timeout": 3}
        return fsspec.filesystem(
            "s3", use_listings_cache=False, config_kwargs=patience, **self.options["s3"]
        )

    def prepare(self) -> None:
        """Create the bucket and write to it, retrying: a server may listen before it is ready."""
        driver = self.driver()
        deadline = time.monotonic() + START_S
        while True:
            try:
                driver.mkdirs(BUCKET, exist_ok=True)
                driver.pipe_file(f"{BUCKET}/ready", b"1")
            except (OSError, BotoCoreError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return


class Folder(NamedTuple):
    """A place to write to: a URL and its storage options."""

    url: str
    options: dict[str, dict[str, str]]


@contextmanager
def seaweed(folder: Path) -> Iterator[Server]:
    """SeaweedFS with its data in a folder; its sockets in /tmp are removed afterwards."""

    drawn: set[str] = set()

    def draw(ports: Iterator[int]) -> int:
        drawn.add(str(port := next(ports)))
        return port

    def command(ports: Iterator[int]) -> tuple[list[str], int]:
        s3 = draw(ports)
        named = [
            f"-{part}={draw(ports)}"
            for part in (
                *("s3.port.grpc", "master.port", "master.port.grpc", "volume.port"),
                *("volume.port.grpc", "filer.port", "filer.port.grpc", "admin.port"),
                *("admin.port.grpc", "webdav.port", "metricsPort"),
            )
        ]
        flags = [
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
            *("-master.telemetry=false", "-volume.max=1000"),
        ]
        return [program("weed"), "mini", f"-dir={folder}", f"-s3.port={s3}", *named, *flags], s3

    with started(command, folder) as server:
        yield server
    for leftover in Path("/tmp").glob("seaweedfs-*.sock"):
        if leftover.stem.rpartition("-")[2] in drawn:
            leftover.unlink()


@contextmanager
def moto(folder: Path) -> Iterator[Server]:
    """moto: keeps objects in memory and accepts any credentials."""

    def command(ports: Iterator[int]) -> tuple[list[str], int]:
        port = next(ports)
        return [program("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port

    with started(command, folder) as server:
        yield server


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """rclone: a bucket is a folder below `folder`; conditions on writes are ignored."""

    def command(ports: Iterator[int]) -> tuple[list[str], int]:
        port = next(ports)
        keys = f"--auth-key={ACCESS_KEY},{SECRET_KEY}"
        address = f"--addr=127.0.0.1:{port}"
        return [program("rclone"), "serve", "s3", address, keys, f"{folder}"], port

    with started(command, folder) as server:
        yield server


@contextmanager
def started(
    command: Callable[[Iterator[int]], tuple[list[str], int]], folder: Path
) -> Iterator[Server]:
    """Run a server until the block ends.

    A free port may be taken before the server binds it, so a server that does not come up is
    started again with other ports.

    Args:
        command: takes ports from an iterator; returns the command line and the S3 port.
        folder: where the server may write; its log is next to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    for _ in range(START_ATTEMPTS):
        arguments, port = command(iter(free_ports(12)))
        process = spawn(arguments, log, {**os.environ, **CREDENTIALS})
        try:
            if answers(port, process):
                server = Server(f"http://127.0.0.1:{port}", process.pid, log)
                with pytest.MonkeyPatch.context() as patch:
                    for name, value in CREDENTIALS.items():
                        patch.setenv(name, value)
                    server.prepare()
                yield server
                return
        finally:
            stop(process)
    raise RuntimeError(f"{arguments[0]} does not start:\n{log.read_text()[-3000:]}")


def spawn(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a process group that ends with this process, however this process ends."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
    atexit.register(stop, process)
    return process


def die_with_parent() -> None:
    """Ask Linux to send SIGKILL when the parent dies: prctl(PR_SET_PDEATHSIG, SIGKILL)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and the processes that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the port answers HTTP; False if the process ends or time runs out."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
        except urllib.error.HTTPError as refusal:  # still an answer
            refusal.close()
            if refusal.code < 500:
                return True
        except OSError:
            pass
        else:
            return True
        time.sleep(0.1)
    return False


def free_ports(number: int) -> list[int]:
    """Distinct ports that are free now."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def program(name: str) -> str:
    """The path of a program installed in this environment, whether or not it is activated."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed; pip install nightpress[test]")
    return found
