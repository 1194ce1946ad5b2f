"""When a run starts the Ray of its own: beside the checks, and only where there is work."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from nightpress import jobs
from nightpress.jobs.cluster import connection, worker_template
from nightpress.jobs.runs import runner
from nightpress.pipelines.errors import ManifestError, RunHeld, StoreDenied, StoreError
from nightpress.pipelines.job.spec import RunSpec

MakeSpec = Callable[..., RunSpec]

LIMIT_S = 60.0


class Starts:
    """The Rays that were started and stopped in place of real ones."""

    def __init__(self) -> None:
        self.has_one, self.log = threading.Event(), list[str]()

    @contextmanager
    def cluster(self, spec: object) -> Iterator[bool]:
        self.log.append("started")
        self.has_one.set()
        yield True
        self.log.append("stopped")


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    """As in a process that has joined no Ray, with starts that are only noted."""
    made = Starts()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(worker_template, "begin", lambda: None)
    monkeypatch.setattr(connection, "cluster", made.cluster)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return made


def test_ray_starts_while_a_new_run_is_checked_and_stops_if_a_check_fails(
    make_spec: MakeSpec, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_slowly(*arguments: Any) -> None:
        assert starts.has_one.wait(LIMIT_S), "Ray waits for the checks"
        assert starts.log == ["started"]
        raise RunHeld("somebody else works on it")

    monkeypatch.setattr(runner, "require_free_run", check_slowly)
    with pytest.raises(RunHeld):
        jobs.run(make_spec())
    assert starts.log == ["started", "stopped"]


def test_no_ray_is_started_for_what_a_look_at_the_disk_finds_wrong(
    make_spec: MakeSpec, starts: Starts, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        jobs.run(make_spec(output=str(tmp_path / "file")))
    with pytest.raises((ManifestError, StoreError)):
        jobs.run(make_spec(manifest=str(tmp_path / "none.csv")))
    assert starts.log == []


def test_ray_starts_while_the_store_of_a_manifest_is_asked(
    make_spec: MakeSpec, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask_slowly(*arguments: Any) -> None:
        assert starts.has_one.wait(LIMIT_S), "Ray waits for the store"
        raise StoreDenied("s3://bucket/rows.csv: refused")

    monkeypatch.setattr(runner, "require_answers", ask_slowly)
    with pytest.raises(StoreDenied):
        jobs.run(make_spec(manifest="s3://bucket/rows.csv"))
    assert starts.log == ["started", "stopped"]


def test_no_ray_is_started_where_the_job_names_a_cluster(
    make_spec: MakeSpec, starts: Starts, tmp_path: Path
) -> None:
    job = make_spec(cluster={"address": "head:6379"}, manifest=str(tmp_path / "none.csv"))
    with pytest.raises((ManifestError, StoreError)):
        jobs.run(job)
    assert starts.log == []


def test_a_finished_run_starts_no_ray(finished: MakeSpec, starts: Starts) -> None:
    assert jobs.run(finished()).num_made == 0
    assert starts.log == []


MARK = "NIGHTPRESS_TEST_START"


def marked_processes(mark: str) -> list[str]:
    """The programs of the processes that inherited a mark, without those that have ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            program = (process / "cmdline").read_bytes()
        except OSError:  # it has ended, or belongs to another user
            continue
        if f"{MARK}={mark}".encode() in environment.split(b"\0") and program:
            found.append(program.split(b"\0")[0].decode())
    return found


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a path short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="np-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def closed_port() -> int:
    """A port of this machine that refuses connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_command_whose_check_fails_leaves_no_process_of_the_ray_that_it_began(
    tmp_path: Path, short_folder: Path
) -> None:
    source = f"http://127.0.0.1:{closed_port()}/rows.csv"
    (tmp_path / "job.yaml").write_text(f"manifest: {source}\noutput: press\n")
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {MARK: short_folder.name, "RAY_TMPDIR": str(short_folder)}
    done = subprocess.run(
        [Path(sys.executable).parent / "nightpress", "run", "job.yaml"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {source}: ")
    assert list(short_folder.glob("ray/session_*/logs/raylet*")), "no Ray was begun"
    assert marked_processes(short_folder.name) == []
    assert not (tmp_path / "press").exists()
