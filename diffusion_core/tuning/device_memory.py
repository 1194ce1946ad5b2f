"""How much device memory a process may use, and the peak that it has used.

On CUDA this counts torch's allocations, on a CPU the process's resident memory.
"""

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch

HEADROOM = 0.1
"""Share of the memory that trials leave free, for fragmentation and for growth elsewhere."""


class DeviceMemory(Protocol):
    """The memory of a device that a process may use."""

    limit_bytes: int
    """The most that may be in use."""

    def reset_peak(self) -> None:
        """Start a new peak."""

    def peak_bytes(self) -> int:
        """The most that was in use since `reset_peak`."""


class CudaMemory:
    """The memory of the current GPU.

    Args:
        share: this process's share of the GPU's memory, if several processes use it.
    """

    def __init__(self, share: float = 1.0) -> None:
        free, total = torch.cuda.mem_get_info()
        ours = min(free + torch.cuda.memory_reserved(), int(share * total))
        self.limit_bytes = int((1 - HEADROOM) * ours)

    def reset_peak(self) -> None:
        """Release the memory that torch has cached, and start a new peak."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int:
        """The most memory that tensors have occupied since `reset_peak`."""
        return torch.cuda.max_memory_allocated()


class HostMemory:
    """The memory of this machine, or of the container that the process runs in.

    Args:
        share: this process's share of the free memory, if several processes grow at once.
    """

    def __init__(self, share: float = 1.0) -> None:
        available = int((1 - HEADROOM) * share * available_bytes())
        self.limit_bytes = resident_bytes() + available

    def reset_peak(self) -> None:
        """Start a new peak, if the system supports it."""
        with contextlib.suppress(OSError):  # then the peak is that of the process's whole life
            CLEAR_REFS.write_text("5")

    def peak_bytes(self) -> int:
        """The most that this process has held since `reset_peak`; ever, if that is unsupported."""
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
"""Limit and usage files of control groups, version 2 and version 1."""


def available_bytes() -> int:
    """Memory that processes can still allocate; half of all memory if no system file says."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = _kilobytes(MEMINFO).get("MemAvailable", whole // 2)
    for limit, used in CONTAINER:
        if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
            left = int(limit.read_text()) - int(used.read_text())
            available = min(available, max(0, left))
    return available


def resident_bytes() -> int:
    """Resident memory of this process; 0 if no system file says."""
    return _kilobytes(STATUS).get("VmRSS", 0)


def _kilobytes(path: Path) -> dict[str, int]:
    """Name -> bytes, from a file with lines such as `VmRSS:  1234 kB`."""
    if not path.is_file():
        return {}
    lines = (line.split() for line in path.read_text().splitlines())
    return {
        words[0].removesuffix(":"): 1024 * int(words[1])
        for words in lines
        if len(words) == 3 and words[2] == "kB"
    }


@contextlib.contextmanager
def trial_memory(device: str, share: float) -> Iterator[DeviceMemory]:
    """The memory that trials on a device may use; it is released afterwards.

    Args:
        device: `cpu` or `cuda`.
        share: this process's share of the device's memory.
    """
    memory: DeviceMemory = CudaMemory(share) if device == "cuda" else HostMemory(share)
    try:
        yield memory
    finally:
        memory.reset_peak()
