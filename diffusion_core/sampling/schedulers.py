"""Make the diffusers scheduler that a sampler's name stands for, and check its steps."""

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.modes import LCM_STEPS
from nightpress.diffusion_core.models.samplers import (
    SAMPLER_NAMES,
    SCHEDULERS,
    is_flow,
    most_steps,
    settings_of,
    solver_and_suffix,
)


def make(name: str, config: Mapping[str, Any]) -> Any:
    """Make a fresh scheduler; schedulers hold the state of a loop, so every batch needs its own.

    Args:
        name: one of `SAMPLER_NAMES`.
        config: the configuration of the model's own scheduler, `_class_name` included. Its process
            (betas, prediction type, flow shift) is kept; `name` decides the solver.

    Raises:
        SettingsError: an unknown name, or one that does not fit what the model predicts.
    """
    import diffusers

    if name == "default":
        same = {key: value for key, value in config.items() if key != "_use_default_values"}
        return getattr(diffusers, config["_class_name"]).from_config(same)
    if name not in SAMPLER_NAMES:
        raise SettingsError(f"scheduler {name!r}: must be one of {', '.join(SAMPLER_NAMES)}")
    settings = settings_of(name, config)
    class_name, _ = SCHEDULERS[solver_and_suffix(name)[0]]
    return _build(getattr(diffusers, class_name), config, settings)


class Schedulers:
    """Makes the schedulers of one model.

    Each is a copy of one that was never used: making one from a configuration takes ten times as
    long, and an accelerator waits for it.

    Args:
        config: as for `make`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._unused: dict[str, Any] = {}

    def make(self, name: str) -> Any:
        """A fresh scheduler; see the function `make`."""
        if name not in self._unused:
            self._unused[name] = make(name, self._config)
        return copy.deepcopy(self._unused[name])


def max_steps(name: str, num_train_timesteps: int) -> int:
    """The most denoising steps that a sampler can take."""
    return min(num_train_timesteps, LCM_STEPS) if name == "lcm" else num_train_timesteps


def is_uneven(num_inference_steps: int, num_train_timesteps: int) -> bool:
    """Whether diffusers makes one trailing timestep too many, as it does for 61 steps of 1000.

    It counts down by a fraction; where rounding leaves it just above 0 at the end, it adds a step
    at timestep -1, where DDIM and DDPM take the sample for pure noise.
    """
    step = num_train_timesteps / num_inference_steps
    return math.ceil(num_train_timesteps / step) != num_inference_steps


def check_steps(scheduler: Any, num_inference_steps: int) -> None:
    """Refuse a number of steps that the scheduler cannot take.

    Raises:
        SettingsError: more steps than the process has, fewer than one, or a number for which
            diffusers makes one trailing timestep too many.
    """
    most = most_steps({**scheduler.config, "_class_name": type(scheduler).__name__})
    if type(scheduler).__name__ == "LCMScheduler":
        most = min(most, int(scheduler.config.original_inference_steps))
    if not 1 <= num_inference_steps <= most:
        raise SettingsError(
            f"num_inference_steps {num_inference_steps}: "
            f"{type(scheduler).__name__} takes 1 to {most}"
        )
    if _is_trailing(scheduler) and is_uneven(num_inference_steps, most):
        raise SettingsError(
            f"num_inference_steps {num_inference_steps}: {type(scheduler).__name__} would take one "
            "more with trailing timesteps; use one step more or one fewer"
        )


def _is_trailing(scheduler: Any) -> bool:
    """Whether its timesteps are trailing; LCM and flow schedulers have spacings of their own."""
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    spaced = config.get("timestep_spacing") == "trailing" and not config.get("use_karras_sigmas")
    return spaced and config["_class_name"] != "LCMScheduler" and not is_flow(config)


def _build(scheduler_class: Any, config: Mapping[str, Any], settings: dict[str, Any]) -> Any:
    known = inspect.signature(scheduler_class.__init__).parameters
    return scheduler_class.from_config(
        dict(config), **{key: value for key, value in settings.items() if key in known}
    )
