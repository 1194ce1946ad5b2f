"""Joining the inputs of a batch, image by image, and copying all of them to the device at once."""

import math
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from nightpress.diffusion_core.conditioning.spec import Pixels

ALIGNMENT_BYTES = 512
"""Where tensors begin in a shared buffer: as in torch's own memory on a GPU, so that kernels are
chosen as for tensors of their own."""

STAGED = 6
"""Lists of pictures that are kept joined until they are uploaded: a batch has up to three, and the
next one may be joined before this one is uploaded. Older ones are dropped."""

Prepare = Callable[[Sequence[Pixels]], Sequence[Pixels]]
"""What is done to pictures before they are uploaded."""

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
    if torch.device(device).type == "cpu":
        given = np.stack([_with_channels(each) for each in pictures])
        return torch.from_numpy(given).permute(0, 3, 1, 2).to(torch.float32) / 255
    return _upload_joined(_joined(pictures, device), device)


class PictureStage:
    """Joins the pictures of a later batch in page-locked memory; see `upload_pictures`.

    One thread may call `join` while another calls `upload`. What is uploaded is the same whether it
    was joined before or not.
    """

    def __init__(self) -> None:
        self._joined = deque[tuple[Hashable, Sequence[Pixels], torch.Tensor]](maxlen=STAGED)
        self._lock = threading.Lock()

    def join(
        self,
        pictures: Sequence[Pixels],
        device: str,
        prepare: Prepare = list,
        kind: Hashable = None,
    ) -> None:
        """Join pictures ahead of `upload`.

        Args:
            pictures, device: as for `upload_pictures`.
            prepare: what is done to them first.
            kind: what tells it from other preparations of the same pictures.
        """
        if torch.device(device).type != "cpu":
            joined = _joined(prepare(pictures), device)
            with self._lock:  # the pictures are kept, so that no other gets the name of one
                self._joined.append((_key(pictures, device, kind), list(pictures), joined))

    def upload(
        self,
        pictures: Sequence[Pixels],
        device: str,
        prepare: Prepare = list,
        kind: Hashable = None,
    ) -> torch.Tensor:
        """Upload pictures, joined ahead or not, as `upload_pictures` does; arguments of `join`."""
        key = _key(pictures, device, kind)
        with self._lock:
            found = next((each for each in self._joined if each[0] == key), None)
            if found is not None:
                self._joined = deque((e for e in self._joined if e is not found), STAGED)
        if found is None:
            return upload_pictures(prepare(pictures), device)
        return _upload_joined(found[2], device)


def _key(pictures: Sequence[Pixels], device: str, kind: Hashable) -> Hashable:
    return kind, device, tuple(map(id, pictures))


def _with_channels(picture: Pixels) -> Pixels:
    """(H, W, C), also of a mask."""
    return picture if picture.ndim == 3 else picture[..., None]


def _joined(pictures: Sequence[Pixels], device: str) -> torch.Tensor:
    """(B, H, W, C) uint8 in host memory from which the device copies."""
    given = [_with_channels(each) for each in pictures]
    shape = len(given), *given[0].shape
    joined = staging_buffer(math.prod(shape), device).view(shape)
    np.stack(given, out=joined.numpy())
    return joined


def _upload_joined(joined: torch.Tensor, device: str) -> torch.Tensor:
    """(B, C, H, W) float32 in 0..1, of (B, H, W, C) uint8 in host memory."""
    sent = joined.to(device, non_blocking=True)
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
