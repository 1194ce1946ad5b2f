"""Joining the inputs of a batch, image by image, and copying all of them to the device at once."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from nightpress.diffusion_core.conditioning.spec import Pixels

ALIGNMENT_BYTES = 512
"""Where tensors begin in a shared buffer: as in torch's own memory on a GPU, so that kernels are
chosen as for tensors of their own."""

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class _Place:
    """Where a tensor is in a buffer of bytes."""

    start: int
    num_bytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        """The tensor in a buffer, without a copy."""
        return buffer[self.start : self.start + self.num_bytes].view(self.dtype).view(self.shape)


def upload_rows(
    columns: Mapping[Name, Sequence[torch.Tensor]], device: str
) -> dict[Name, torch.Tensor]:
    """Join the rows of each column, and copy all columns to a device.

    To a GPU this is one copy from page-locked memory, and the host does not wait for it.

    Args:
        columns: name -> (1, ...) of each image, in host memory; of one shape and type.
        device: torch's name of the device.

    Returns:
        name -> (B, ...).
    """
    if torch.device(device).type == "cpu":
        return {name: torch.cat(list(rows)) for name, rows in columns.items()}
    places, num_bytes = _places(columns)
    buffer = staging_buffer(num_bytes, device)
    for name, rows in columns.items():
        torch.cat(list(rows), out=places[name].view(buffer))
    sent = buffer.to(device, non_blocking=True)
    return {name: place.view(sent) for name, place in places.items()}


def upload_pictures(pictures: Sequence[Pixels], device: str) -> torch.Tensor:
    """Join pictures and copy them to a device as values in 0..1, (B, C, H, W) float32.

    A GPU gets bytes, a quarter of what the values take, and computes the values itself, with the
    same bits as a CPU; the host does not wait for it.

    Args:
        pictures: (H, W, C), or (H, W) for masks, of one shape.
        device: torch's name of the device.
    """
    given = [each if each.ndim == 3 else each[..., None] for each in pictures]
    if torch.device(device).type == "cpu":
        return torch.from_numpy(np.stack(given)).permute(0, 3, 1, 2).to(torch.float32) / 255
    shape = len(given), *given[0].shape
    buffer = staging_buffer(math.prod(shape), device)
    np.stack(given, out=buffer.numpy().reshape(shape))
    sent = buffer.to(device, non_blocking=True).view(shape)
    # By a number of the host CUDA multiplies with its reciprocal, which may change the last bit.
    most = torch.full((), 255.0, device=device)
    return sent.permute(0, 3, 1, 2).to(torch.float32) / most


def staging_buffer(num_bytes: int, device: str) -> torch.Tensor:
    """Bytes of host memory to copy to a device from; page-locked for CUDA.

    torch keeps such a buffer until the copy has ended, and reuses it for later ones.
    """
    pinned = torch.device(device).type == "cuda"
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=pinned)


def _places(columns: Mapping[Name, Sequence[torch.Tensor]]) -> tuple[dict[Name, _Place], int]:
    """The place of each column in one buffer, and the size of the buffer in bytes."""
    places, end = dict[Name, _Place](), 0
    for name, rows in columns.items():
        first = rows[0]
        shape = (sum(len(row) for row in rows), *first.shape[1:])
        start = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        end = start + sum(row.nbytes for row in rows)
        places[name] = _Place(start, end - start, first.dtype, shape)
    return places, end
