"""How much time reusing a U-Net's deep features saves, and how far it changes the images.

Every batch is sampled plainly and then with each interval, so that all are timed side by side;
prompts are encoded beforehand. Multiply-adds cover the whole sampling and decoding, as a share of
the plain run's. PSNR compares each image with the plain one, over its pixels.

    python tests/benchmarks/bench_deep_features.py --images 8
    python tests/benchmarks/bench_deep_features.py --model sdxl --branch 2 --device cuda
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from bench_speed import work_of
from meters import counted_flops

from nightpress.diffusion_core.acceleration.deepcache import reuse_deep_features
from nightpress.diffusion_core.models.loading import load
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.theory.psnr import image_psnrs_db
from nightpress.pipelines.models.location import locate

PLAIN = 0
"""The interval that stands for the unchanged U-Net."""


class Bench:
    """One model that samples the same batches at several intervals."""

    def __init__(self, options: argparse.Namespace) -> None:
        spec = ModelSpec(source=options.model, dtype=options.dtype)
        folder = locate(spec, {})
        self.work = work_of(options, folder)
        self._model = load(folder, spec, options.device)
        self._sampler = Sampler(self._model, options.batch_size)
        self._branch = options.branch

    def sample(self, batch: Sequence[ImageRequest], interval: int) -> np.ndarray:
        """Sample a batch; returns uint8 pixels (n, H, W, 3)."""
        with self._reuse(interval):
            return self._sampler.sample(batch, self.work.params).pixels

    def _reuse(self, interval: int) -> contextlib.AbstractContextManager[Any]:
        if interval == PLAIN:
            return contextlib.nullcontext()
        return reuse_deep_features(self._model.pipeline.unet, interval, self._branch)

    def flops(self, batch: Sequence[ImageRequest], interval: int) -> int:
        """FLOPs of sampling a batch."""
        return counted_flops(lambda: self.sample(batch, interval))


def main() -> None:
    """Sample, compare, print a table."""
    options = parse()
    torch.set_num_threads(options.threads)
    bench, intervals = Bench(options), [PLAIN, *options.intervals]
    batches = bench.work.batches
    bench.sample(batches[0], PLAIN)  # encodes its prompts
    counts = {interval: bench.flops(batches[0], interval) for interval in intervals}
    seconds: dict[int, list[float]] = {interval: [] for interval in intervals}
    psnr_db: dict[int, list[float]] = {interval: [] for interval in intervals}
    for batch in batches:
        plain = bench.sample(batch, PLAIN)
        for interval in intervals:
            start = time.perf_counter()
            pixels = bench.sample(batch, interval)
            seconds[interval].append(time.perf_counter() - start)
            psnr_db[interval] += image_psnrs_db(pixels, plain)
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
            f"{statistics.mean(psnr_db[interval]):>15.1f}{min(psnr_db[interval]):>8.1f}"
        )


def parse() -> argparse.Namespace:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--intervals", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--branch", type=int, default=0)
    parser.add_argument("--steps", type=int, help="default: the model's own")
    parser.add_argument("--size", type=int, help="pixels; default: the model's own")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    return parser.parse_args()


if __name__ == "__main__":
    main()
