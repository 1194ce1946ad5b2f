"""What a U-Net's deep features save when they are reused, and what that costs in likeness.

Every batch is sampled plainly and then with each interval, so that all are timed beside each other;
prompts are encoded before. The multiply-adds are those of a whole sampling, decoding included, as
shares of the plain one's. PSNR is each picture's against the plain picture, over its pixels.

    python tests/benchmarks/bench_deep_features.py --images 8
    python tests/benchmarks/bench_deep_features.py --model sdxl --branch 2 --device cuda
"""

import argparse
import contextlib
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from diffusion_core.deep_features import reusing_deep_features
from diffusion_core.likeness import psnr_db
from diffusion_core.model import ModelSpec, describe, load
from diffusion_core.sampling import ImageRequest, Sampler, SamplingParams
from pipelines.models import locate

PROMPTS = Path(__file__).resolve().parents[2] / "jobs" / "examples" / "prompts.txt"
PLAIN = 0
"""Stands for an interval where the U-Net is left alone."""


class Bench:
    """One model, asked for the same batches in several ways."""

    def __init__(self, options: argparse.Namespace) -> None:
        spec = ModelSpec(source=options.model, dtype=options.dtype)
        folder = locate(spec, {})
        info = describe(folder, spec)
        self._model = load(folder, spec, options.device)
        self._sampler = Sampler(self._model, options.batch_size)
        self._branch = options.branch
        self._params = SamplingParams(
            width=options.size or info.width or 512,
            height=options.size or info.height or 512,
            num_inference_steps=options.steps or info.num_inference_steps,
            guidance_scale=info.guidance_scale,
        )

    def sample(self, batch: list[ImageRequest], interval: int) -> np.ndarray:
        """uint8 (n, H, W, 3)."""
        with self._reuse(interval):
            return self._sampler.sample(batch, self._params).pixels

    def _reuse(self, interval: int) -> contextlib.AbstractContextManager[Any]:
        if interval == PLAIN:
            return contextlib.nullcontext()
        return reusing_deep_features(self._model.pipeline.unet, interval, self._branch)

    def multiply_adds(self, batch: list[ImageRequest], interval: int) -> float:
        """Of the sampling of a batch, in units that cancel."""
        with FlopCounterMode(display=False) as counter:
            self.sample(batch, interval)
        return float(counter.get_total_flops())


def main() -> None:
    """Sample, compare, print a table."""
    options = parse()
    torch.set_num_threads(options.threads)
    bench, intervals = Bench(options), [PLAIN, *options.intervals]
    work = batches(options.images, options.batch_size)
    bench.sample(work[0], PLAIN)  # encodes its prompts
    counts = {interval: bench.multiply_adds(work[0], interval) for interval in intervals}
    seconds: dict[int, list[float]] = {interval: [] for interval in intervals}
    likeness: dict[int, list[float]] = {interval: [] for interval in intervals}
    for batch in work:
        plain = bench.sample(batch, PLAIN)
        for interval in intervals:
            start = time.perf_counter()
            pictures = bench.sample(batch, interval)
            seconds[interval].append(time.perf_counter() - start)
            likeness[interval] += psnr_db(pictures, plain)
    print(f"{options.model}, {options.images} images in batches of {options.batch_size}, ", end="")
    print(f"branch {options.branch}, {options.device}")
    print("interval  images/s  against plain  multiply-adds  PSNR dB: mean  lowest")
    for interval in intervals:
        ratio = statistics.median(map(np.divide, seconds[PLAIN], seconds[interval]))
        print(
            f"{interval or 'plain':>8}"
            f"{options.batch_size / statistics.median(seconds[interval]):>10.2f}"
            f"{ratio:>14.2f}x"
            f"{counts[interval] / counts[PLAIN]:>15.3f}"
            f"{statistics.mean(likeness[interval]):>15.1f}{min(likeness[interval]):>8.1f}"
        )


def parse() -> argparse.Namespace:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--intervals", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--branch", type=int, default=0)
    parser.add_argument("--steps", type=int, help="the model's own unless set")
    parser.add_argument("--size", type=int, help="in pixels; the model's own unless set")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    return parser.parse_args()


def batches(num_images: int, batch_size: int) -> list[list[ImageRequest]]:
    """The examples' prompts over and over, each image with a seed of its own; all are full."""
    prompts = PROMPTS.read_text(encoding="utf-8").split("\n")[:-1]
    images = [ImageRequest(prompts[i % len(prompts)], "", i) for i in range(num_images)]
    if num_images % batch_size:
        raise SystemExit(f"{num_images} images do not fill batches of {batch_size}")
    return [images[first : first + batch_size] for first in range(0, num_images, batch_size)]


if __name__ == "__main__":
    main()
