"""Trouble inside worker processes, and a log of what they sample.

Python imports a module of this name at its start, so that having this folder on PYTHONPATH is
enough. A prompt says what becomes of the process that samples it.
"""

import dataclasses
import errno
import importlib.util
import os
import signal
import sys
import time
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

LOG = os.environ.get("NIGHTPRESS_CHAOS_LOG")


class Watch(MetaPathFinder):
    """Waits for the module that samples, and changes it once it is there."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != "diffusion_core.sampling":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        plain = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            plain(module)
            trouble(module)

        spec.loader.exec_module = exec_module
        return spec


def trouble(module: Any) -> None:
    """Have the sampler do what prompts say, and log the seeds of what it has sampled."""
    plain = module.Sampler.sample

    def sample(self: Any, requests: Any, params: Any, batch_size: int | None = None) -> Any:
        for request in requests:
            befall(request.prompt)
        made = plain(self, requests, params, batch_size)
        with open(LOG, "a", encoding="utf-8") as log:
            log.write("".join(f"{request.seed}\n" for request in requests))
        faults = [
            module.Fault.NON_FINITE if "NAN" in request.prompt else fault
            for request, fault in zip(requests, made.faults, strict=True)
        ]
        return dataclasses.replace(made, faults=tuple(faults))

    module.Sampler.sample = sample


def befall(prompt: str) -> None:
    """What a row does to the process that samples it."""
    if "SEGFAULT" in prompt:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "KILLED" in prompt:  # as the kernel does when memory is out
        os.kill(os.getpid(), signal.SIGKILL)
    if "HANG" in prompt:
        time.sleep(3600)
    if "RAISE" in prompt:
        raise RuntimeError("this row cannot be sampled")


def fill_the_disk(flag: Path) -> None:
    """Have bytes reach no disk while the flag is there."""
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        if flag.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(descriptor)

    os.fsync = fsync


if LOG:
    fill_the_disk(Path(LOG).with_suffix(".full"))
    sys.meta_path.insert(0, Watch())
