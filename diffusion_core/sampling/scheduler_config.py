"""The noise process and the prediction type that a diffusers scheduler's configuration names."""

from collections.abc import Mapping
from typing import Any, get_args

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models import samplers
from nightpress.diffusion_core.theory.noise import (
    BetaSchedule,
    FlowPath,
    NoiseProcess,
    NoiseSchedule,
)
from nightpress.diffusion_core.theory.prediction import PREDICTION_TYPES, PredictionType


def prediction_type_of(config: Mapping[str, Any]) -> PredictionType:
    """What a denoiser predicts, from the configuration of its diffusers scheduler.

    Raises:
        SettingsError: the prediction type is not one of `PREDICTION_TYPES`.
    """
    if samplers.is_flow(config):
        return "flow_prediction"
    named = config.get("prediction_type", "epsilon")
    for kind in PREDICTION_TYPES:
        if kind == named:
            return kind
    raise SettingsError(f"prediction_type {named!r}: must be one of {', '.join(PREDICTION_TYPES)}")


def process_of(config: Mapping[str, Any]) -> NoiseProcess:
    """The noise process that a diffusers scheduler reverses, from its configuration.

    A shift that depends on the size of the image is left out: it belongs to sampling.

    Raises:
        SettingsError: the betas follow none of the known schedules.
    """
    num_steps = int(config.get("num_train_timesteps", 1000))
    if samplers.is_flow(config):
        fixed = not config.get("use_dynamic_shifting")
        shift = config.get("shift", config.get("flow_shift", 1.0)) if fixed else 1.0
        return FlowPath(num_steps, float(shift))
    kind: Any = config.get("beta_schedule")
    trained = config.get("trained_betas") is not None
    if trained or kind not in get_args(BetaSchedule):
        value, known = "trained_betas" if trained else repr(kind), ", ".join(get_args(BetaSchedule))
        raise SettingsError(f"beta_schedule {value}: must be one of {known}")
    return NoiseSchedule(
        num_steps=num_steps,
        kind=kind,
        beta_start=float(config["beta_start"]),
        beta_end=float(config["beta_end"]),
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
    )
