"""Test servers end with the tests, however the tests end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import servers

SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from pathlib import Path
import servers
with getattr(servers, sys.argv[1])(Path(sys.argv[2])) as server:
    print(server.pid, flush=True)
    {then}
"""


def server_of(then: str, kind: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A process that runs a server, and the server's own process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(then=then), kind, str(folder / "data")],
        env={**os.environ, "PYTHONPATH": str(Path(servers.__file__).parent)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    with process.stdout as stdout:
        return process, int(stdout.readline())


def ends(pid: int) -> bool:
    """Whether a process ends within 20 seconds."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return True  # dead, but not yet reaped by its new parent
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("kind", ["seaweed", "moto", "rclone"])
def test_a_server_ends_with_its_block(kind: str, tmp_path: Path) -> None:
    process, pid = server_of("pass", kind, tmp_path)
    assert process.wait(30) == 0
    assert ends(pid)


@pytest.mark.slow
@pytest.mark.parametrize("deadly", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_server_ends_when_its_tests_are_killed(deadly: signal.Signals, tmp_path: Path) -> None:
    process, pid = server_of("time.sleep(60)", "rclone", tmp_path)
    process.send_signal(deadly)
    assert process.wait(30) != 0
    assert ends(pid)


def test_ports_are_all_different() -> None:
    ports = servers.free_ports(50)
    assert len(set(ports)) == 50
