"""Scheduler steps that never make the host wait for the accelerator."""

import functools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from nightpress.diffusion_core.patching import shadowed


def bring_without_waiting(scheduler: Any) -> Any:
    """Have the steps of a fresh scheduler draw their noise as ever, and not wait for its copy.

    The values are the same, so no bit changes. For generators of the host only.
    """
    home = sys.modules[type(scheduler).__module__]
    draw = getattr(home, "randn_tensor", None)
    if draw is None:  # it adds none
        return scheduler
    step = scheduler.step

    def drawn(shape: Any, *, device: Any = None, **settings: Any) -> torch.Tensor:
        return upload(draw(shape, device=torch.device("cpu"), **settings), device)

    @functools.wraps(step)
    def stepped(*args: Any, **kwargs: Any) -> Any:
        with shadowed(home, "randn_tensor", drawn):
            return step(*args, **kwargs)

    scheduler.step = stepped
    return scheduler


def upload(tensor: torch.Tensor, device: Any) -> torch.Tensor:
    """A tensor of the host on a device, from page-locked memory where that makes it no wait."""
    target = torch.device(device or "cpu")
    if target.type != "cuda":
        return tensor.to(target)
    return tensor.pin_memory().to(target, non_blocking=True)


def keep_at_hand(scheduler: Any) -> Any:
    """Have a fresh scheduler's steps take their times from a copy in the host's memory.

    The copy is made at the first step, once for all: by then the pipeline has its own list of
    them. The values are the same, so no bit changes.
    """
    step = scheduler.step
    times: list[Any] = []

    @functools.wraps(step)
    def stepped(model_output: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        if not times:
            scheduler.timesteps = scheduler.timesteps.to("cpu", copy=True)
            times.extend(reversed(scheduler.timesteps.unbind()))
        return step(model_output, times.pop(), *args, **kwargs)

    scheduler.step = stepped
    return scheduler


UPDATES = ("multistep_uni_p_bh_update", "multistep_uni_c_bh_update")
"""UniPC's methods that predict a sample, and correct it."""


def solve_without_waiting(scheduler: Any) -> Any:
    """Have the steps of a fresh UniPC scheduler not wait for the accelerator; others stay.

    Its noise levels are brought there at the first step, all at once. The values are the same, so
    no bit changes. A system without a solution ends in values that are not finite, and not in an
    error.
    """
    there: list[torch.Tensor] = []
    for name in UPDATES:
        if hasattr(scheduler, name):
            setattr(scheduler, name, _sparing_waits(scheduler, getattr(scheduler, name), there))
    return scheduler


def _sparing_waits(
    scheduler: Any, update: Callable[..., torch.Tensor], there: list[torch.Tensor]
) -> Callable[..., torch.Tensor]:
    """An update that finds the noise levels on the accelerator; the first one brings them."""
    home = sys.modules[type(scheduler).__module__]

    @functools.wraps(update)
    def updated(*args: Any, **kwargs: Any) -> torch.Tensor:
        if not there:
            answer = (*args, *kwargs.values())[0]
            there.append(upload(scheduler.sigmas, answer.device))
        with shadowed(scheduler, "sigmas", there[0]), shadowed(home, "torch", _Torch()):
            return update(*args, **kwargs)

    return updated


class _Torch:
    """torch, as the module of the scheduler sees it during a step."""

    linalg = SimpleNamespace(solve=lambda a, b: torch.linalg.solve_ex(a, b).result)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
