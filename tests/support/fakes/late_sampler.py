"""A sampler whose batches are in flight until a test says that the device is done with them."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from support.fakes.fake_runs import FakeSampler

from nightpress.diffusion_core.sampling.batch_result import BatchInFlight, SampledBatch
from nightpress.diffusion_core.sampling.copy_to_host import Copy

PATIENCE_S = 20.0
"""How long the device waits for what must happen first; only a failing test waits that long."""


@dataclass
class Moment:
    """When the device is done with a batch; the host must not wait for it before it is allowed."""

    allowed: threading.Event = field(default_factory=threading.Event)
    error: str = ""

    def synchronize(self) -> None:
        assert self.allowed.wait(PATIENCE_S), "the host waited for the batch too early"
        if self.error:
            raise torch.AcceleratorError(self.error)


@dataclass
class Late:
    """Copies that are complete at a moment."""

    moment: Moment

    def copy_to_host(self, tensor: torch.Tensor) -> Copy:
        return Copy(tensor, self.moment)


class Spotted(FakeSampler):
    """Its images have a spot, so that none is blank."""

    def sample(self, requests: Any, params: Any, batch_size: int | None = None) -> SampledBatch:
        made = super().sample(requests, params, batch_size)
        made.pixels[:, 0, 0] = 200
        return made


@dataclass
class LateSampler(Spotted):
    """Its batches are in flight until `allow` says that the device is done with them.

    Args:
        allow: given the number of the batch that is queued, those that the device is done with.
        overflows: the numbers of the batches that must be sampled again.
        error: what the device fails with in each batch.
    """

    allow: Callable[[int], Sequence[int]] = lambda number: [number]
    overflows: Sequence[int] = ()
    error: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.moments: list[Moment] = []

    def sample(self, requests: Any, params: Any, batch_size: int | None = None) -> SampledBatch:
        number = len(self.moments)
        self.moments.append(Moment(error=self.error))
        made = super().sample(requests, params, batch_size)
        for each in self.allow(number):
            self.moments[each].allowed.set()
        images = torch.from_numpy(made.pixels).permute(0, 3, 1, 2) / 255
        overflowed = torch.tensor(number in self.overflows)
        finite = torch.ones(len(requests), dtype=torch.bool)
        return BatchInFlight(
            images,
            finite,
            overflowed,
            [False] * len(requests),
            Late(self.moments[number]),  # type: ignore[arg-type]
            lambda faults, overflowed: overflowed,
            lambda: pytest.fail("the runner samples such batches again itself"),
        )
