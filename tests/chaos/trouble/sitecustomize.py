"""Trouble inside worker processes, and a log of what they sample.

Python imports a module of this name at its start, so that having this folder on PYTHONPATH is
enough. A prompt says what becomes of the process that samples it, or of its picture.

The log has a line for each image whose sampling begins, and one for each loss that follows:
`sampled SEED`; `ended` where a process is about to end or hang; `again N` where a batch is to fail
as a whole and N of its images are tried again; `unstored` where a write to a full disk failed.
"""

import errno
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

LOG = os.environ.get("NIGHTPRESS_CHAOS_LOG")


class Watch(MetaPathFinder):
    """Waits for the module that samples, and changes it once it is there."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != "nightpress.diffusion_core.sampling.sampler":
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
    """Have the sampler do what prompts say, and log the seeds of what it begins to sample."""
    plain = module.Sampler.sample

    def sample(self: Any, requests: Any, params: Any, batch_size: int | None = None) -> Any:
        note(*(f"sampled {request.seed}" for request in requests))
        prompts = [request.prompt for request in requests]
        befall(prompts)
        with spoiled(self._pipeline.vae, prompts):
            return plain(self, requests, params, batch_size)

    module.Sampler.sample = sample


def note(*lines: str) -> None:
    """Append to the log, in one write."""
    with open(LOG, "a", encoding="utf-8") as log:
        log.write("".join(f"{line}\n" for line in lines))


def befall(prompts: list[str]) -> None:
    """What rows do to the process that samples them."""
    said = " ".join(prompts)
    if "SEGFAULT" in said:
        note("ended")
        os.kill(os.getpid(), signal.SIGSEGV)
    if "KILLED" in said:  # as the kernel does when memory is out
        note("ended")
        os.kill(os.getpid(), signal.SIGKILL)
    if "HANG" in said:
        note("ended")
        time.sleep(3600)
    if "RAISE" in said:
        note(f"again {len(prompts) - 1}")
        raise RuntimeError("this row cannot be sampled")


@contextmanager
def spoiled(vae: Any, prompts: list[str]) -> Iterator[None]:
    """Have the decoder do to each picture what its prompt says, while a batch is sampled."""
    kind = type(vae)
    plain = kind.decode

    def decode(self: Any, latents: Any, *args: Any, **kwargs: Any) -> Any:
        refuse(prompts, len(latents))
        decoded = plain(self, latents, *args, **kwargs)
        for picture, prompt in zip(decoded[0], prompts, strict=False):
            spoil(picture, prompt)
        return decoded

    kind.decode = decode
    try:
        yield
    finally:
        kind.decode = plain


def refuse(prompts: list[str], batch_size: int) -> None:
    """Rows that no memory, or no decoder, can hold."""
    import torch

    said = " ".join(prompts)
    if "MEMORY" in said or ("CRAMPED" in said and batch_size > 1):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a great deal.")
    if "DECODE" in said:
        note(f"again {len(prompts) - 1}")
        raise RuntimeError("this row cannot be decoded")


def spoil(picture: Any, prompt: str) -> None:
    """Rows whose picture is none; (3, H, W), in place."""
    if "NAN" in prompt:
        picture[0, 0, 0] = float("nan")
    if "BLANK" in prompt:
        picture[:] = 0.0


def fill_the_disk(flag: Path) -> None:
    """Have bytes reach no disk while the flag is there."""
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        if flag.exists():
            note("unstored")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(descriptor)

    os.fsync = fsync


if LOG:
    fill_the_disk(Path(LOG).with_suffix(".full"))
    sys.meta_path.insert(0, Watch())
