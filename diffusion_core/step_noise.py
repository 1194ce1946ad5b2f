"""The noise that some samplers add at their steps, brought to the accelerator without a wait.

It is drawn on the host, from each image's own generator. diffusers then copies it in such a way
that the host waits until all before it is computed, at every step.
"""

import functools
import sys
from typing import Any

import torch

from diffusion_core.shadowing import shadowed


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
