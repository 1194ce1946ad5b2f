"""A stream beside the device's own: what is computed or copied on it while a batch is denoised.

Owns the stream, and what must wait for what. On a CPU there is none; everything is done at once.
"""

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nightpress.diffusion_core.errors import DeviceError, one_line


class Copy:
    """A tensor on its way into host memory; any thread may ask for it.

    Args:
        host: where it arrives.
        done: an event of the stream that copies; None where it is there.
    """

    def __init__(self, host: torch.Tensor, done: Any = None) -> None:
        self._host, self._done = host, done

    def tensor(self) -> torch.Tensor:
        """The copy, once it is whole.

        Raises:
            DeviceError: the device failed, at the copy or at what was before it.
        """
        if self._done is not None:
            try:
                self._done.synchronize()
            except RuntimeError as error:
                raise DeviceError(f"{type(error).__name__}: {one_line(error)}") from error
        return self._host

    def numpy(self) -> npt.NDArray[Any]:
        """As `tensor`, for numpy."""
        array: npt.NDArray[Any] = np.asarray(self.tensor().numpy())
        return array


class CopyStream:
    """A stream of one device; for one thread at a time.

    Args:
        device: as torch names it.
        cuda: where streams come from.
    """

    def __init__(self, device: str, cuda: Any = torch.cuda) -> None:
        self._cuda = cuda
        self._stream = cuda.Stream(device) if torch.device(device).type == "cuda" else None
        self.follow()

    def follow(self) -> None:
        """Have what comes next wait for what the calling thread has given the device so far."""
        if self._stream is not None:
            self._stream.wait_stream(self._cuda.current_stream(self._stream.device))

    def entered(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, what the calling thread gives the device is done on this stream."""
        return contextlib.nullcontext() if self._stream is None else self._cuda.stream(self._stream)

    def copy_to_host(self, tensor: torch.Tensor) -> Copy:
        """Begin to copy a tensor into page-locked host memory, and do not wait for it.

        The memory below the tensor is not given to another before it is copied.
        """
        if self._stream is None or not tensor.is_cuda:  # some pipelines end in numpy
            return Copy(tensor.cpu())
        self.follow()
        with self.entered():
            host = page_locked(tensor)
            host.copy_(tensor, non_blocking=True)
            done = self._stream.record_event()
        tensor.record_stream(self._stream)
        return Copy(host, done)


def page_locked(tensor: torch.Tensor) -> torch.Tensor:
    """Room for a copy, which a device can fill by itself; nothing is in it yet."""
    return torch.empty_like(tensor, device="cpu", pin_memory=True)
