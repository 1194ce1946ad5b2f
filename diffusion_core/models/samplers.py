"""The names of the samplers, and which of them fit a model."""

from collections.abc import Mapping
from typing import Any

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
"""Every sampler a row can ask for; `default` is the scheduler that the model's folder names."""

DIFFUSION_SAMPLERS = SAMPLER_NAMES[:-1]
"""For models that predict noise, velocity or the image on a diffusion process."""


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration belongs to a flow-matching model."""
    return (
        "FlowMatch" in str(config.get("_class_name"))
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )


def fitting(config: Mapping[str, Any], pipeline: str, takes_steps_of_lcm: bool) -> tuple[str, ...]:
    """The sampler names that work with a model.

    Args:
        config: The scheduler configuration in the model's folder.
        pipeline: Name of its diffusers pipeline class.
        takes_steps_of_lcm: The pipeline hands `original_inference_steps` to its scheduler, as
            only a latent consistency scheduler understands.
    """
    if is_flow(config):
        return ("default", *_flow_samplers(config, pipeline))
    if takes_steps_of_lcm:
        return ("default", "lcm")
    return DIFFUSION_SAMPLERS if "beta_schedule" in config else ("default",)


def _flow_samplers(config: Mapping[str, Any], pipeline: str) -> tuple[str, ...]:
    if pipeline in ("SanaPipeline", "SanaPAGPipeline"):
        return ("dpmsolver++", "dpmsolver-sde", "unipc", "flow-euler")
    # These pipelines hand no generator to a step, so samplers that add noise have none of ours.
    solvers = ("dpmsolver++", "unipc", "flow-euler")
    if pipeline in ("StableDiffusion3Pipeline", "StableDiffusion3PAGPipeline"):
        return solvers
    # FLUX always hands over a shift, which the solvers take only where the model shifts by size.
    if pipeline == "FluxPipeline" and config.get("use_dynamic_shifting"):
        return solvers
    return ("flow-euler",)
