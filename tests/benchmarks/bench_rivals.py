"""Throughput of `nightpress run` beside what people use today, on the same prompts.

::

    python tests/benchmarks/bench_rivals.py --prompts PartiPrompts.tsv --images 500 --pairs 2
    python tests/benchmarks/bench_rivals.py --images 48 --only batched bare
    python tests/benchmarks/bench_rivals.py --images 200 --way "model.dtype=bfloat16"

The rivals are the scripts in `rivals/`, each as its own documentation teaches it. All of them, and
nightpress, make the same pictures, which is checked: the same rows and seeds, weights, precision,
scheduler, steps, guidance and batches, with as many sampling threads in all, into a local folder.
For each `--way`, settings of its job such as `nightpress tune` finds, nightpress runs again beside
the same rivals; then its pictures are not the same, and how far they are is printed.
They store a PNG an image, as Pillow saves it unless told otherwise, and a record of each; the bare
loop stores nothing.

Each runs in processes of its own, and directly before or after nightpress, which together are a
pair; the next pair is in the other order. Two figures are taken of each:

- the rate is without start-up: the images that are stored after the first tenth are divided by the
  seconds from there to the last image or metadata file, by the files' own times. The tenth is
  rounded up to whole rounds of batches, one for each thread, as images come in such lots. In that
  time nightpress writes each file through to the disk, and the rivals do not. The bare loop has no
  files; there it is when a batch was sampled.
- whole divides all images by the time from the start of the command to its end: imports, loading
  the model, starting Ray and ending it, and nightpress's plan and report.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import yaml
from bench_first_image import ROOT
from rivals.figures import Figures, count_records, figures, median, printed_moments, stored_figures
from rivals.job import Job
from rivals.likeness import apart, require_same_pictures
from rivals.prompts import write_manifest

from nightpress.diffusion_core.errors import DiffusionError
from nightpress.diffusion_core.models.loading import ModelInfo, ModelSpec, describe
from nightpress.pipelines.models.location import locate

PROMPTS = ROOT / "jobs" / "examples" / "prompts.txt"
RIVALS = Path(__file__).parent / "rivals"
SHOWN_LINES = 15

MIN_LOTS = 20
"""Batches for each thread, below which a rate is mostly chance."""


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
class Pair:
    """A rival's run, and those of nightpress beside it."""

    rival: Figures
    nightpress: tuple[Figures, ...]
    """One for each way; the first is the plain one."""


Way = tuple[str, ...]
"""Settings of nightpress's job, `KEY=VALUE` each; none of the plain way."""


def main() -> None:
    """Run the pairs and print the table."""
    options = arguments()
    rivals = [rival for rival in EVERY if rival.name in options.only and is_installed(rival)]
    if not rivals:
        raise SystemExit("none of the rivals can run here")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.output or Path(scratch)
        job, settings = job_of(options, folder)
        print("\n".join([settings, *doubts(job)]), flush=True)
        pairs: dict[str, list[Pair]] = {rival.name: [] for rival in rivals}
        for number in range(options.pairs):
            run_pairs(job, rivals, number, folder, pairs, options.ways)
    print(f"\n{settings}; medians of {options.pairs} pairs")
    for place, way in enumerate(options.ways):
        print(f"\nnightpress with {' '.join(way) or 'the same settings'}\n")
        print("\n".join(table(rivals, pairs, place)))


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
        "--way",
        action="append",
        type=lambda text: tuple(text.split()),
        default=[()],
        dest="ways",
        metavar="'KEY=VALUE ...'",
        help="run nightpress also with these settings of its job",
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
    ways: Sequence[Way],
) -> None:
    """Run each rival once, and nightpress between every two of them, in each way."""
    for place, beside in enumerate(neighbours(rivals, number)):
        folders = [folder / f"pair-{number}/nightpress-{place}-{way}" for way in range(len(ways))]
        theirs: dict[str, Figures] = {}
        ours: list[Figures] = []
        for rival in beside:
            if rival is None:
                for output, way in zip(folders, ways, strict=True):
                    ours.append(told(output, run_nightpress(job, output, way)))
            else:
                output = folder / f"pair-{number}" / rival.name
                theirs[rival.name] = told(output, run_rival(rival, job, output))
        for name, made in theirs.items():
            compare_pictures(folder / f"pair-{number}" / name, folders, ways)
            pairs[name].append(Pair(made, tuple(ours)))


def told(output: Path, made: Figures) -> Figures:
    """Print what a run came to."""
    where = f"{output.parent.name}: {output.name}"
    print(f"{where} {made.rate:.2f} images/s, whole {made.whole:.2f}", flush=True)
    return made


def compare_pictures(rival: Path, folders: Sequence[Path], ways: Sequence[Way]) -> None:
    """Require those of the plain way to be the rival's, and say how far the others are."""
    for folder, way in zip(folders, ways, strict=True):
        if not way:
            require_same_pictures(rival, folder / "run")
        elif any(rival.glob("images/*.png")):
            where = f"{rival.parent.name}: pictures of {folder.name} beside {rival.name}'s"
            print(f"{where}: {apart(rival, folder / 'run')}", flush=True)


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


def run_nightpress(job: Job, output: Path, way: Way) -> Figures:
    """Run the command on the same rows, in a way of its own; take its figures."""
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
    settings = [argument for each in way for argument in ("--set", each)]
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


def table(rivals: Sequence[Rival], pairs: dict[str, list[Pair]], way: int) -> Iterator[str]:
    """Lines: images a second of each, how many times that nightpress makes in a way, the goal."""
    yield f"{'':38}{'images/s':>17}{'nightpress / it':>18}"
    yield f"{'':38}{'rate':>9}{'whole':>8}{'rate':>10}{'whole':>8}{'goal':>8}"
    for rival in rivals:
        own = median([pair.rival for pair in pairs[rival.name]])
        ratio = median([pair.nightpress[way].over(pair.rival) for pair in pairs[rival.name]])
        verdict = "met" if ratio.rate >= rival.goal else "missed"
        yield (
            f"{rival.what:38}{own.rate:9.2f}{own.whole:8.2f}"
            f"{ratio.rate:10.2f}{ratio.whole:8.2f}{rival.goal:8.2f} {verdict}"
        )
    ours = median([pair.nightpress[way] for each in pairs.values() for pair in each])
    yield f"{'nightpress run':38}{ours.rate:9.2f}{ours.whole:8.2f}"


if __name__ == "__main__":
    main()
