"""The timestep of the current denoising step, for caches inside a network."""

from typing import Any

from nightpress.diffusion_core import patching

READ_STEP = "tell a cache the current timestep"


class Clock:
    """Reads the timestep of the current step as a number, without reading from the accelerator.

    Read against diffusers 0.42.1. Relies on the pipeline's `scheduler`, a new one for each
    sampling, and on its `timesteps`, `step_index` and, before the first step, `begin_index`.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._scheduler: Any = None
        self._timesteps: list[float] = []

    def timestep(self) -> float:
        """The current timestep, between 1000 and 0."""
        scheduler = self._pipeline.scheduler
        if scheduler is not self._scheduler:
            timesteps = patching.require(scheduler, "timesteps", READ_STEP)
            self._scheduler, self._timesteps = scheduler, timesteps.tolist()
        step: int | None = patching.require(scheduler, "step_index", READ_STEP)
        first: int | None = getattr(scheduler, "begin_index", None)
        return self._timesteps[first or 0 if step is None else step]
