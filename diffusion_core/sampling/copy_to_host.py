"""A second stream of the device, on which prompts are encoded and images copied to host memory.

What runs on it runs while a batch is denoised. Owns the stream, and what must wait for what. On a
CPU there is no stream, and everything is done at once.
"""

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from nightpress.diffusion_core.errors import DeviceError, one_line


class Copy:
    """A tensor that is being copied to host memory; any thread may wait for it.

    Args:
        host: the tensor that is being filled.
        done: an event recorded after the copy; None if the copy is complete.
    """

    def __init__(self, host: torch.Tensor, done: Any = None) -> None:
        self._host, self._done = host, done

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to wait for, as on a CPU."""
        return self._done is None

    def tensor(self) -> torch.Tensor:
        """Wait until the copy is complete, and return it.

        Raises:
            DeviceError: the device failed, during the copy or before it.
        """
        try:
            return self.wait()
        except RuntimeError as error:
            raise DeviceError(f"{type(error).__name__}: {one_line(error)}") from error

    def wait(self) -> torch.Tensor:
        """`tensor`, but raises what torch raises."""
        if self._done is not None:
            self._done.synchronize()
        return self._host

    def pageable(self) -> torch.Tensor:
        """`tensor` in ordinary memory: what is kept for long must not keep pages locked."""
        return self.tensor() if self.is_done else self.tensor().clone()

    def numpy(self) -> npt.NDArray[Any]:
        """`tensor` as a numpy array."""
        array: npt.NDArray[Any] = np.asarray(self.tensor().numpy())
        return array


class CopyStream:
    """A stream of one device, used by one thread at a time.

    Args:
        device: torch's name of the device.
        cuda: the module that makes streams.
    """

    def __init__(self, device: str, cuda: Any = torch.cuda) -> None:
        self._cuda = cuda
        self._stream = cuda.Stream(device) if torch.device(device).type == "cuda" else None
        self.wait_for_current_stream()

    def wait_for_current_stream(self) -> None:
        """Make later work on this stream wait for what the calling thread has queued so far."""
        if self._stream is not None:
            self._stream.wait_stream(self._cuda.current_stream(self._stream.device))

    def as_current(self) -> contextlib.AbstractContextManager[Any]:
        """Within the block, the calling thread's work for the device goes to this stream."""
        return contextlib.nullcontext() if self._stream is None else self._cuda.stream(self._stream)

    def copy_to_host(self, tensor: torch.Tensor) -> Copy:
        """Start copying a tensor into page-locked host memory, without waiting for the copy.

        The tensor's memory is not reused before the copy is complete.
        """
        if self._stream is None or not tensor.is_cuda:  # some pipelines return numpy arrays
            return Copy(tensor.cpu())
        self.wait_for_current_stream()
        with self.as_current():
            host = page_locked(tensor)
            host.copy_(tensor, non_blocking=True)
            done = self._cuda.Event(blocking=True)  # a waiting thread sleeps; others would spin
            done.record(self._stream)
        tensor.record_stream(self._stream)
        return Copy(host, done)

    def fetch(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor to host memory and wait for it; raises what torch raises."""
        return self.copy_to_host(tensor).wait()


def page_locked(tensor: torch.Tensor) -> torch.Tensor:
    """An empty tensor of the same shape and type in host memory that a device can write to."""
    return torch.empty_like(tensor, device="cpu", pin_memory=True)
