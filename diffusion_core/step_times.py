"""The time of the step at hand, known without waiting for the accelerator.

A scheduler puts its timesteps on the accelerator, and the pipeline hands one of them to each step.
DDPM, DDIM, LCM and PNDM then ask for it as a number, to look up their constants: at each step, the
host waits until all before it is computed, and the accelerator for the host after that.
"""

import functools
from typing import Any


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


class Clock:
    """The time of the step at hand, as a number, for hooks in a network."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._scheduler: Any = None
        self._timesteps: list[float] = []

    def now(self) -> float:
        """Of 1000 to 0."""
        scheduler = self._pipeline.scheduler
        if scheduler is not self._scheduler:  # there is a new one for each sampling
            self._scheduler, self._timesteps = scheduler, scheduler.timesteps.tolist()
        return self._timesteps[scheduler.step_index or 0]
