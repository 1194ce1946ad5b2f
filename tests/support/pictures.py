"""Pictures and masks for tests of the modes with pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning, Pixels
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams

WIDTH, HEIGHT = 64, 32

PROMPTS = ("a red fox, asleep", "two ships and a tower", "7")
NEGATIVES = ("blur", "", "no hats")
SEEDS = (11, 2**53 - 1, 0)


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """A smooth picture with an edge, (height, width, 3); another one for each number."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = [np.sin((number + 2 + c) * 3 * x + c) * np.cos((number + 1) * 4 * y) for c in range(3)]
    colours = np.stack(waves, -1) * 0.4 + 0.5
    colours[:, width // (number + 2)] = 0.9
    return (colours * 255).round().astype(np.uint8)


def mask(number: int, width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """White where the picture is made anew, on latent cells; another one for each number."""
    made = np.zeros((height, width), np.uint8)
    made[: 8 * (number + 1), width // 4 : 3 * width // 4] = 255
    return made


def images(number: int, mode: str) -> ConditionImages:
    """The pictures that a mode wants."""
    base = mode.partition("+")[0]
    return ConditionImages(
        init_image=None if base == "text" else picture(number),
        mask_image=mask(number) if base in ("inpaint", "outpaint") else None,
    )


def requests(mode: str, negative: bool = False) -> tuple[ImageRequest, ...]:
    """Three requests of one mode that differ in everything a request has."""
    negatives = NEGATIVES if negative else ("", "", "")
    return tuple(
        ImageRequest(prompt, text, seed, images=images(number, mode))
        for number, (prompt, text, seed) in enumerate(zip(PROMPTS, negatives, SEEDS, strict=True))
    )


def params(mode: str, strength: float | None = None, **settings: Any) -> SamplingParams:
    """The settings of a small image of a mode."""
    defaults: dict[str, Any] = {"num_inference_steps": 4, "guidance_scale": 4.0}
    return SamplingParams(
        **({"width": WIDTH, "height": HEIGHT} | defaults | settings),
        conditioning=Conditioning(mode, strength),
    )


def plain_image(
    pipeline: Any, request: ImageRequest, settings: SamplingParams, **more: Any
) -> Pixels:
    """What plain diffusers makes of one image's PIL pictures, (1, H, W, 3) uint8.

    Args:
        more: further arguments of the call.
    """
    import inspect

    takes = inspect.signature(pipeline.__call__).parameters
    arguments: dict[str, Any] = {
        "prompt": request.prompt,
        "image": _pil(request.images.init_image),
        "width": settings.width,
        "height": settings.height,
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(request.seed),
    }
    if request.images.mask_image is not None:
        arguments["mask_image"] = _pil(request.images.mask_image)
    if settings.conditioning.strength is not None:
        arguments["strength"] = settings.conditioning.strength
    if request.negative_prompt:
        arguments["negative_prompt"] = request.negative_prompt
    arguments = with_guidance(pipeline, arguments)
    given = {name: value for name, value in arguments.items() if name in takes}
    if "use_resolution_binning" in takes:
        given |= {"use_resolution_binning": False, "clean_caption": False}
    return np.stack([np.asarray(image) for image in pipeline(**given, **more).images])


def with_guidance(pipeline: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a plain call in which `guidance_scale` acts, whatever the class calls it."""
    if not type(pipeline).__name__.startswith("Qwen"):
        return arguments
    others = {name: value for name, value in arguments.items() if name != "guidance_scale"}
    return {"negative_prompt": " ", **others, "true_cfg_scale": arguments["guidance_scale"]}


def _pil(pixels: Pixels | None) -> Any:
    return None if pixels is None else Image.fromarray(pixels)


def stacked(pictures: Sequence[Pixels]) -> Pixels:
    """(B, H, W, 3)."""
    return np.stack(list(pictures))
