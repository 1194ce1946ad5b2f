"""An accelerator that sleeps, for code that runs on torch's `meta` device.

Tensors on that device have shapes and no values, so whatever a GPU would compute costs the CPU next
to nothing, and the host's own work stays what it is. The networks of a model put seconds of work
into a queue; the host may run ahead of it by one call of a network, and waits for it where it would
wait for a GPU: where it reads a value, and where it copies from or to pageable memory.
"""

import functools
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nightpress.diffusion_core.sampling.copy_to_host import Copy, CopyStream

MAX_TWIN = 65_536
"""Elements of the largest tensor whose values are kept in host memory as well: timesteps, noise
levels and sizes, which the host may read."""

ATEN = torch.ops.aten
READS = {ATEN.nonzero.default, ATEN.equal.default}
"""Operations whose result the host sees, beside those of a single number."""

COMPOSITE = {ATEN.to, ATEN.item, ATEN.is_nonzero, ATEN.contiguous}
"""Operations that consist of others, among them those that wait; inference mode does not divide
them."""


@dataclass(frozen=True)
class Span:
    """When a piece of work began and ended, in seconds of some clock."""

    began: float
    ended: float


@dataclass(frozen=True)
class Work:
    """One piece of work of the accelerator."""

    batch: int
    """The batch to which it belongs."""
    real: Span
    """By `time.perf_counter`."""
    alone: Span
    """By the clock of a host that has a core to itself; see `HostClock`."""


class HostClock:
    """The CPU time of the thread that queues work, with its waits for the accelerator.

    What else the machine does, and what the thread waits for besides, does not count: so it tells
    on a busy machine, too, what the host's own work costs the accelerator.
    """

    def __init__(self) -> None:
        self._thread, self._offset, self._last = 0, 0.0, 0.0

    def now(self) -> float:
        """Seconds, which go on where another thread has left them."""
        cpu = time.thread_time()
        if threading.get_ident() != self._thread:
            self._thread, self._offset = threading.get_ident(), self._last - cpu
        self._last = cpu + self._offset
        return self._last

    def wait_until(self, moment: float) -> None:
        """Pass the time until then; ignores threads other than the one that queues work."""
        if threading.get_ident() == self._thread and (seconds := moment - self.now()) > 0:
            self._offset += seconds
            self._last += seconds


class Accelerator:
    """A queue of work that is done in order; each piece takes the seconds that it is given."""

    def __init__(self) -> None:
        self.done: list[Work] = []
        self.batch = 0
        """The number of the batch whose work is being queued."""
        self.num_waits = 0
        """How often the host has waited for all that was queued, before the end of a batch."""
        self.clock = HostClock()

    def enqueue(self, seconds: float) -> None:
        """Queue work, once the piece before it has begun."""
        if self.done:
            wait_until(self.done[-1].real.began)
            self.clock.wait_until(self.done[-1].alone.began)
        marker = self.marker()
        real = max(time.perf_counter(), marker.real)
        alone = max(self.clock.now(), marker.alone)
        spans = Span(real, real + seconds), Span(alone, alone + seconds)
        self.done.append(Work(self.batch, *spans))

    def marker(self) -> "Marker":
        """What is queued now."""
        if not self.done:
            return Marker(0.0, 0.0, self.clock)
        return Marker(self.done[-1].real.ended, self.done[-1].alone.ended, self.clock)

    def synchronize(self) -> None:
        """Wait until all queued work is done."""
        marker = self.marker()
        self.num_waits += marker.real > time.perf_counter()
        marker.synchronize()


def wait_until(moment: float) -> None:
    """Sleep until a time of `time.perf_counter`."""
    if (seconds := moment - time.perf_counter()) > 0:
        time.sleep(seconds)


@dataclass(frozen=True)
class Marker:
    """Stands for an event of CUDA: when what was queued before it will be done."""

    real: float
    alone: float
    clock: HostClock

    def synchronize(self) -> None:
        """Wait until that is done."""
        wait_until(self.real)
        self.clock.wait_until(self.alone)


