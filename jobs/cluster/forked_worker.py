"""Ray's worker program, run in a fork of a process that has imported torch and diffusers already.

Ray starts this file in place of its own worker program. It asks the server of `WorkerTemplate` for
a fork that runs Ray's program with the arguments, environment, folder and output that Ray gave; if
no server answers, it becomes that program itself. The fork has a process id of its own, which it
tells Ray, so it is killed, drained and lost like any worker.

It runs as a script, before anything is known to be importable, so it imports only Python's own
modules at first. Read against ray 2.60.0. Relies on its worker program being
`ray/_private/workers/default_worker.py`, and on Ray not having been imported before the fork: its
gRPC does not survive one. Read against torch 2.13.0. Relies on `torch.cuda._is_in_bad_fork`, which
says that CUDA was asked for something before the fork; such a fork starts Ray's program afresh.
"""

import gc
import json
import os
import runpy
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

ADDRESS = "NIGHTPRESS_WORKER_TEMPLATE"
"""The environment variable that holds the path of the server's socket."""

MAX_REQUEST_BYTES = 1 << 20

PR_SET_PDEATHSIG = 1
"""From Linux's sys/prctl.h."""


def serve(listener: socket.socket, parent: int, modules: list[str]) -> NoReturn:
    """Import what workers need, then fork one for each request, until the driver ends."""
    _end_with(parent)
    gc.disable()  # collecting takes a quarter of the time of these imports, and frees little
    for name in modules:
        import_module(name)
    gc.freeze()  # no fork goes through these objects, or copies the memory that they are in
    gc.enable()
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        connection, _ = listener.accept()
        with connection:
            request, descriptors, *_ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 3)
            if request and os.fork() == 0:
                listener.close()
                _answer(connection)
                connection.close()
                _run_worker(json.loads(request), descriptors)
            for descriptor in descriptors:
                os.close(descriptor)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when the one that started it ends, however that ends."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _answer(connection: socket.socket) -> None:
    """Say that the fork is there; one that nobody waits for any more ends."""
    try:
        connection.sendall(b"1")
    except BrokenPipeError:
        os._exit(1)


def _reap(_: int, __: FrameType | None) -> None:
    """Take note of the forks that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _run_worker(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """In a fork: become the worker that was asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    program, arguments = _worker_program(), request["arguments"]
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda._is_in_bad_fork():
        os.execv(sys.executable, [sys.executable, program, *arguments])  # noqa: S606
    sys.argv = [program, *arguments]
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [str(Path(program).parent), *(each for each in added if each)]
    code: Any = 1
    try:
        runpy.run_path(program, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _worker_program() -> str:
    """The path of Ray's own worker program, found without importing Ray."""
    found = find_spec("ray")
    folders = (found and found.submodule_search_locations) or []
    return str(Path(folders[0]) / "_private" / "workers" / "default_worker.py")


def request_fork() -> None:
    """Ask the server for a fork with what Ray gave this process, or become Ray's program."""
    address = os.environ.pop(ADDRESS, "")
    request = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }
    answer = b""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        answer = server.recv(1)  # from the fork
    if not answer:
        program = _worker_program()
        os.execv(sys.executable, [sys.executable, program, *sys.argv[1:]])  # noqa: S606


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        sys.path.pop(0)  # the folder of this file, whose modules are none of Python's
        serve(socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]), sys.argv[4:])
    else:
        request_fork()
