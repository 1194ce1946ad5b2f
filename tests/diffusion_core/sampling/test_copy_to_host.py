"""What the copy stream waits for, tested on a fake device that is as lazy as possible.

The device queues all work, one queue for each stream, and does only the work that somebody waits
for. So work that is not ordered correctly is not done.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from nightpress.diffusion_core.errors import DeviceError, OutOfMemory
from nightpress.diffusion_core.sampling import copy_to_host
from nightpress.diffusion_core.sampling.copy_to_host import Copy, CopyStream


class LazyStream:
    """Does the work in its queue in order, and no more of it than it must."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.queue: list[Callable[[], object]] = []
        self.num_done = 0

    def work(self, until: int) -> None:
        while self.num_done < until:
            self.num_done += 1
            self.queue[self.num_done - 1]()

    def wait_stream(self, other: "LazyStream") -> None:
        until = len(other.queue)
        self.queue.append(lambda: other.work(until))


class LazyEvent:
    """An event whose waiting thread sleeps, as only events with `blocking` do."""

    def __init__(self, blocking: bool = False) -> None:
        assert blocking, "a thread that waits for this event would spin"

    def record(self, stream: LazyStream) -> None:
        self._stream, self._until = stream, len(stream.queue)

    def synchronize(self) -> None:
        self._stream.work(self._until)


