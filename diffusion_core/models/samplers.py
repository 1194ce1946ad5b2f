"""The names of the samplers, what each of them stands for, and which of them work with a model."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from nightpress.diffusion_core.errors import SettingsError

SAMPLER_NAMES = (
    "default",
    "ddpm",
    "ddpm-trailing",
    "ddim",
    "ddim-trailing",
    "dpmsolver++",
    "dpmsolver++-karras",
    "dpmsolver++-trailing",
    "dpmsolver-sde",
    "dpmsolver-sde-karras",
    "dpmsolver-sde-trailing",
    "euler",
    "euler-karras",
    "euler-trailing",
    "euler-ancestral",
    "euler-ancestral-trailing",
    "heun",
    "heun-karras",
    "heun-trailing",
    "unipc",
    "unipc-karras",
    "unipc-trailing",
    "lcm",
    "flow-euler",
)
"""Every sampler that a row can name; `default` is the scheduler in the model's folder."""

DIFFUSION_SAMPLERS = SAMPLER_NAMES[:-1]
"""The samplers for models that predict noise, velocity or the image of a diffusion process."""

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmsolver-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "flow-euler": ("FlowMatchEulerDiscreteScheduler", {}),
}
"""Sampler name without its suffix -> diffusers class, and the settings that distinguish it."""

SPACINGS: dict[str, dict[str, Any]] = {
    "": {},
    "-karras": {"use_karras_sigmas": True},
    "-trailing": {"timestep_spacing": "trailing"},
}
"""Suffix of a sampler's name -> how its steps are spaced: as in Karras et al. 2022, eq. 5, or from
the very last timestep on, Lin et al. 2024, table 2, which models distilled to few steps need."""

PROCESS_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
)
"""What the model was trained with, so never taken from the defaults of another scheduler class."""


PROCESS_EXTRAS: dict[str, Any] = {
    "rescale_betas_zero_snr": False,
    "snr_shift_scale": 1.0,
    "sigma_min": None,
    "sigma_max": None,
    "timestep_type": "discrete",
}
"""What else may change the noise of a process, with the value that leaves it alone. A class that
has no such argument would leave it out without a word."""

UNFIT_SOLVERS: dict[str, tuple[str, ...]] = {
    # Its U-Net also predicts a variance, which they would take for a part of the noise.
    "IFPipeline": ("ddim", "euler", "euler-ancestral", "heun", "unipc", "lcm"),
    # They pass a generator to every scheduler.
    "Kandinsky3Pipeline": ("heun", "unipc"),
    "KandinskyCombinedPipeline": ("heun", "unipc"),
    "KandinskyV22CombinedPipeline": ("heun", "unipc"),
    # It passes none, so that their noise would not be that of the row's seed.
    "LDMTextToImagePipeline": ("ddpm", "dpmsolver-sde", "euler-ancestral", "lcm"),
    # It counts one call of the network for each step.
    "SemanticStableDiffusionPipeline": ("heun",),
    # It lists those that it takes.
    "StableDiffusionSAGPipeline": ("euler", "euler-ancestral", "heun"),
}
"""Class -> solvers that do not sample with it. Read against diffusers 0.42.1."""

LARGE_NOISE = "squaredcos_cap_v2"
"""The beta schedule that ends at some 20,000 times more noise than picture."""


def most_steps(config: Mapping[str, Any]) -> int:
    """The most denoising steps of a noise process: one for each of its timesteps.

    OmniGen has a single one, as its time is a fraction; it is taken for a process of 1000.
    """
    number = int(config.get("num_train_timesteps") or 1000)
    return 1000 if number == 1 and is_flow(config) else number


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration belongs to a flow-matching model."""
    return (
        "FlowMatch" in str(config.get("_class_name"))
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )


def adds_noise(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler for flow matching draws random numbers in its steps."""
    return config.get("_class_name") == "FlowMatchLCMScheduler" or bool(
        config.get("stochastic_sampling")
    )


def is_unfit(config: Mapping[str, Any], pipeline: str) -> bool:
    """Whether a scheduler is one of those that do not sample with a class.

    Args:
        config: of the scheduler, with its `_class_name`.
        pipeline: the class.
    """
    unfit = (SCHEDULERS[solver] for solver in UNFIT_SOLVERS.get(pipeline, ()))
    return any(
        config.get("_class_name") == name and settings.items() <= config.items()
        for name, settings in unfit
    )


def fit_schedulers(pipeline: str) -> list[str]:
    """The classes of schedulers for diffusion models that sample with a class."""
    unfit = UNFIT_SOLVERS.get(pipeline, ())
    fit = {SCHEDULERS[solver][0] for solver in SCHEDULERS if solver not in unfit}
    return sorted(fit - {SCHEDULERS["flow-euler"][0]})


def compatible_samplers(
    config: Mapping[str, Any], pipeline: str, is_lcm_only: bool
) -> tuple[str, ...]:
    """The sampler names that work with a model.

    Args:
        config: the scheduler configuration in the model's folder.
        pipeline: the name of its diffusers pipeline class.
        is_lcm_only: the pipeline passes `original_inference_steps` to its scheduler, which only
            a latent consistency scheduler accepts.
    """
    if is_flow(config):
        return ("default", *_flow_samplers(config, pipeline))
    if is_lcm_only:
        return ("default", "lcm")
    if "beta_schedule" not in config:
        return ("default",)
    unfit = UNFIT_SOLVERS.get(pipeline, ())
    names = (
        name
        for name in DIFFUSION_SAMPLERS[1:]
        if solver_and_suffix(name)[0] not in unfit and why_not(name, config) is None
    )
    return ("default", *names)


