"""What a device calls itself, as the key of what was measured on it."""

import platform
from contextlib import suppress
from pathlib import Path


def device_name(device: str) -> str | None:
    """What processes here call the device: the model of the processor or of the first GPU.

    Args:
        device: `cpu` or `cuda`.

    Returns:
        None if this machine has no such device.
    """
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
