"""A batch in flight: its faults are read when the device is done, and it is repeated if it must."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from nightpress.diffusion_core.errors import SamplingError
from nightpress.diffusion_core.sampling.batch_result import BatchInFlight, SampledBatch
from nightpress.diffusion_core.sampling.copy_to_host import Copy, CopyStream
from nightpress.diffusion_core.sampling.faults import Fault

GREY = SampledBatch(np.full((2, 8, 8, 3), 127, np.uint8), (None, None))


class Queue:
    """Copies that are complete when someone has waited; counts the waits."""

    def __init__(self) -> None:
        self.num_waits = 0

    def copy_to_host(self, tensor: torch.Tensor) -> Copy:
        return Copy(tensor, self)

    def synchronize(self) -> None:
        self.num_waits += 1


def in_flight(
    copies: Any, overflowed: bool = False, repeat: Callable[[], SampledBatch] = lambda: GREY
) -> BatchInFlight:
    """A batch of a gradient and a picture of one colour, of which the first is not finite."""
    images = torch.linspace(0, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8).clone()
    images[1] = 0.5
    finite = torch.tensor([False, True])
    flags = [False, False]
    verdict = torch.tensor(overflowed)
    return BatchInFlight(
        images, finite, verdict, flags, copies, lambda faults, overflowed: overflowed, repeat
    )


def test_nothing_is_waited_for_until_it_is_asked_for() -> None:
    queue = Queue()
    batch = in_flight(queue)
    assert (batch.is_done, queue.num_waits) == (False, 0)
    assert batch.faults == (Fault.NON_FINITE, Fault.BLANK)
    assert queue.num_waits == 1
    assert not batch.must_be_repeated
    assert batch.pixels[0].max() == 0  # not finite
    assert (batch.pixels[1] == 128).all()
    assert batch.settled().faults == batch.faults


def test_a_cpu_is_done_at_once() -> None:
    assert in_flight(CopyStream("cpu")).is_done


def test_a_batch_that_must_be_repeated_is_repeated_once_in_the_thread_that_made_it() -> None:
    calls = []

    def repeat() -> SampledBatch:
        calls.append(threading.get_ident())
        return GREY

    batch = in_flight(Queue(), overflowed=True, repeat=repeat)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(lambda: batch.must_be_repeated).result()
        with pytest.raises(SamplingError, match="another thread"):
            other.submit(lambda: batch.faults).result()
        assert calls == []
        assert batch.faults == GREY.faults
        assert batch.settled() is GREY
        assert calls == [threading.get_ident()]
        assert (other.submit(lambda: batch.pixels).result() == GREY.pixels).all()
