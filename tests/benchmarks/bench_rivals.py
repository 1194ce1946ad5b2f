"""Throughput of `nightpress run` beside what people use today, on the same prompts.

::

    python tests/benchmarks/bench_rivals.py --prompts PartiPrompts.tsv --images 500 --pairs 2
    python tests/benchmarks/bench_rivals.py --images 48 --only batched bare
    python tests/benchmarks/bench_rivals.py --images 200 --set model.dtype=bfloat16

The rivals are the scripts in `rivals/`, each as its own documentation teaches it. All of them, and
nightpress, make the same pictures, which is checked: the same rows and seeds, weights, precision,
scheduler, steps, guidance and batches, with as many sampling threads in all, into a local folder.
With `--set` nightpress alone samples in another way, such as `nightpress tune` finds; then its
pictures are not the same, and how far they are is printed.
They store a PNG an image, as Pillow saves it unless told otherwise, and a record of each; the bare
loop stores nothing.

Each runs in processes of its own, and directly before or after a run of nightpress, which together
are a pair; the next pair is in the other order. Two figures are taken of each:

- the rate is without start-up: the images that are stored after the first tenth are divided by the
  seconds from there to the last image or metadata file, by the files' own times. The tenth is
  rounded up to whole rounds of batches, one for each thread, as images come in such lots. In that
  time nightpress writes each file through to the disk, and the rivals do not. The bare loop has no
  files; there it is when a batch was sampled.
- whole divides all images by the time from the start of the command to its end: imports, loading
  the model, starting Ray and ending it, and nightpress's plan and report.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml
from bench_first_image import ROOT
from PIL import Image
from rivals.job import Job
from rivals.prompts import write_manifest

from diffusion_core.errors import DiffusionError
from diffusion_core.likeness import psnr_db
from diffusion_core.model import ModelInfo, ModelSpec, describe
from pipelines.models import locate

PROMPTS = ROOT / "jobs" / "examples" / "prompts.txt"
RIVALS = Path(__file__).parent / "rivals"
SHOWN_LINES = 15

MIN_LOTS = 20
"""Batches for each thread, below which a rate is mostly chance."""

SAME_PICTURE = 4.0
"""Mean difference, of 255, up to which two pictures of other batches or threads are the same."""


@dataclass(frozen=True)
class Rival:
    """Something to hold nightpress against."""

    name: str
    what: str
    goal: float
    """How many times its rate nightpress's should be."""
    needs: str
    """The package that it cannot do without."""

    def command(self, job: Job) -> list[str]:
        """What starts it."""
        script = [str(RIVALS / f"{self.name}.py"), *job.as_arguments()]
        if self.name != "accelerate_split":
            return [sys.executable, *script]
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        return [sys.executable, *launcher, "--nproc-per-node", str(job.threads), *script]


EVERY = (
    Rival("bare", "the bare loop, nothing stored", 0.97, "diffusers"),
    Rival("naive", "diffusers, one prompt at a time", 2.5, "diffusers"),
    Rival("batched", "diffusers in batches", 1.10, "diffusers"),
    Rival("accelerate_split", "accelerate's split_between_processes", 1.15, "accelerate"),
    Rival("ray_data", "Ray Data's map_batches", 1.15, "pandas"),
)


@dataclass(frozen=True)
class Figures:
    """Images a second."""

    rate: float
    """From the first tenth to the last file."""
    whole: float
    """Of the whole process."""

    def over(self, other: "Figures") -> "Figures":
        """Both as multiples of the other's."""
        return Figures(self.rate / other.rate, self.whole / other.whole)


@dataclass(frozen=True)
class Pair:
    """A rival's run, and the run of nightpress beside it."""

    rival: Figures
    nightpress: Figures


def main() -> None:
    """Run the pairs and print the table."""
    options = arguments()
    rivals = [rival for rival in EVERY if rival.name in options.only and is_installed(rival)]
    if not rivals:
        raise SystemExit("none of the rivals can run here")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.output or Path(scratch)
        job, settings = job_of(options, folder)
        if options.set:
            settings += f"; nightpress with {' '.join(options.set)}"
        print("\n".join([settings, *doubts(job)]), flush=True)
        pairs: dict[str, list[Pair]] = {rival.name: [] for rival in rivals}
        for number in range(options.pairs):
            run_pairs(job, rivals, number, folder, pairs, options.set)
    print(f"\n{settings}; medians of {options.pairs} pairs\n")
    print("\n".join(table(rivals, pairs)))


def arguments() -> argparse.Namespace:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="text, or with a column")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="in all; nightpress's actors")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--model", default="builtin", help="or a diffusers folder")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--num-inference-steps", type=int, help="the model's own unless set")
    parser.add_argument("--guidance-scale", type=float, help="the model's own unless set")
    parser.add_argument("--output", type=Path, help="keeps what is stored; temporary unless set")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of nightpress's job only"
    )
    names = [rival.name for rival in EVERY]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    if options.images <= options.batch_size * options.threads:
        parser.error("--images must be more than one batch for each thread")
    return options


