r"""Measure a model against the pictures it was trained on, and draw grids to look at.

::

    python -m diffusion_core.builtin.evaluate --data build/pictures
    python -m diffusion_core.builtin.evaluate --grid grid.png

Without `--model` it is the shipped one. Every figure is printed with what it was taken at.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from PIL import Image
from torch import Generator, Tensor

from diffusion_core.builtin import folder
from diffusion_core.builtin.architecture import GUIDANCE_SCALE, NUM_STEPS
from diffusion_core.builtin.captions import with_article
from diffusion_core.builtin.dataset import read_concepts
from diffusion_core.builtin.train import encode_all, load_images

GRID_PROMPTS = tuple(
    " ".join(prompt.split())
    for prompt in """
    a red apple; a banana; a slice of pizza; a cup of coffee; a hamburger; a birthday cake;
    a strawberry; sushi; a dog face; a black cat; a tiger; an elephant; a penguin; an owl;
    a butterfly; a goldfish in the sea; a frog; a green turtle; a T-Rex dinosaur; a unicorn;
    a sunflower; a red rose; a cactus; a palm tree; a four leaf clover; a mushroom;
    a rocket in space; an airplane; a sailboat on water; a red car; a bus; a bicycle; a train;
    a tractor; a guitar; a violin; a trumpet; a drum; a ghost; an alien; a robot; a clown;
    a snowman; a Christmas tree; a crown; a pair of glasses; a blue dress; an umbrella;
    a soccer ball; a basketball; a trophy; a gift; a red heart; a blue heart; a volcano;
    a house; a castle; the moon; a rainbow; fire; a light bulb; a puppy; a blue apple;
    an orange cat with sunglasses
    """.replace("\n", " ").split(";")
)
"""64 prompts in a row of eight: mostly taught things, in words that captions did not all have, and
at the end a few that no picture shows."""


@dataclass(frozen=True)
class Alignment:
    """How often a generated picture is nearest to the training picture that it was asked for."""

    num_captions: int
    top1: float
    top5: float
    seconds_per_image: float


def load(model: Path) -> Any:
    """The pipeline of a folder in float32, its bars silent."""
    pipeline = DiffusionPipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: Any,
    prompts: Sequence[str],
    batch_size: int = 16,
    steps: int = NUM_STEPS,
    guidance_scale: float = GUIDANCE_SCALE,
    seed: int = 0,
) -> Iterator[Tensor]:
    """One (3, H, W) picture in [-1, 1] a prompt; picture i starts from noise of `seed` + i."""
    for start in range(0, len(prompts), batch_size):
        chunk = list(prompts[start : start + batch_size])
        generators = [Generator().manual_seed(seed + start + i) for i in range(len(chunk))]
        images = pipeline(
            chunk,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=generators,
            output_type="pt",
        ).images
        yield from images * 2 - 1


@torch.no_grad()
def autoencoder_psnr(autoencoder: AutoencoderKL, images: Tensor, batch_size: int = 16) -> Tensor:
    """(N,) decibels of (N, 3, H, W) pictures in [-1, 1] against their way through the latents."""
    psnrs = []
    for batch in torch.split(images, batch_size):
        output = autoencoder.decode(encode_all(autoencoder, batch)).sample.clamp(-1, 1)
        errors = (output - batch).square().mean(dim=(1, 2, 3))
        psnrs.append(10 * torch.log10(4 / errors))
    return torch.cat(psnrs)


def ranks(found: Tensor, wanted: Sequence[int], references: Tensor) -> Tensor:
    """How many references lie nearer to each of `found` than the one it should be; 0 is best.

    `found` (M, D), `references` (N, D), `wanted` M indices into references.
    """
    distances = torch.cdist(found, references)
    own = distances[torch.arange(len(found)), torch.tensor(list(wanted))]
    return (distances < own[:, None]).sum(dim=1)


@torch.no_grad()
def alignment(
    pipeline: Any, images: Tensor, labels: Sequence[str], num: int, **settings: Any
) -> Alignment:
    """Ask for `num` concepts by name, evenly over the set, and see which picture comes nearest.

    Near is Euclidean distance between the autoencoder's latents of the two pictures.
    """
    which = np.linspace(0, len(labels) - 1, num).round().astype(int).tolist()
    began = time.perf_counter()
    prompts = [with_article(labels[i]) for i in which]
    generated = torch.stack(list(generate(pipeline, prompts, **settings)))
    seconds = (time.perf_counter() - began) / num
    references = encode_all(pipeline.vae, images).flatten(1)
    found = encode_all(pipeline.vae, generated).flatten(1)
    rank = ranks(found, which, references)
    top1, top5 = (rank < 1).float().mean().item(), (rank < 5).float().mean().item()
    return Alignment(num, top1, top5, seconds)


def seconds_for_one(pipeline: Any, num: int = 8, **settings: Any) -> float:
    """Median wall seconds of a call for a single picture, after one to warm up."""
    times = []
    for i in range(num + 1):
        began = time.perf_counter()
        list(generate(pipeline, ["a red apple"], seed=i, **settings))
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


def grid(images: Tensor, columns: int) -> Image.Image:
    """Lay (N, 3, H, W) pictures in [-1, 1] out in rows."""
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    height, width = pixels.shape[1:3]
    rows = -(-len(pixels) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for i, picture in enumerate(pixels):
        sheet.paste(Image.fromarray(picture), (i % columns * width, i // columns * height))
    return sheet


def measure(pipeline: Any, data: Path, num: int, **settings: Any) -> None:
    """Print every figure."""
    concepts = read_concepts(data)
    images = load_images(data, concepts)
    psnr = autoencoder_psnr(pipeline.vae, images)
    print(f"autoencoder PSNR over {len(images)} pictures: {psnr.mean():.2f} dB")
    one = seconds_for_one(pipeline, **settings)
    print(f"seconds for one image alone: {one:.2f} ({torch.get_num_threads()} threads, float32)")
    result = alignment(pipeline, images, [c.label for c in concepts], num, **settings)
    print(f"nearest training picture is the named one, {num} captions: top-1 {result.top1:.1%}")
    print(f"among the five nearest: top-5 {result.top5:.1%}")
    print(f"chance: top-1 {1 / len(images):.1%}, top-5 {5 / len(images):.1%}")
    print(f"seconds per image in batches of 16: {result.seconds_per_image:.2f}")


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=folder(), help="a pipeline folder")
    parser.add_argument("--data", type=Path, help="what `dataset` built: print the figures")
    parser.add_argument("--captions", type=int, default=256, help="how many to ask for")
    parser.add_argument("--grid", type=Path, help="write a PNG of 64 prompts here")
    parser.add_argument("--prompts", type=Path, help="a text file, one prompt a line, for the grid")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--steps", type=int, default=NUM_STEPS)
    parser.add_argument("--guidance-scale", type=float, default=GUIDANCE_SCALE)
    arguments = parser.parse_args()
    pipeline = load(arguments.model)
    settings = {"steps": arguments.steps, "guidance_scale": arguments.guidance_scale}
    print(f"{arguments.steps} steps, guidance {arguments.guidance_scale}")
    if arguments.data:
        measure(pipeline, arguments.data, arguments.captions, **settings)
    if arguments.grid:
        prompts = GRID_PROMPTS
        if arguments.prompts:
            prompts = tuple(arguments.prompts.read_text(encoding="utf-8").splitlines())
        images = torch.stack(list(generate(pipeline, prompts, **settings)))
        grid(images, arguments.columns).save(arguments.grid)


if __name__ == "__main__":
    main()
