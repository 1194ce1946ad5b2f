"""What content credentials cost: encoding and signing single images, and whole runs in pairs.

Single images: a picture of soft colours with fine grain is encoded with and without a credential,
by turns; the medians of both, in milliseconds of CPU time, and the bytes that are added.

Whole runs: pairs of a signed and an unsigned run of the same job, the order changing from pair to
pair, timed as `bench_run.py` does. The median of their ratios is the result; how far the ratios
are apart says how much the machine was disturbed.

    python tests/benchmarks/bench_signing.py --pairs 5 --run-images 64
    python tests/benchmarks/bench_signing.py --pairs 0
    python tests/benchmarks/bench_signing.py --repeats 0 --pairs 2 --run-images 16
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from run_pairs import add_run_options, compare_runs
from support.cat_facts import CAT
from support.signers import Studio

from nightpress.pipelines.image_files.content_credentials.signing_key import KEY
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.image_files.file_format import FileFormat
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.job.provenance_section import ProvenanceSpec

SIDES = (512, 1024)


def main() -> None:
    """Print what signing costs, alone and in whole runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20, help="of each single image")
    add_run_options(parser, pairs=5)
    options = parser.parse_args()
    for algorithm in ("es256", "ed25519") if options.repeats else ():
        single_images(Studio.new(algorithm), options.repeats)
    if options.pairs:
        whole_runs(options)


def single_images(studio: Studio, repeats: int) -> None:
    """Time encoding with and without a credential, by turns."""
    signing = ProvenanceSpec.model_validate(studio.job())
    for kind in ("png", "webp", "jpeg"):
        images = ImagesSpec(format=kind)
        sign = FileFormat(images, signing, "2026-01-01T00:00:00+00:00").encoder(studio.key)
        for side in SIDES:
            pixels = picture(side)
            plain_ms, signed_ms = list[float](), list[float]()
            for _ in range(repeats):
                plain_ms.append(timed(lambda: encode(pixels, CAT, images)))  # noqa: B023
                signed_ms.append(timed(lambda: sign(pixels, CAT)))  # noqa: B023
            added = len(sign(pixels, CAT)) - len(encode(pixels, CAT, images))
            plain, signed = statistics.median(plain_ms), statistics.median(signed_ms)
            more = statistics.median(b - a for a, b in zip(plain_ms, signed_ms, strict=True))
            print(
                f"{studio.algorithm} {kind} {side} x {side}: {plain:.2f} ms, signed {signed:.2f} "
                f"ms, median difference of a pair {more:.2f} ms, {added:,} bytes more",
                flush=True,
            )


def timed(function: Callable[[], object]) -> float:
    """Milliseconds of CPU that a call takes; other processes do not count."""
    start = time.thread_time()
    function()
    return 1000 * (time.thread_time() - start)


def picture(side: int) -> np.ndarray:
    """Soft colours with fine grain; (side, side, 3) uint8."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(3 * x + 5 * y), np.cos(4 * x * y), np.sin(6 * (x - y))]
    soft = 127 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 4, (side, side, 3))
    return np.clip(soft, 0, 255).astype(np.uint8)


def whole_runs(options: argparse.Namespace) -> None:
    """Time pairs of a signed and an unsigned run."""
    studio = Studio.new()
    os.environ[KEY] = studio.signer.key_pem
    signing = ProvenanceSpec.model_validate(studio.job())
    compare_runs(options, ("unsigned", "signed"), {"provenance": signing})


if __name__ == "__main__":
    main()
