r"""Measure how closely a ControlNet of the built-in model follows colour patches.

::

    python -m nightpress.diffusion_core.builtin.recipe.evaluate_controlnet --data build/emoji
    python -m nightpress.diffusion_core.builtin.recipe.evaluate_controlnet --data build/emoji \
        --grid grid.png

The pictures are those of the data set's last tar, except those that the ControlNet was trained on.
The same prompts and seeds are drawn with and without it. The figure is the PSNR between the patches
that were asked for and those of the image that was made.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Generator

from nightpress.diffusion_core.builtin import controlnet_folder, folder
from nightpress.diffusion_core.builtin.recipe.dataset import Entry, read_entries
from nightpress.diffusion_core.builtin.recipe.evaluate import load
from nightpress.diffusion_core.theory.colour_patches import colour_patches
from nightpress.diffusion_core.theory.psnr import psnr_db
from nightpress.diffusion_core.theory.spacing import evenly_spaced

NUM_PATCHES = 8
NUM_STEPS = 20
GUIDANCE_SCALE = 3.0
TRAINED_ON = ("emoji-000000.tar", "emoji-000001.tar")
HELD_OUT = "emoji-000012.tar"
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A prompt, and the control picture that its image should follow."""

    prompt: str
    control: Pixels


def held_out_entries(data: Path) -> list[Entry]:
    """The entries of the held-out tar whose picture is in none of the tars of the training."""
    seen = {entry.facts for tar in TRAINED_ON for entry in read_entries(data, tar)}
    return [entry for entry in read_entries(data, HELD_OUT) if entry.facts not in seen]


def cases_of(entries: Sequence[Entry], controls: Sequence[Entry]) -> list[Case]:
    """A case for each entry, with the patches of the picture at the same place of `controls`."""
    return [
        Case(entry.captions[0], colour_patches(control.pixels(), NUM_PATCHES))
        for entry, control in zip(entries, controls, strict=True)
    ]


def draw(
    pipeline: Any, cases: Sequence[Case], controlnet: Any, guidance_scale: float
) -> list[Pixels]:
    """An image (H, W, 3) for each case, alone; case i has seed i.

    Args:
        pipeline: the built-in model.
        cases: the prompts and control pictures.
        controlnet: follows the control pictures; None ignores them.
        guidance_scale: above 1, how much more the prompts count.
    """
    from diffusers import StableDiffusionControlNetPipeline

    extra: dict[str, Any] = {}
    if controlnet is not None:
        parts = {**pipeline.components, "controlnet": controlnet}
        pipeline = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
    images = []
    for i, case in enumerate(cases):
        if controlnet is not None:
            extra["image"] = Image.fromarray(case.control)
        made = pipeline(
            case.prompt,
            num_inference_steps=NUM_STEPS,
            guidance_scale=guidance_scale,
            generator=Generator().manual_seed(i),
            output_type="np",
            **extra,
        ).images[0]
        images.append((made * 255).round().astype(np.uint8))
    return images


def adherence_db(cases: Sequence[Case], images: Sequence[Pixels]) -> float:
    """Mean PSNR in dB between the patches asked for and those of the images."""
    return float(
        np.mean(
            [
                psnr_db(patch_error(case.control, image), peak=255.0)
                for case, image in zip(cases, images, strict=True)
            ]
        )
    )


def patch_error(control: Pixels, image: Pixels) -> float:
    """Mean squared error between a control picture and the patches of an image."""
    found = colour_patches(image, NUM_PATCHES).astype(np.float64)
    return float(np.square(found - control).mean())


def measure(pipeline: Any, controlnet: Any, data: Path, num: int) -> Iterator[str]:
    """Yield every figure as a line of text."""
    entries = evenly_spaced(held_out_entries(data), num)
    own = cases_of(entries, entries)
    without_prompts = [replace(case, prompt="") for case in own]
    for what, cases, guidance_scale in (
        ("no prompt, guidance 1", without_prompts, 1.0),
        ("own caption, guidance 1", own, 1.0),
        ("own caption, guidance 3", own, GUIDANCE_SCALE),
    ):
        with_it = draw(pipeline, cases, controlnet, guidance_scale)
        without = draw(pipeline, cases, None, guidance_scale)
        yield (
            f"{len(cases)} held-out pictures, {what}: PSNR of the patches "
            f"{adherence_db(cases, with_it):.2f} dB with the ControlNet, "
            f"{adherence_db(cases, without):.2f} dB without"
        )


def grid(pipeline: Any, controlnet: Any, data: Path, num: int) -> Image.Image:
    """Pictures, their patches, and images without a prompt, with the ControlNet and without."""
    entries = evenly_spaced(held_out_entries(data), num)
    cases = [replace(case, prompt="") for case in cases_of(entries, entries)]
    columns = [
        [entry.pixels() for entry in entries],
        [case.control for case in cases],
        draw(pipeline, cases, controlnet, 1.0),
        draw(pipeline, cases, None, 1.0),
    ]
    return Image.fromarray(np.concatenate([np.concatenate(c, axis=1) for c in columns], axis=0))


def main() -> None:
    """Run the command line; see the module's docstring."""
    from diffusers import ControlNetModel

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data set folder")
    parser.add_argument("--model", type=Path, default=folder(), help="pipeline folder")
    parser.add_argument(
        "--controlnet", type=Path, default=controlnet_folder(), help="ControlNet folder"
    )
    parser.add_argument("--captions", type=int, default=32, help="captions to measure with")
    parser.add_argument("--grid", type=Path, help="PNG to write instead, with 8 pictures a row")
    arguments = parser.parse_args()
    pipeline = load(arguments.model)
    controlnet = ControlNetModel.from_pretrained(arguments.controlnet, torch_dtype=torch.float32)
    if arguments.grid:
        grid(pipeline, controlnet, arguments.data, 8).save(arguments.grid)
        return
    print(f"{NUM_STEPS} steps")
    for line in measure(pipeline, controlnet, arguments.data, arguments.captions):
        print(line, flush=True)


if __name__ == "__main__":
    main()