def is_installed(rival: Rival) -> bool:
    """Whether its package is there; if not, it is said."""
    if find_spec(rival.needs) is not None:
        return True
    print(f"{rival.name} is left out: {rival.needs} is not installed")
    return False


def job_of(options: argparse.Namespace, folder: Path) -> tuple[Job, str]:
    """The job as every rival gets it, less its output; and its settings in words."""
    model, info = find_model(options.model)
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        manifest=write_manifest(folder / "prompts.parquet", options.prompts, options.images),
        output=folder,
        model=str(model),
        dtype=options.dtype,
        num_inference_steps=options.num_inference_steps or info.num_inference_steps,
        guidance_scale=(
            info.guidance_scale if options.guidance_scale is None else options.guidance_scale
        ),
        batch_size=options.batch_size,
        threads=options.threads,
    )
    settings = (
        f"{options.images} images of {options.prompts.name}, model {options.model}, "
        f"{info.width}x{info.height}, {job.num_inference_steps} steps, "
        f"guidance {job.guidance_scale:g}, {job.dtype}, batches of {job.batch_size}, "
        f"{job.threads} threads in all"
    )
    return job, settings


def doubts(job: Job) -> Iterator[str]:
    """Why the figures may say little."""
    lots = count_records(job.manifest) / (job.batch_size * job.threads)
    if lots < MIN_LOTS:
        yield f"only {lots:.0f} batches for each thread: too few for a rate"
    load = os.getloadavg()[0]
    if load > 0.5:
        yield (
            f"others keep {load:.1f} processors busy: programs of several threads that wait for "
            "each other suffer from that more than programs of several processes"
        )


def find_model(source: str) -> tuple[Path, ModelInfo]:
    """The model's folder, and what is known of it."""
    spec = ModelSpec(source=source)
    try:
        folder = locate(spec, {})
        return folder.resolve(), describe(folder, spec)
    except DiffusionError as error:
        raise SystemExit(str(error)) from None


def run_pairs(
    job: Job,
    rivals: Sequence[Rival],
    number: int,
    folder: Path,
    pairs: dict[str, list[Pair]],
    chosen: Sequence[str],
) -> None:
    """Run each rival once, and nightpress between every two of them."""
    for place, beside in enumerate(neighbours(rivals, number)):
        runs: dict[str, Figures] = {}
        for rival in beside:
            name = rival.name if rival else f"nightpress-{place}"
            output = folder / f"pair-{number}" / name
            made = run_rival(rival, job, output) if rival else run_nightpress(job, output, chosen)
            runs[rival.name if rival else "nightpress"] = made
            print(f"pair {number}: {name} {made.rate:.2f} images/s, whole {made.whole:.2f}")
            sys.stdout.flush()
        nightpress = runs.pop("nightpress")
        for name, figures in runs.items():
            theirs = folder / f"pair-{number}" / name
            ours = folder / f"pair-{number}/nightpress-{place}/run"
            if chosen and name != "bare":
                print(f"pair {number}: pictures beside {name}'s: {apart(theirs, ours)}", flush=True)
            elif not chosen:
                require_same_pictures(theirs, ours)
            pairs[name].append(Pair(figures, nightpress))


def neighbours(rivals: Sequence[Rival], number: int) -> Iterator[list[Rival | None]]:
    """Rivals with nightpress, which is None, between them; in odd pairs on the other side."""
    slots: list[list[Rival]] = [[]] * (number % 2) + [[rival] for rival in rivals]
    slots += [[]] * (len(slots) % 2)
    for before, after in zip(slots[::2], slots[1::2], strict=True):
        yield [*before, None, *after]


def run_rival(rival: Rival, job: Job, output: Path) -> Figures:
    """Run a script and take its figures."""
    printed, seconds = run_process(rival.command(replace(job, output=output)), output)
    if rival.name == "bare":
        moments = printed_moments(printed)
        return figures(job, moments, max(moments, default=0.0), seconds)
    return stored_figures(job, output, seconds)


def run_nightpress(job: Job, output: Path, chosen: Sequence[str]) -> Figures:
    """Run the command on the same rows, with what is chosen for it alone; take its figures."""
    output.mkdir(parents=True, exist_ok=True)
    spec = {
        "name": "run",
        "manifest": str(job.manifest),
        "output": str(output),
        "model": {"source": job.model, "dtype": job.dtype},
        "sampling": job.sampling,
        "images": {"file_name": "{id}.png"},
        "batch": {"size": job.batch_size},
        "cluster": {"address": "local", "actors": job.threads},
    }
    path = output / "job.yaml"
    path.write_text(yaml.safe_dump(spec))
    program = Path(sys.executable).parent / "nightpress"
    settings = [argument for each in chosen for argument in ("--set", each)]
    _, seconds = run_process([str(program), "run", str(path), *settings], output)
    return stored_figures(job, output / "run", seconds)