class LazyCuda:
    """The part of `torch.cuda` that concerns streams."""

    Event = LazyEvent

    def __init__(self) -> None:
        self.main = self.current = LazyStream("cuda:0")

    def Stream(self, device: str) -> LazyStream:  # noqa: N802 - torch's name
        return LazyStream(device)

    def current_stream(self, device: str) -> LazyStream:
        return self.current

    @contextmanager
    def stream(self, stream: LazyStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before


class LazyTensor:
    """A tensor that has a value once the device has done the work for it."""

    is_cuda = True

    def __init__(self, cuda: LazyCuda, value: str = "nothing yet") -> None:
        self._cuda, self.value = cuda, value
        self.held_for: list[LazyStream] = []

    def becomes(self, value: str) -> None:
        self._cuda.current.queue.append(lambda: setattr(self, "value", value))

    def copy_(self, source: "LazyTensor", non_blocking: bool) -> None:
        assert non_blocking
        self._cuda.current.queue.append(lambda: setattr(self, "value", source.value))

    def record_stream(self, stream: LazyStream) -> None:
        self.held_for.append(stream)

    def numpy(self) -> np.ndarray:
        return np.array(self.value)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> LazyCuda:
    lazy = LazyCuda()
    monkeypatch.setattr(copy_to_host, "page_locked", lambda tensor: LazyTensor(lazy))
    return lazy


def never() -> None:
    raise AssertionError("nothing should wait for this")


def test_a_copy_has_what_was_computed_before_it_and_waits_for_nothing_after_it(
    cuda: LazyCuda,
) -> None:
    side, pixels = CopyStream("cuda", cuda), LazyTensor(cuda)
    pixels.becomes("a fox")
    copy = side.copy_to_host(pixels)  # type: ignore[arg-type]
    assert cuda.main.num_done == 0
    cuda.main.queue.append(never)  # the next batch
    assert str(copy.numpy()) == "a fox"
    assert str(copy.numpy()) == "a fox"


def test_copies_are_made_in_order_and_each_keeps_its_own_values(cuda: LazyCuda) -> None:
    side = CopyStream("cuda", cuda)
    copies = []
    for text in ("a fox", "two ships"):
        pixels = LazyTensor(cuda)
        pixels.becomes(text)
        copies.append(side.copy_to_host(pixels))  # type: ignore[arg-type]
    assert [str(copy.numpy()) for copy in reversed(copies)] == ["two ships", "a fox"]


def test_a_tensor_is_kept_until_the_copy_stream_has_copied_it(cuda: LazyCuda) -> None:
    side, pixels = CopyStream("cuda", cuda), LazyTensor(cuda, "a fox")
    side.copy_to_host(pixels)  # type: ignore[arg-type]
    with side.as_current():
        assert pixels.held_for == [cuda.current]
    assert cuda.current is cuda.main


def test_work_on_the_copy_stream_does_not_wait_for_the_main_stream(cuda: LazyCuda) -> None:
    side = CopyStream("cuda", cuda)
    cuda.main.queue.append(never)  # a batch that is being denoised
    with side.as_current():
        embedding = LazyTensor(cuda)
        embedding.becomes("a prompt")
        copy = side.copy_to_host(embedding)  # type: ignore[arg-type]
    assert str(copy.numpy()) == "a prompt"


def test_work_after_waiting_for_the_main_stream_sees_its_changes(cuda: LazyCuda) -> None:
    side, weights = CopyStream("cuda", cuda), LazyTensor(cuda, "plain")
    weights.becomes("with an adapter")
    side.wait_for_current_stream()
    with side.as_current():
        copy = side.copy_to_host(weights)  # type: ignore[arg-type]
    assert str(copy.numpy()) == "with an adapter"


def test_work_on_a_new_copy_stream_waits_for_weights_that_are_still_loading(cuda: LazyCuda) -> None:
    weights = LazyTensor(cuda)
    weights.becomes("loaded")
    side = CopyStream("cuda", cuda)
    with side.as_current():
        copy = side.copy_to_host(weights)  # type: ignore[arg-type]
    assert str(copy.numpy()) == "loaded"


def test_fetching_waits_for_the_copy_alone_and_raises_what_torch_raises(cuda: LazyCuda) -> None:
    side, answer = CopyStream("cuda", cuda), LazyTensor(cuda)
    answer.becomes("finite")
    fetched: Any = side.fetch(answer)  # type: ignore[arg-type]
    assert fetched.value == "finite"

    def fail() -> None:
        raise torch.AcceleratorError("CUDA error: out of memory")

    cuda.main.queue.append(fail)
    with pytest.raises(torch.AcceleratorError):
        side.fetch(answer)  # type: ignore[arg-type]


def test_what_is_kept_for_long_is_no_page_locked_memory(
    cuda: LazyCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloned = torch.ones(2)
    monkeypatch.setattr(LazyTensor, "clone", lambda _: cloned, raising=False)
    prompt = LazyTensor(cuda)
    assert CopyStream("cuda", cuda).copy_to_host(prompt).pageable() is cloned  # type: ignore[arg-type]
    assert CopyStream("cpu", cuda=None).copy_to_host(cloned).pageable() is cloned


def test_a_device_that_fails_before_the_copy_is_complete_is_a_device_error() -> None:
    class Failed:
        def synchronize(self) -> None:
            raise torch.AcceleratorError("CUDA error:\nan illegal memory access")

    with pytest.raises(DeviceError, match="CUDA error: an illegal memory access") as caught:
        Copy(torch.zeros(1), Failed()).numpy()
    assert not isinstance(caught.value, OutOfMemory)


def test_on_a_cpu_nothing_is_copied_and_nothing_waits() -> None:
    side, tensor = CopyStream("cpu", cuda=None), torch.arange(6).view(2, 3)
    with side.as_current():
        copy = side.copy_to_host(tensor)
    side.wait_for_current_stream()
    assert copy.tensor() is tensor
    assert copy.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_tensor_in_host_memory_is_not_copied(cuda: LazyCuda) -> None:
    tensor = torch.zeros(2, 3)
    assert CopyStream("cuda", cuda).copy_to_host(tensor).tensor() is tensor


def test_a_lazy_device_does_only_what_is_waited_for(cuda: LazyCuda) -> None:
    """A test of the fake: without an order there is no value, so the tests above can fail."""
    pixels: Any = LazyTensor(cuda)
    pixels.becomes("a fox")
    unordered = LazyTensor(cuda)
    with cuda.stream(LazyStream("cuda:0")):
        unordered.copy_(pixels, non_blocking=True)
        recorded = LazyEvent(blocking=True)
        recorded.record(cuda.current)
        recorded.synchronize()
    assert unordered.value == "nothing yet"