def why_not(name: str, config: Mapping[str, Any]) -> str | None:
    """Why a sampler cannot sample a diffusion model; None if it can.

    Read against diffusers 0.42.1, and measured with exact denoisers.

    Args:
        name: one of `DIFFUSION_SAMPLERS`, but not `default`.
        config: the configuration of the model's own scheduler.
    """
    solver, suffix = solver_and_suffix(name)
    prediction = config.get("prediction_type", "epsilon")
    no_signal = bool(config.get("rescale_betas_zero_snr"))
    if lacking := _lacks(solver, config):
        return f"it has no {lacking}, and so another noise process than this model"
    if solver == "euler-ancestral" and prediction == "sample":
        return "it cannot take a model that predicts the image"
    if no_signal and prediction == "epsilon" and solver in ("ddpm", "ddim", "lcm"):
        return "it begins at pure noise, where a model that predicts the noise says nothing"
    if config.get("beta_schedule") == LARGE_NOISE and solver == "heun":
        return "it is unstable from as much noise as this model begins with"
    large = no_signal or config.get("beta_schedule") == LARGE_NOISE
    if large and suffix == "-karras" and solver != "euler":
        return "its first steps fall on one timestep with as much noise as this model begins with"
    return None


def _lacks(solver: str, config: Mapping[str, Any]) -> str | None:
    """The first setting of a model's process that a solver's class has no argument for."""
    import diffusers

    known = inspect.signature(getattr(diffusers, SCHEDULERS[solver][0]).__init__).parameters
    for key, neutral in PROCESS_EXTRAS.items():
        if config.get(key, neutral) not in (neutral, None) and key not in known:
            return key
    return None


def _flow_samplers(config: Mapping[str, Any], pipeline: str) -> tuple[str, ...]:
    if pipeline in ("SanaPipeline", "SanaPAGPipeline"):
        return ("dpmsolver++", "dpmsolver-sde", "unipc", "flow-euler")
    # These pipelines pass no generator to `step`, so samplers cannot add noise of the row's seed.
    solvers = ("dpmsolver++", "unipc", "flow-euler")
    if pipeline in ("StableDiffusion3Pipeline", "StableDiffusion3PAGPipeline"):
        return solvers
    # FLUX always passes a shift, which the solvers accept only if it depends on the image's size.
    if pipeline == "FluxPipeline" and config.get("use_dynamic_shifting"):
        return solvers
    return ("flow-euler",)


def solver_and_suffix(name: str) -> tuple[str, str]:
    """Split a sampler's name, such as `euler-karras`, into `euler` and one of `SPACINGS`."""
    suffix = next(end for end in reversed(SPACINGS) if name.endswith(end))
    return name.removesuffix(suffix), suffix


def settings_of(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a sampler changes in the configuration of a model's own scheduler.

    Args:
        name: one of `SAMPLER_NAMES`, but not `default`.
        config: the configuration of the model's own scheduler.

    Raises:
        SettingsError: the sampler does not fit what the model predicts.
    """
    solver, suffix = solver_and_suffix(name)
    settings = SCHEDULERS[solver][1] | {"use_karras_sigmas": False} | SPACINGS[suffix]
    own = _flow_settings(name, config) if is_flow(config) else _diffusion_settings(name, config)
    return settings | own


def own_sampler(config: Mapping[str, Any], compatible: Sequence[str]) -> str:
    """The name of the sampler that `default` stands for.

    Args:
        config: the configuration of the model's own scheduler, completed by the defaults of its
            class, `_class_name` included.
        compatible: the sampler names that work with the model.

    Returns:
        The sampler that would make the very same scheduler, with its suffix if several would; the
        name of the scheduler's class if none would.
    """
    class_name = str(config.get("_class_name"))
    for name in sorted(compatible, key=lambda name: "-" not in name):
        same_class = name != "default" and SCHEDULERS[solver_and_suffix(name)[0]][0] == class_name
        if same_class and _changes_nothing(name, config):
            return name
    return class_name


def _changes_nothing(name: str, config: Mapping[str, Any]) -> bool:
    settings = settings_of(name, config)
    return all(config[key] == value for key, value in settings.items() if key in config)


def _diffusion_settings(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    if name == "flow-euler":
        raise SettingsError(
            "scheduler flow-euler is for flow-matching models, and this is a diffusion model"
        )
    if reason := why_not(name, config):
        raise SettingsError(f"scheduler {name} does not work with this model: {reason}")
    kept = {key: config[key] for key in PROCESS_KEYS if key in config}
    # Latents exceed 1. DDPM and DDIM would clip them, even where the model's own class cannot.
    return kept | {"clip_sample": bool(config.get("clip_sample", False))}


def _flow_settings(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    shift = config.get("shift", config.get("flow_shift", 1.0))
    train = {"num_train_timesteps": config.get("num_train_timesteps", 1000)}
    if name == "flow-euler":
        return train | {"shift": shift}
    if name not in ("dpmsolver++", "dpmsolver-sde", "unipc"):
        raise SettingsError(
            f"scheduler {name} is for diffusion models, and this is a flow-matching model; use "
            "default, flow-euler, dpmsolver++, dpmsolver-sde or unipc"
        )
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    return train | flow