def run_process(command: Sequence[str], output: Path) -> tuple[str, float]:
    """What a command printed, and the seconds it took; ends with its last lines if it fails."""
    output.mkdir(parents=True, exist_ok=True)
    log = output / "log.txt"
    start = time.perf_counter()
    with log.open("w") as errors:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        shown = "\n".join(log.read_text().splitlines()[-SHOWN_LINES:])
        raise SystemExit(f"{shown}\n{output.name} ended with {done.returncode}")
    return done.stdout, seconds


def printed_moments(printed: str) -> list[float]:
    """When each image was made, by lines of a time and a number of images."""
    lines = [line.split() for line in printed.splitlines()]
    return [float(moment) for moment, number in lines for _ in range(int(number))]


def stored_figures(job: Job, folder: Path, seconds: float) -> Figures:
    """By the times of the files in a folder, where every image and its record must be."""
    images = list(folder.glob("images/*.png"))
    metadata = [*folder.glob("metadata/*.parquet"), *folder.glob("images/metadata.jsonl")]
    num_records = sum(map(count_records, metadata))
    if num_records != len(images):
        raise SystemExit(f"{folder}: {len(images)} images and {num_records} records")
    moments = [path.stat().st_mtime for path in images]
    end = max((path.stat().st_mtime for path in [*images, *metadata]), default=0.0)
    return figures(job, moments, end, seconds)


def count_records(path: Path) -> int:
    """Rows of a Parquet file, or lines of another."""
    if path.suffix == ".parquet":
        return int(pq.read_metadata(path).num_rows)
    return len(path.read_text().splitlines())


def figures(job: Job, moments: Sequence[float], end: float, seconds: float) -> Figures:
    """The rate and the whole, as the module's docstring says.

    Args:
        job: as it was run.
        moments: when each image was stored, in seconds since the epoch.
        end: when the last file was.
        seconds: that the process took.
    """
    num_images = count_records(job.manifest)
    if len(moments) != num_images:
        raise SystemExit(f"{len(moments)} of {num_images} images were made")
    lot = job.batch_size * job.threads
    first = -(-num_images // (10 * lot)) * lot
    start = sorted(moments)[first - 1]
    return Figures((num_images - first) / (end - start), num_images / seconds)


def require_same_pictures(rival: Path, nightpress: Path) -> None:
    """Compare some of the pictures: other ones would mean other settings."""
    for name, theirs, ours in pictures_of_both(rival, nightpress):
        difference = np.abs(theirs - ours).mean()
        if difference > SAME_PICTURE:
            raise SystemExit(
                f"{rival / name}: differs from nightpress's by {difference:.1f} of 255 on average"
            )


def apart(rival: Path, nightpress: Path) -> str:
    """How far some of the pictures are from each other, in words."""
    _, theirs, ours = zip(*pictures_of_both(rival, nightpress), strict=True)
    found = psnr_db(theirs, ours)
    differ = [each for each in found if math.isfinite(each)]
    same = f"{len(found) - len(differ)} of {len(found)} the same"
    if not differ:
        return same
    mean, lowest = statistics.mean(differ), min(differ)
    return f"{same}, the others {mean:.1f} dB on average, {lowest:.1f} dB at the lowest"


def pictures_of_both(rival: Path, nightpress: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """About eight pictures: name in the folder, the rival's pixels and nightpress's."""
    images = sorted(rival.glob("images/*.png"))
    for image in images[:: max(1, len(images) // 8)]:
        yield f"images/{image.name}", pixels(image), pixels(nightpress / "images" / image.name)


def pixels(path: Path) -> np.ndarray:
    """(H, W, 3), float32 in 0..255."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float32)


def table(rivals: Sequence[Rival], pairs: dict[str, list[Pair]]) -> Iterator[str]:
    """Lines: images a second of each, how many times that nightpress makes, and the goal."""
    yield f"{'':38}{'images/s':>17}{'nightpress / it':>18}"
    yield f"{'':38}{'rate':>9}{'whole':>8}{'rate':>10}{'whole':>8}{'goal':>8}"
    for rival in rivals:
        own = median([pair.rival for pair in pairs[rival.name]])
        ratio = median([pair.nightpress.over(pair.rival) for pair in pairs[rival.name]])
        verdict = "met" if ratio.rate >= rival.goal else "missed"
        yield (
            f"{rival.what:38}{own.rate:9.2f}{own.whole:8.2f}"
            f"{ratio.rate:10.2f}{ratio.whole:8.2f}{rival.goal:8.2f} {verdict}"
        )
    ours = median([pair.nightpress for each in pairs.values() for pair in each])
    yield f"{'nightpress run':38}{ours.rate:9.2f}{ours.whole:8.2f}"


def median(several: Sequence[Figures]) -> Figures:
    """Of each figure alone."""
    return Figures(
        statistics.median(each.rate for each in several),
        statistics.median(each.whole for each in several),
    )


if __name__ == "__main__":
    main()
