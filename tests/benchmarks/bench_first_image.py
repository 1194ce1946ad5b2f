"""Seconds from the command to the first stored image, and to the end.

Runs the README's job in a process of its own, several times, after one run that warms the disk.

    python tests/benchmarks/bench_first_image.py --runs 5
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Time the runs and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    timed = [time_one() for _ in range(options.runs + 1)][1:]
    for first_s, end_s in timed:
        print(f"first image after {first_s:.1f} s, finished after {end_s:.1f} s")
    first, end = zip(*timed, strict=True)
    print(
        f"median: first image {statistics.median(first):.1f} s, "
        f"finished {statistics.median(end):.1f} s, over {options.runs} runs"
    )


def time_one() -> tuple[float, float]:
    """Seconds to the first image in the store, and to the exit."""
    program = Path(sys.executable).parent / "nightpress"
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "first" / "images"
        start = time.perf_counter()
        process = subprocess.Popen(
            [program, "run", "jobs/examples/first.yaml", "--set", f"output={scratch}"],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not (images.is_dir() and any(images.iterdir())):
            if process.poll() is not None:
                raise SystemExit(f"the run ended with {process.returncode} and no image")
            time.sleep(0.01)
        first_s = time.perf_counter() - start
        if process.wait() != 0:
            raise SystemExit(f"the run ended with {process.returncode}")
        return first_s, time.perf_counter() - start


if __name__ == "__main__":
    main()
