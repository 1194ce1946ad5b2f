"""The names of the samplers, and which of them work with a model."""

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
"""Every sampler that a row can name; `default` is the scheduler in the model's folder."""

DIFFUSION_SAMPLERS = SAMPLER_NAMES[:-1]
"""The samplers for models that predict noise, velocity or the image of a diffusion process."""


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler's configuration belongs to a flow-matching model."""
    return (
        "FlowMatch" in str(config.get("_class_name"))
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )


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
    return DIFFUSION_SAMPLERS if "beta_schedule" in config else ("default",)


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
