"""How much device memory a process may use, and the peak that it has used.

On CUDA this counts torch's allocations, beside which the process's context takes memory; on a CPU
it counts the process's resident memory.
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

MAX_CONTEXT_BYTES = 1 << 30
"""The most that a CUDA context takes: its own memory, loaded kernels, workspaces of libraries."""


class DeviceMemory(Protocol):
    """The memory of a device that a process may use."""

    limit_bytes: int
    """The most that may be in use."""

    def reset_peak(self) -> None:
        """Start a new peak."""

    def peak_bytes(self) -> int:
        """The most that was in use since `reset_peak`."""


class CudaMemory:
    """The memory of a GPU.

    Args:
        device: `cuda` for the current one, or such as `cuda:1`.
        share: this process's share of the GPU's memory, if several processes use it. The context
            of the process is part of it, and tensors get the rest.
    """

    def __init__(self, device: str = "cuda", share: float = 1.0) -> None:
        self._device = torch.device(device)
        free, total = torch.cuda.mem_get_info(self._device)
        reserved = torch.cuda.memory_reserved(self._device)
        # What no allocator of this process holds: its own context, and all of other processes.
        context = min(max(0, total - free - reserved), MAX_CONTEXT_BYTES)
        ours = min(free + reserved, int(share * total) - context)
        self.limit_bytes = int((1 - HEADROOM) * max(0, ours))

    def reset_peak(self) -> None:
        """Release the memory that torch has cached, and start a new peak."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        """The most memory that tensors have occupied since `reset_peak`."""
        return torch.cuda.max_memory_allocated(self._device)


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
        device: torch's name of the device, such as `cpu`, `cuda` or `cuda:1`.
        share: this process's share of the device's memory.
    """
    on_gpu = torch.device(device).type == "cuda"
    memory: DeviceMemory = CudaMemory(device, share) if on_gpu else HostMemory(share)
    try:
        yield memory
    finally:
        memory.reset_peak()
