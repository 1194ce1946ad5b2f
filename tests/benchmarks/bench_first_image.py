"""Seconds from a command to the first stored image, beside a plain diffusers script, and of others.

Runs the README's job and a script that loads the same model and saves one image, each in a process
of its own, in pairs after one pair that warms the disk; then the commands that answer at once.
PYTHONDONTWRITEBYTECODE is unset for all of them, so that bytecode is cached as in an installation.

    python tests/benchmarks/bench_first_image.py --runs 5
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
JOB = "jobs/examples/first.yaml"
PROGRAM = str(Path(sys.executable).parent / "nightpress")

COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment of the processes: the first pair writes the bytecode that an editable
installation lacks, and the others read it."""

PLAIN = """
import sys
from diffusers import StableDiffusionPipeline
from nightpress.diffusion_core import builtin
pipeline = StableDiffusionPipeline.from_pretrained(builtin.folder())
made = pipeline("a red apple", num_inference_steps=20, guidance_scale=3.0, height=128, width=128)
made.images[0].save(sys.argv[1])
"""
"""What a person would write for the first image; `nightpress` only says where the model is."""


def main() -> None:
    """Time the pairs and the commands, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    pairs = [(time_plain(), *time_run()) for _ in range(options.runs + 1)][1:]
    for plain_s, first_s, end_s in pairs:
        print(
            f"plain script {plain_s:.1f} s; first image after {first_s:.1f} s "
            f"({first_s / plain_s:.2f} times), finished after {end_s:.1f} s"
        )
    plain, first, end = map(statistics.median, zip(*pairs, strict=True))
    ratio = statistics.median(first_s / plain_s for plain_s, first_s, _ in pairs)
    print(
        f"median: plain {plain:.1f} s, first image {first:.1f} s, {ratio:.2f} times, "
        f"finished {end:.1f} s, over {options.runs} pairs"
    )
    time_commands(options.runs)


def time_plain() -> float:
    """Seconds of a script that loads the built-in model and saves one image."""
    with tempfile.TemporaryDirectory() as scratch:
        return time_call([sys.executable, "-c", PLAIN, f"{scratch}/image.png"])


def time_run() -> tuple[float, float]:
    """Seconds to the first image in the store, and to the exit."""
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "first" / "images"
        start = time.perf_counter()
        process = subprocess.Popen(
            [PROGRAM, "run", JOB, "--set", f"output={scratch}"],
            cwd=ROOT,
            env=COMPILED,
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


def time_commands(runs: int) -> None:
    """Print the medians of commands that start no Ray."""
    with tempfile.TemporaryDirectory() as scratch:
        output = ["--set", f"output={scratch}"]
        commands = {
            "--help": ["--help"],
            "plan": ["plan", JOB, *output],
            "status": ["status", f"{scratch}/first"],
            "second start of a finished run": ["run", JOB, *output],
        }
        time_call([PROGRAM, "run", JOB, *output])
        for name, arguments in commands.items():
            taken = [time_call([PROGRAM, *arguments]) for _ in range(runs + 1)][1:]
            print(f"{name}: {statistics.median(taken):.2f} s")


def time_call(command: Sequence[str]) -> float:
    """Seconds of a command that must end well."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=COMPILED, capture_output=True, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
