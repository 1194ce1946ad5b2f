"""What `model.speed: auto` gains in a whole run, beside `exact`, with what trying costs.

::

    python tests/benchmarks/bench_auto_speed.py --images 4000
    python tests/benchmarks/bench_auto_speed.py --images 64 --any-length --pairs 1

Each pair is one run with `exact` and one with `auto`, in turn, of the built-in model on prompts of
this file. With `--any-length` even a short run tries all ways, which shows what that costs. What
trials find and the compiled code are kept in folders of the benchmark, so the first pair tries and
compiles, and the others know the result and load.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from nightpress import RunSpec, run
from nightpress.diffusion_core.theory.psnr import image_psnrs_db
from nightpress.diffusion_core.tuning import auto_speed as rules

THINGS = ("a copper kettle", "two paper boats", "a moth on a wall", "an empty stage")
PLACES = ("in the rain", "at noon", "seen from above", "behind glass", "on a red cloth")


def main() -> None:
    """Print the pairs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=4_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--side", type=int, default=128, help="pixels of an image's sides")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--any-length", action="store_true", help="try however short the run is")
    options = parser.parse_args()
    if options.any_length:
        rules.FEWEST_STEPS, rules.SHORTEST_LIMIT_S = 0, 600.0
        rules.Attempt.pays = lambda *given: True  # type: ignore[method-assign,assignment]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder, "code"))
        os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))
        manifest = Path(folder, "prompts.txt")
        lines = (
            f"{THINGS[n % len(THINGS)]} {PLACES[n % len(PLACES)]}, {n}"
            for n in range(options.images)
        )
        manifest.write_text("\n".join(lines))
        for pair in range(options.pairs):
            compare(options, Path(folder), manifest, pair)


def compare(options: argparse.Namespace, folder: Path, manifest: Path, pair: int) -> None:
    """Print one pair."""
    seconds, urls = {}, {}
    for speed in ("exact", "auto"):
        spec = RunSpec.from_dict(
            {
                "name": f"{speed}-{pair}",
                "manifest": str(manifest),
                "output": str(folder),
                "model": {"source": "builtin", "speed": speed},
                "sampling": {
                    "num_inference_steps": options.steps,
                    "width": options.side,
                    "height": options.side,
                },
                "cluster": {"actors": options.actors},
            }
        )
        began = time.monotonic()
        run(spec)
        seconds[speed], urls[speed] = time.monotonic() - began, Path(spec.url)
    (decision,) = json.loads((urls["auto"] / "run.json").read_text())["auto_speed"]
    print(
        f"pair {pair + 1}: exact {seconds['exact']:.1f} s, auto {seconds['auto']:.1f} s, "
        f"{seconds['exact'] / seconds['auto']:.3f} x; lowest PSNR {lowest(urls):.1f} dB; "
        f"{decision['reason']}"
    )
    for way in decision["tried"]:
        print(f"  {way}")


def lowest(urls: dict[str, Path]) -> float:
    """The PSNR of the image that differs most between the runs; infinite if no pixel does."""
    names = sorted(path.name for path in (urls["exact"] / "images").iterdir())
    pictures = ([read(urls[key] / "images" / name) for name in names] for key in ("auto", "exact"))
    return min(image_psnrs_db(*pictures))


def read(path: Path) -> np.ndarray:
    """The pixels of an image file; (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    main()
