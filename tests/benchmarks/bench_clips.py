"""How many frames of clips are written, read and hashed in a second, and how large the files are.

::

    python tests/benchmarks/bench_clips.py --side 512 --frames 48

Two clips on one thread: one of flat shapes that move over a gradient, as drawings do, and one of
smooth noise that turns into other noise, as every pixel of a walk changes. Seconds are CPU time, so
that other loads on the machine matter less.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nightpress.diffusion_core.theory.interpolation import slerp
from nightpress.pipelines.image_files.clips.frames import frames_sha256
from nightpress.pipelines.image_files.clips.reading import frames_in
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.records import ImageFacts

T = TypeVar("T")
Frames = NDArray[np.uint8]

FACTS = ImageFacts(
    image_id="0_00",
    id="0",
    variant=0,
    prompt="a cat",
    negative_prompt="",
    seed=1,
    width=1,
    height=1,
    num_inference_steps=20,
    guidance_scale=4.5,
    scheduler="ddim",
    model="builtin",
    model_fingerprint="f" * 64,
    dtype="float32",
    batch_size=4,
    to_seed=2,
    fps=24.0,
)


def main() -> None:
    """Encode, decode and hash each clip in each format, and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=512, help="Pixels of a side of a frame.")
    parser.add_argument("--frames", type=int, default=48, help="Frames of each clip.")
    options = parser.parse_args()
    for name, frames in (
        ("shapes", shapes(options.frames, options.side)),
        ("walk", noise(options.frames, options.side)),
    ):
        seconds, digest = timed(lambda clip=frames: frames_sha256(clip))
        print(f"{name}: sha256 of the frames {len(frames) / seconds:,.0f} frames/s", flush=True)
        for kind in ("mp4", "webp"):
            measure(name, kind, frames, digest)


def measure(name: str, kind: str, frames: Frames, digest: str) -> None:
    """Write and read a clip in one format, and print how fast and how large that is."""
    number, height, width, _ = frames.shape
    facts = replace(FACTS, width=width, height=height, num_frames=number, frames_sha256=digest)
    spec = ImagesSpec.model_validate({"format": kind})
    written_s, data = timed(lambda: encode(frames, facts, spec))
    read_s, num_read = timed(lambda: sum(1 for _ in frames_in(data)))
    assert num_read == number
    per_pixel = 8 * len(data) / frames[..., 0].size
    print(
        f"{name}, {kind}: {number / written_s:,.0f} frames/s written, {number / read_s:,.0f} read, "
        f"{len(data):,} bytes, {per_pixel:.3f} bits a pixel",
        flush=True,
    )


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """The CPU seconds that a call takes, and what it returns."""
    began = time.process_time()
    result = call()
    return time.process_time() - began, result


def shapes(number: int, side: int) -> Frames:
    """A square that moves over a gradient."""
    y, x = np.mgrid[0:side, 0:side] * (255 / side)
    ground = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    frames = np.repeat(ground[None], number, axis=0)
    for place, frame in enumerate(frames):
        left = place * (side * 3 // 4) // number
        frame[side // 3 : side // 2, left : left + side // 5] = 250, 40, 20
    return frames


def noise(number: int, side: int) -> Frames:
    """Smooth noise that turns into other noise, along the sphere as walks go."""
    import torch

    generator = torch.Generator().manual_seed(1)
    start, end = (torch.randn(3, side // 16, side // 16, generator=generator) for _ in range(2))
    frames = []
    for place in range(number):
        between = slerp(start, end, place / (number - 1)) if 0 < place < number - 1 else None
        values = (start if place == 0 else end) if between is None else between
        small = ((values.permute(1, 2, 0) * 50 + 128).clamp(0, 255)).to(torch.uint8).numpy()
        frames.append(
            np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))
        )
    return np.stack(frames)


if __name__ == "__main__":
    main()