class OnAccelerator(TorchDispatchMode):
    """Within it, the thread waits where it would wait for a GPU.

    Small tensors have a twin in host memory, from which their values are read. Where there is none,
    a number that the host reads is 0.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        super().__init__()
        self._accelerator = accelerator
        self.num_operations = 0
        self._known: dict[Any, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        metas = [each for each in _tensors((args, *kwargs.values())) if each.is_meta]
        target = kwargs.get("device")
        target = next((a for a in args if isinstance(a, torch.device)), target)
        enters = target is not None and target.type == "meta"
        if not metas and not enters:
            return func(*args, **kwargs)
        if func.overloadpacket in COMPOSITE:
            with self:
                return func.decompose(*args, **kwargs)
        self.num_operations += 1
        if func in READS:
            self._accelerator.synchronize()
            return _on_twins(func, args, kwargs)
        leaves = target is not None and not enters
        if leaves or _is_upload(func, args, enters):
            if not kwargs.get("non_blocking") and args[2:3] != (True,):
                self._accelerator.synchronize()
            if leaves:
                return _on_twins(func, args, kwargs)
        made = self._made(func, args, kwargs)
        if all(hasattr(each, "twin") for each in metas) and _is_small(made):
            twins = _on_twins(func, args, kwargs)
            for tensor, twin in zip(_tensors((made,)), _tensors((twins,)), strict=True):
                tensor.twin = twin
        return made

    def _made(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result's shape; what makes a new tensor is asked only once for the same arguments.

        torch's own functions for this are Python and take longer than starting a kernel does.
        """
        if not _makes_new(func):
            return func(*args, **kwargs)
        key = func, _key(args), _key(tuple(kwargs.items()))
        known = self._known.get(key)
        if known is None:
            made = func(*args, **kwargs)
            if not isinstance(made, torch.Tensor):
                return made
            self._known[key] = made.shape, made.stride(), made.dtype
            return made
        shape, stride, dtype = known
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")


@functools.cache
def _makes_new(func: Any) -> bool:
    """Whether an operation neither changes a tensor nor returns a view of one."""
    schema = func._schema
    return not any(each.alias_info for each in (*schema.arguments, *schema.returns))


def _key(value: Any) -> Any:
    """What of an argument decides the shape of the result."""
    if isinstance(value, torch.Tensor):
        return value.is_meta, value.shape, value.stride(), value.dtype
    return tuple(map(_key, value)) if isinstance(value, list | tuple) else value


def _is_upload(func: Any, args: tuple[Any, ...], enters: bool) -> bool:
    """Whether an operation copies from host memory to the accelerator."""
    if func is ATEN._to_copy.default:
        return enters and not args[0].is_meta
    return func is ATEN.copy_.default and args[0].is_meta and not args[1].is_meta


def _tensors(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _is_small(made: Any) -> bool:
    return all(tensor.numel() <= MAX_TWIN for tensor in _tensors((made,)))


def _on_twins(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation computes in host memory."""
    kwargs = {name: _twin(value) for name, value in kwargs.items()}
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    return func(*_twin(args), **kwargs)


def _twin(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_meta:
        return value.twin  # type: ignore[attr-defined]
    return type(value)(map(_twin, value)) if type(value) in (list, tuple) else value


HostValues = Callable[[torch.Tensor], tuple[torch.Tensor, bool]]
"""A tensor of the accelerator -> its values in host memory, and whether what is queued makes it."""


@contextmanager
def copied_to_host(accelerator: Accelerator, values: HostValues) -> Iterator[None]:
    """Within the block, a `CopyStream` copies from the accelerator as it does from a GPU."""
    original = CopyStream.copy_to_host

    def copy_to_host(stream: CopyStream, tensor: torch.Tensor) -> Copy:
        if not tensor.is_meta:
            return original(stream, tensor)
        host, is_queued = values(tensor)
        return Copy(host, accelerator.marker() if is_queued else None)

    CopyStream.copy_to_host = copy_to_host  # type: ignore[method-assign]
    try:
        yield
    finally:
        CopyStream.copy_to_host = original  # type: ignore[method-assign]


@contextmanager
def numbers_read(accelerator: Accelerator) -> Iterator[None]:
    """Within the block, a number of the accelerator can be read, which waits for it.

    `torch.tensor([number])` reads it where no dispatch mode sees it.
    """

    def read(number: Any) -> Any:
        accelerator.synchronize()
        return number.twin.item() if hasattr(number, "twin") else 0

    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it replaces a function of torch, as it should
        library.impl("_local_scalar_dense", read, "Meta", allow_override=True)
    try:
        yield
    finally:
        library._destroy()
