"""The memory that a process may fill on its device, and the most that it has filled.

On CUDA it is what torch has allocated, on a CPU what the process holds. Knows nothing of models.
"""

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch

HEAD_ROOM = 0.1
"""Share of the memory that no trial may fill: it is not all in one piece, and others grow."""


class Memory(Protocol):
    """The memory that a process may fill on its device."""

    room_bytes: int
    """The most that may be in use."""

    def forget(self) -> None:
        """Begin a new peak."""

    def peak_bytes(self) -> int:
        """The most that was in use since."""


class CudaMemory:
    """The memory of the current GPU.

    Args:
        share: of the whole, where several processes hold it together.
    """

    def __init__(self, share: float = 1.0) -> None:
        free, total = torch.cuda.mem_get_info()
        ours = min(free + torch.cuda.memory_reserved(), int(share * total))
        self.room_bytes = int((1 - HEAD_ROOM) * ours)

    def forget(self) -> None:
        """Give back what earlier batches held, and begin a new peak."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        """The most that tensors have taken since."""
        return torch.cuda.max_memory_allocated()


class HostMemory:
    """The memory of this machine, or of the container that the process lives in.

    Args:
        share: of what is free, where several processes grow together.
    """

    def __init__(self, share: float = 1.0) -> None:
        available = int((1 - HEAD_ROOM) * share * available_bytes())
        self.room_bytes = resident_bytes() + available

    def forget(self) -> None:
        """Begin a new peak, where the system can."""
        with contextlib.suppress(OSError):  # elsewhere a peak is the highest of all
            CLEAR_REFS.write_text("5")

    def peak_bytes(self) -> int:
        """The most that this process has held since, or ever where the system tells no more."""
        values = _kilobytes(STATUS)
        if "VmHWM" in values:
            return values["VmHWM"]
        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MEMINFO = Path("/proc/meminfo")
CONTAINER = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""Limit and use, of both versions of control groups."""


def available_bytes() -> int:
    """What processes here may still take; where no system file says, half of what there is."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = _kilobytes(MEMINFO).get("MemAvailable", whole // 2)
    for limit, used in CONTAINER:
        if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
            left = int(limit.read_text()) - int(used.read_text())
            available = min(available, max(0, left))
    return available


def resident_bytes() -> int:
    """What this process holds now; 0 where no system file says."""
    return _kilobytes(STATUS).get("VmRSS", 0)


def _kilobytes(path: Path) -> dict[str, int]:
    """Name -> bytes, of a file with lines such as `VmRSS:  1234 kB`."""
    if not path.is_file():
        return {}
    lines = (line.split() for line in path.read_text().splitlines())
    return {
        words[0].removesuffix(":"): 1024 * int(words[1])
        for words in lines
        if len(words) == 3 and words[2] == "kB"
    }


@contextlib.contextmanager
def room_on(device: str, share: float) -> Iterator[Memory]:
    """The memory that trials on a device may fill; afterwards they hold none of it.

    Args:
        device: `cpu` or `cuda`.
        share: of the device's, for this process.
    """
    memory: Memory = CudaMemory(share) if device == "cuda" else HostMemory(share)
    try:
        yield memory
    finally:
        memory.forget()
