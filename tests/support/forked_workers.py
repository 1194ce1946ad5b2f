"""Ray workers that are forked from one process which has imported torch and diffusers already.

Importing them takes each worker four to six seconds of CPU, and the suite starts hundreds of
workers. `forked_workers` starts a server that imports them once, and gives the `py_executable` of a
Ray runtime environment. Ray then starts each worker through this file: it asks the server for a
fork that runs Ray's own worker program, with the arguments, environment, folder and output of the
process that asked. The fork is a process of its own, with a process id that Ray knows, so it can be
killed, drained and lost like any other worker. Tests that start `nightpress` as a program of its
own, and the nights of `tests/chaos`, use workers that Ray starts in the usual way.
"""

import contextlib
import gc
import json
import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

ADDRESS = "NIGHTPRESS_FORK_SERVER"
"""The environment variable that holds the server's socket."""

START_TIMEOUT_S = 240.0

MAX_REQUEST_BYTES = 1 << 20


@contextmanager
def forked_workers() -> Iterator[dict[str, Any]]:
    """Run a server; yields what a Ray runtime environment needs for workers from it."""
    with tempfile.TemporaryDirectory(prefix="fork-") as folder:
        path = str(Path(folder) / "socket")
        server = subprocess.Popen([sys.executable, __file__, "serve", path])
        try:
            _wait_for(path, server)
            # Without the site module: this process only passes on what it was started with.
            client = [sys.executable, "-S", "-E", __file__]
            yield {"py_executable": shlex.join(client), "env_vars": {ADDRESS: path}}
        finally:
            server.kill()
            server.wait()


def _wait_for(path: str, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while not os.path.exists(path):
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError("the server that forks Ray workers did not start")
        time.sleep(0.05)


def serve(path: str) -> None:
    """Import what workers need, then fork one for each request."""
    _preload()
    signal.signal(signal.SIGCHLD, _reap)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{path}.new")
        server.listen(64)
        os.rename(f"{path}.new", path)
        while True:
            connection, _ = server.accept()
            with connection:
                request, descriptors, *_ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 3)
                if os.fork() == 0:
                    server.close()
                    connection.close()
                    _run_worker(json.loads(request), descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)


def _reap(*_: object) -> None:
    """Take note of the forks that have ended, so that their CPU time counts as this process's."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _preload() -> None:
    """Import all that an actor imports but Ray, which cannot be forked once it is imported."""
    import diffusers
    import pyarrow.dataset  # noqa: F401
    import transformers

    import nightpress.diffusion_core.sampling.sampler
    import nightpress.pipelines.shards.runner  # noqa: F401

    transformers.utils.logging.set_verbosity_error()
    for name in ("StableDiffusionPipeline", "AutoencoderKL", "UNet2DConditionModel"):
        getattr(diffusers, name)
    for name in ("CLIPTextModel", "CLIPTokenizer"):
        getattr(transformers, name)
    transformers.utils.logging.set_verbosity_warning()
    gc.collect()
    gc.freeze()  # no fork goes through these objects, or copies the memory that they are in


def _run_worker(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """In a fork: become the program that was asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.argv = request["arguments"]
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[0] = str(Path(sys.argv[0]).parent)
    sys.path[1:1] = [each for each in added if each and each not in sys.path]
    code: Any = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def request_worker() -> None:
    """Ask the server for a fork with the arguments and environment of this process."""
    request = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[ADDRESS])
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        server.recv(1)  # the server has closed its side: the fork is there


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        request_worker()
