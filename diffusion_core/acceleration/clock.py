"""The timestep of the current denoising step, for caches in a network."""

from typing import Any


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
