"""Images from pictures: the Sampler beside plain diffusers' image pipeline, in pairs.

Both make the same images of the same pictures with the same generators in the same batches; plain
diffusers gets lists of prompts and PIL pictures, as a script would give them. Seconds are CPU time
of this process on a CPU with one thread, so that other programs matter less, and wall time on an
accelerator. The script also counts how many pixels differ.

    python tests/benchmarks/bench_modes.py
    python tests/benchmarks/bench_modes.py --model sdxl --device cuda --size 1024 --strength 0.5
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning, Pixels
from nightpress.diffusion_core.models import modes
from nightpress.diffusion_core.models.loading import describe, load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.pipelines.models.location import locate

PROMPTS = Path(__file__).resolve().parents[2] / "jobs" / "examples" / "prompts.txt"


def main() -> None:
    """Warm both up, sample the pairs, print their ratios."""
    options = parse()
    torch.set_num_threads(1)
    spec = ModelSpec(source=options.model)
    folder = locate(spec)
    info, model = describe(folder, spec), load(folder, spec, options.device)
    sampler = Sampler(model, options.batch_size)
    plain = plain_pipeline(folder, options.device, modes.class_for(info.pipeline, "image"))
    params = SamplingParams(
        width=options.size,
        height=options.size,
        num_inference_steps=info.num_inference_steps,
        guidance_scale=info.guidance_scale,
        conditioning=Conditioning("image", options.strength),
    )
    batches = batches_of(options)
    ways: dict[str, Callable[[list[ImageRequest]], Pixels]] = {
        "plain diffusers": lambda batch: plain_images(plain, batch, params, options.device),
        "Sampler": lambda batch: sampler.sample(batch, params).pixels,
    }
    first = [way(batches[0]) for way in ways.values()]
    print(f"pixels that differ: {(first[0] != first[1]).mean():.4%}")
    print(f"largest difference: {np.abs(first[0].astype(int) - first[1].astype(int)).max()}")
    ratios = []
    for pair in range(options.pairs):
        order = list(ways) if pair % 2 == 0 else list(ways)[::-1]
        taken = {name: seconds(ways[name], batches, options.device) for name in order}
        ratios.append(taken["plain diffusers"] / taken["Sampler"])
        rates = ", ".join(f"{name} {options.images / taken[name]:.2f}/s" for name in ways)
        print(f"pair {pair + 1}: {rates}; ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.3f}")


def seconds(
    way: Callable[[list[ImageRequest]], Pixels], batches: list[list[ImageRequest]], device: str
) -> float:
    """How long all batches take."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    for batch in batches:
        way(batch)
    return clock() - started


def batches_of(options: argparse.Namespace) -> list[list[ImageRequest]]:
    """Full batches of different prompts and pictures."""
    lines = PROMPTS.read_text(encoding="utf-8").splitlines()
    requests = [
        ImageRequest(lines[number % len(lines)], "", number, images=picture(number, options.size))
        for number in range(options.images)
    ]
    size = options.batch_size
    return [requests[start : start + size] for start in range(0, len(requests), size)]


def picture(number: int, size: int) -> ConditionImages:
    """A disc of one colour on white."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    colour = np.random.default_rng(number).integers(0, 256, 3)
    disc = ((x**2 + y**2) < 0.12)[..., None]
    return ConditionImages(np.where(disc, colour, 255).astype(np.uint8))


def plain_pipeline(folder: Path, device: str, name: str) -> Any:
    """Plain diffusers' image pipeline, with its own weights."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    pipeline = getattr(diffusers, name).from_pretrained(folder, torch_dtype=dtype).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def plain_images(
    pipeline: Any, batch: list[ImageRequest], params: SamplingParams, device: str
) -> Pixels:
    """What a script gives plain diffusers, and gets."""
    with torch.inference_mode():
        images = pipeline(
            prompt=[request.prompt for request in batch],
            image=[Image.fromarray(request.images.init_image) for request in batch],
            strength=params.conditioning.strength,
            num_inference_steps=params.num_inference_steps,
            guidance_scale=params.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in batch],
        ).images
    return np.stack([np.asarray(image) for image in images])


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--strength", type=float, default=0.6)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    if options.images % options.batch_size:
        parser.error("--images must be a multiple of --batch-size")
    return options


if __name__ == "__main__":
    main()
