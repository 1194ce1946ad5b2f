"""What each way of sampling faster gains, and what it costs in likeness.

Every batch is sampled by all of them in turn, so that they are timed beside each other; before
that each samples one batch untimed, which encodes its prompts and compiles. On a CPU the time is
that of the process itself, so that others on the machine count less. PSNR is each picture's
against the plain float32 one.

    python tests/benchmarks/bench_speed.py --images 16
    python tests/benchmarks/bench_speed.py --only bfloat16 "deep features 3"
    python tests/benchmarks/bench_speed.py --model sdxl --device cuda --compile
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffusion_core.errors import ModelError
from diffusion_core.model import ModelSpec, describe, load
from diffusion_core.sampling import ImageRequest, Sampler, SamplingParams
from pipelines.models import locate

PROMPTS = Path(__file__).resolve().parents[2] / "jobs" / "examples" / "prompts.txt"
PLAIN = "plain float32"

HALF = {"dtype": "bfloat16"}
WAYS: dict[str, dict[str, Any]] = {
    PLAIN: {"dtype": "float32"},
    "bfloat16": HALF,
    "attention native": {"speed": {"attention_backend": "native"}},
    "attention _native_math": {"speed": {"attention_backend": "_native_math"}},
    "channels_last": {"speed": {"channels_last": True}},
    "fuse_qkv_projections": {"speed": {"fuse_qkv_projections": True}},
    "vae_batch_size 1": {"speed": {"vae_batch_size": 1}},
    "deep features 2": {"speed": {"deep_features": {"interval": 2}}},
    "deep features 3": {"speed": {"deep_features": {"interval": 3}}},
    "deep features 5": {"speed": {"deep_features": {"interval": 5}}},
    "deep features 3, branch 2": {"speed": {"deep_features": {"interval": 3, "branch": 2}}},
    "bfloat16, channels_last": HALF | {"speed": {"channels_last": True}},
    "bfloat16, deep features 3": HALF | {"speed": {"deep_features": {"interval": 3}}},
    "taylorseer_cache": {"speed": {"taylorseer_cache": {}}},
    "pyramid_attention_broadcast": {"speed": {"pyramid_attention_broadcast": {}}},
}
COMPILED: dict[str, dict[str, Any]] = {
    "compile regional": {"speed": {"compile": "regional"}},
    "compile full": {"speed": {"compile": "full"}},
    "compile full, bfloat16": HALF | {"speed": {"compile": "full"}},
    "compile full, int8": {"speed": {"compile": "full", "quantization": "int8_weight_only"}},
}


class Way:
    """One way of sampling with a model: loaded, warm, and timed."""

    def __init__(self, name: str, values: dict[str, Any], options: argparse.Namespace) -> None:
        spec = ModelSpec.model_validate({"source": options.model} | {"dtype": "float32"} | values)
        folder = locate(spec, {})
        info = describe(folder, spec)
        self.name = name
        self.batch_s: list[float] = []
        self.likeness: list[float] = []
        self._sampler = Sampler(load(folder, spec, options.device), options.batch_size)
        self._clock = time.process_time if options.device == "cpu" else time.perf_counter
        self._params = SamplingParams(
            width=options.size or info.width or 512,
            height=options.size or info.height or 512,
            num_inference_steps=options.steps or info.num_inference_steps,
            guidance_scale=info.guidance_scale,
        )

    def sample(self, batch: list[ImageRequest]) -> np.ndarray:
        """(n, H, W, 3) as floats; the time is kept."""
        start = self._clock()
        pixels = self._sampler.sample(batch, self._params).pixels
        self.batch_s.append(self._clock() - start)
        return pixels.astype(float)

    def warm(self, batches: list[list[ImageRequest]]) -> None:
        """One sampling that does not count, and the prompts of all."""
        start = time.perf_counter()
        self._sampler.sample(batches[0], self._params)
        for batch in batches:
            self._sampler._conditioning(batch, self._params)
        print(f"{self.name}: warm after {time.perf_counter() - start:.1f} s", flush=True)


def main() -> None:
    """Sample, compare, print a table."""
    options = parse()
    torch.set_num_threads(options.threads)
    batches = requests(options.images, options.batch_size)
    ways = list(loaded(options))
    for way in ways:
        way.warm(batches)
    for batch in batches:
        plain = ways[0].sample(batch)
        for way in ways[1:]:
            way.likeness += psnr(way.sample(batch), plain)
    print(f"\n{options.model}, {options.images} images, batches of {options.batch_size}, ", end="")
    print(f"{options.device}, {options.threads} threads\n")
    print(f"{'':<28}{'images/s':>9}{'ratio':>8}{'PSNR dB':>9}{'lowest':>8}")
    for way in ways:
        ratio = statistics.median(map(np.divide, ways[0].batch_s, way.batch_s))
        rate = options.batch_size / statistics.median(way.batch_s)
        near = way.likeness or [float("inf")]
        print(f"{way.name:<28}{rate:>9.2f}{ratio:>7.2f}x", end="")
        print(f"{statistics.mean(near):>9.1f}{min(near):>8.1f}", flush=True)


def loaded(options: argparse.Namespace) -> Iterator[Way]:
    """The plain way first; those that the model cannot take are named."""
    ways = WAYS | (COMPILED if options.compile else {})
    for name, values in ways.items():
        if options.only and name not in (PLAIN, *options.only):
            continue
        try:
            yield Way(name, values, options)
        except ModelError as error:
            print(f"{name}: {error}", flush=True)


def parse() -> argparse.Namespace:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--only", nargs="+", help="names of ways, beside the plain one")
    parser.add_argument("--compile", action="store_true", help="those that compile too")
    parser.add_argument("--steps", type=int, help="the model's own unless set")
    parser.add_argument("--size", type=int, help="in pixels; the model's own unless set")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    return parser.parse_args()


def requests(num_images: int, batch_size: int) -> list[list[ImageRequest]]:
    """The examples' prompts over and over, each image with a seed of its own; all are full."""
    prompts = PROMPTS.read_text(encoding="utf-8").split("\n")[:-1]
    images = [ImageRequest(prompts[i % len(prompts)], "", i) for i in range(num_images)]
    if num_images % batch_size:
        raise SystemExit(f"{num_images} images do not fill batches of {batch_size}")
    return [images[first : first + batch_size] for first in range(0, num_images, batch_size)]


def psnr(pictures: np.ndarray, plain: np.ndarray) -> list[float]:
    """Of each of (n, H, W, 3), in decibels; infinite where no pixel differs."""
    errors = np.square(pictures - plain).mean(axis=(1, 2, 3))
    return [10 * float(np.log10(255**2 / error)) if error else float("inf") for error in errors]


if __name__ == "__main__":
    main()
