"""The process that workers are forks of: what a fork is given, and how the process ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightpress.jobs.cli import starts_ray_here
from nightpress.jobs.cluster import worker_template
from nightpress.jobs.cluster.forked_worker import ADDRESS
from nightpress.jobs.cluster.worker_template import PROGRAM, WorkerTemplate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks of this kind need Linux")

PROBE = """
import gc, json, os, sys
if sys.argv[1:] == ["--collector"]:
    print(json.dumps([gc.isenabled(), gc.get_freeze_count() > 1000]))
    raise SystemExit(0)
print(json.dumps([sys.argv[1:], os.getcwd(), os.environ.get("SHARE"), "colorsys" in sys.modules]))
raise SystemExit(7)
"""


@pytest.fixture
def worker_program(tmp_path: Path) -> Path:
    """A package that stands for Ray, whose worker program prints what it was given."""
    folder = tmp_path / "packages" / "ray" / "_private" / "workers"
    folder.mkdir(parents=True)
    (tmp_path / "packages" / "ray" / "__init__.py").write_text("")
    (folder / "default_worker.py").write_text(PROBE)
    return tmp_path / "packages"


@pytest.fixture
def template(worker_program: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerTemplate]:
    monkeypatch.setenv("PYTHONPATH", str(worker_program))
    made = WorkerTemplate(modules=("colorsys",))
    yield made
    made.close()


def started(
    address: str, packages: Path, folder: Path, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    """What Ray's raylet does to start a worker."""
    environment = {**os.environ, "PYTHONPATH": str(packages), ADDRESS: address, "SHARE": "half"}
    return subprocess.run(
        [sys.executable, PROGRAM, *(arguments or ("--node", "a b"))],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_fork_gets_the_arguments_folder_environment_and_output_of_its_request(
    template: WorkerTemplate, worker_program: Path, tmp_path: Path
) -> None:
    done = started(template.address, worker_program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f'[["--node", "a b"], "{tmp_path}", "half", true]\n'


def test_a_fork_collects_garbage_but_nothing_that_was_imported_before_it(
    template: WorkerTemplate, worker_program: Path, tmp_path: Path
) -> None:
    done = started(template.address, worker_program, tmp_path, "--collector")
    assert done.stdout == "[true, true]\n", done.stderr


def test_without_a_template_the_worker_program_itself_is_started(
    worker_program: Path, tmp_path: Path
) -> None:
    done = started(str(tmp_path / "nobody"), worker_program, tmp_path)
    assert done.returncode == 7
    assert done.stdout == f'[["--node", "a b"], "{tmp_path}", "half", false]\n'


def test_a_template_that_cannot_import_leaves_the_worker_program_to_start(
    worker_program: Path, tmp_path: Path
) -> None:
    broken = WorkerTemplate(modules=("no_such_module",))
    try:
        assert started(broken.address, worker_program, tmp_path).returncode == 7
    finally:
        broken.close()


def test_the_template_ends_when_it_is_closed() -> None:
    template = WorkerTemplate(modules=())
    template.close()
    assert not is_running(template.pid)
    assert not Path(template.address).parent.exists()


def test_the_template_ends_with_a_driver_that_is_killed() -> None:
    code = (
        "import time\n"
        "from nightpress.jobs.cluster.worker_template import WorkerTemplate\n"
        "template = WorkerTemplate(modules=())\n"
        "print(template.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline())
        assert is_running(pid)
        driver.send_signal(signal.SIGKILL)
    while is_running(pid):  # pytest's own limit ends this
        time.sleep(0.02)


def test_a_template_that_no_ray_has_taken_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_template, "WorkerTemplate", lambda: WorkerTemplate(modules=()))
    worker_template.begin()
    (begun,) = worker_template._BEGUN
    worker_template.begin()
    assert [begun] == worker_template._BEGUN
    worker_template.give_up()
    assert not is_running(begun.pid)


def test_the_template_that_was_begun_is_the_one_that_a_ray_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_template, "WorkerTemplate", lambda: WorkerTemplate(modules=()))
    worker_template.begin()
    (begun,) = worker_template._BEGUN
    with worker_template.worker_template() as taken:
        assert taken is begun
        assert worker_template._BEGUN == []
    assert not is_running(begun.pid)


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        (["run", "job.yaml"], True),
        (["run", "job.yaml", "--help"], False),
        (["run", "job.yaml", "--address", "head:6379"], False),
        (["run", "job.yaml", "--set=cluster.address=auto"], False),
        (["status", "job.yaml"], False),
        ([], False),
    ],
)
def test_only_a_run_without_an_address_begins_the_template_at_once(
    arguments: list[str], starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert starts_ray_here(arguments) is starts
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert not starts_ray_here(arguments)


def test_a_run_of_a_bad_job_leaves_no_template(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("manifest: prompts.txt\nouput: press\n")
    program = Path(sys.executable).parent / "nightpress"
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with subprocess.Popen(
        [program, "run", "job.yaml"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE
    ) as driver:
        _, errors = driver.communicate()
    assert driver.returncode == 2
    assert b"ouput" in errors
    assert not templates_of(driver.pid)


def templates_of(driver: int) -> list[Path]:
    """The processes that import for a driver."""
    mark = f"\0{PROGRAM}\0serve\0".encode()
    return [
        file
        for file in Path("/proc").glob("[0-9]*/cmdline")
        if mark in (line := read(file)) and line.split(b"\0")[4] == str(driver).encode()
    ]


def read(file: Path) -> bytes:
    """What a process was started with; nothing once it has ended."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
