"""Faults inside worker processes, and a log of what they sample.

Python imports a module of this name when it starts, so it is enough to have this folder on
PYTHONPATH. A prompt says what happens to the process that samples it, or to its image.

The log has a line for each image whose sampling begins, and for each loss that follows:
`sampled SEED`; `ended` before a process ends or hangs; `again N` before a batch fails as a whole
and N of its images are tried again; `unstored` when a write to a full disk fails.
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
    """Patches the module that samples as soon as it is imported."""

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
    """Make the sampler do what prompts say, and log the seeds of the images it begins to sample."""
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
    """Do what prompts say to the process that samples them."""
    said = " ".join(prompts)
    if "SEGFAULT" in said:
        note("ended")
        os.kill(os.getpid(), signal.SIGSEGV)
    if "KILLED" in said:  # as the kernel does when memory runs out
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
    """Make the decoder do what each prompt says to its image, while a batch is sampled."""
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
    """Fail for rows that do not fit in memory or cannot be decoded."""
    import torch

    said = " ".join(prompts)
    if "MEMORY" in said or ("CRAMPED" in said and batch_size > 1):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a great deal.")
    if "DECODE" in said:
        note(f"again {len(prompts) - 1}")
        raise RuntimeError("this row cannot be decoded")


def spoil(picture: Any, prompt: str) -> None:
    """Spoil the image of a row in place; (3, H, W)."""
    if "NAN" in prompt:
        picture[0, 0, 0] = float("nan")
    if "BLANK" in prompt:
        picture[:] = 0.0


def fill_the_disk(flag: Path) -> None:
    """Make every fsync fail while the flag file exists."""
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
