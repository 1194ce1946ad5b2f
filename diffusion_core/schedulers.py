"""Sampler names and the fresh diffusers schedulers that they stand for."""

SAMPLER_NAMES = (
    "default",
    "ddpm",
    "ddim",
    "dpmsolver++",
    "dpmsolver++-karras",
    "dpmsolver-sde",
    "dpmsolver-sde-karras",
    "euler",
    "euler-karras",
    "euler-ancestral",
    "heun",
    "heun-karras",
    "unipc",
    "unipc-karras",
    "lcm",
    "flow-euler",
)
"""Every sampler a row can ask for; `default` is the scheduler that the model's folder names."""
