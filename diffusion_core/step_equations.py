"""UniPC's equations, set up and solved on the accelerator without a wait.

diffusers brings several noise levels there at each step, solves a small system of equations for
the weights of the answers so far, and asks whether it had a solution. For each of these the host
waits until all before it is computed.
"""

import functools
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from diffusion_core.shadowing import shadowed
from diffusion_core.step_noise import upload

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
