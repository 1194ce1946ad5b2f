"""Joining the inputs of a batch, image by image, and copying all of them to the device at once."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

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
