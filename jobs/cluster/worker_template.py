"""A process that imports what every actor needs while the driver still plans, and is then forked.

To import torch and diffusers takes an actor longer than all else before its first batch. Where
nightpress starts a Ray of its own, its workers are forks of one process that has done so, whose
memory they share. The process is started first, so it imports while Ray starts.
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nightpress.jobs.cluster import forked_worker

PROGRAM = forked_worker.__file__
"""What Ray starts in place of its own worker program."""


PRELOADED = (
    "torch",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "transformers.models.clip.modeling_clip",
    "nightpress.jobs.dispatch.held_models",
    "nightpress.pipelines.planning",
)
"""What an actor imports whatever its model is. None of them imports Ray."""


class WorkerTemplate:
    """A server of forks; it ends with `close`, or with this process.

    Args:
        modules: what it imports before it forks.
    """

    def __init__(self, modules: Sequence[str] = PRELOADED) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nightpress-")
        self.address = str(Path(self._folder.name) / "workers")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.address)
            listener.listen(128)  # requests wait here while the process imports
            number = listener.fileno()
            arguments = ["serve", str(number), str(os.getpid()), *modules]
            self._process = subprocess.Popen(
                [sys.executable, PROGRAM, *arguments],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    def close(self) -> None:
        """End the process; its forks go on."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


_BEGUN: list[WorkerTemplate] = []
"""The template that was begun before it was known whether a Ray will be started here."""


def is_possible() -> bool:
    """Whether workers can be forked here: macOS's own libraries do not survive it."""
    return sys.platform == "linux"


def begin() -> None:
    """Start the template of this process, unless it has one, before a Ray is asked for."""
    if is_possible() and not _BEGUN:
        _BEGUN.append(WorkerTemplate())


def give_up() -> None:
    """End the template that was begun, if no Ray has taken it."""
    while _BEGUN:
        _BEGUN.pop().close()


@contextmanager
def worker_template() -> Iterator[WorkerTemplate | None]:
    """The template that was begun, or a new one; None where none is possible."""
    begin()
    template = _BEGUN.pop() if _BEGUN else None
    try:
        yield template
    finally:
        if template is not None:
            template.close()
