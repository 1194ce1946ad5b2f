"""Throughput of `nightpress run` and of the tools that people use today, on the same prompts.

::

    python tests/benchmarks/bench_rivals.py --prompts PartiPrompts.tsv --images 500 --pairs 2
    python tests/benchmarks/bench_rivals.py --images 48 --only batched bare
    python tests/benchmarks/bench_rivals.py --images 200 --way "model.dtype=bfloat16"

The rivals are the scripts in `rivals/`, each written as the tool's documentation teaches. They and
nightpress make the same images, which is checked: the same rows, seeds, weights, precision,
scheduler, steps, guidance and batches, with the same number of sampling threads in total, written
to a local folder. For each `--way`, a group of job settings such as `nightpress tune` finds,
nightpress runs once more beside the same rivals; its images then differ, and the difference is
printed. `--way model.speed=auto` is what nightpress does by default. Every rival stores a PNG per
image, with Pillow's defaults, and a record of each; the bare loop stores nothing.

Each rival runs in its own processes directly before or after nightpress, and the two form a pair;
the next pair runs in the opposite order. There are two figures for each:

- "rate" leaves out start-up: the images stored after the first tenth, divided by the seconds from
  there to the last image or metadata file, by the files' modification times. The tenth is rounded
  up to whole rounds of one batch per thread. In that time nightpress syncs each file to the disk,
  and the rivals do not. The bare loop has no files, so the time of each sampled batch is used.
- "whole" divides all images by the time from the start of the command to its end: imports, loading
  the model, starting and stopping Ray, and nightpress's plan and report.
"""

import argparse
import json
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
from rivals.comparison import describe_difference, require_same_images
from rivals.figures import Figures, count_records, figures, median, printed_moments, stored_figures
from rivals.job import Job
from rivals.prompts import write_manifest

from nightpress.diffusion_core.errors import DiffusionError
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import describe
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.models.location import locate

PROMPTS = ROOT / "jobs" / "examples" / "prompts.txt"
SCRIPTS = Path(__file__).parent / "rivals"
SHOWN_LINES = 15

MIN_BATCHES = 20
"""With fewer batches for each thread, a rate is mostly noise."""


@dataclass(frozen=True)
class Rival:
    """A tool to compare nightpress with."""

    name: str
    title: str
    needs: str
    """The package that it requires."""
    exact_goal: float | None = None
    """The ratio of rates, nightpress over the rival, to reach with the same settings."""
    auto_goal: float | None = None
    """The same with what nightpress does by default."""

    def verdict(self, variant: "Variant", rate: float) -> str:
        """The goal that nightpress has with some settings, and whether a ratio of rates is it."""
        goal = {(): self.exact_goal, AUTO: self.auto_goal}.get(variant)
        if goal is None:
            return f"{'-':>8}"
        return f"{goal:8.2f} {'met' if rate >= goal else 'missed'}"

    def command(self, job: Job) -> list[str]:
        """The command line that runs it."""
        script = [str(SCRIPTS / f"{self.name}.py"), *job.as_arguments()]
        if self.name != "accelerate_split":
            return [sys.executable, *script]
        launcher = ["-m", "torch.distributed.run", "--standalone"]
        return [sys.executable, *launcher, "--nproc-per-node", str(job.threads), *script]


RIVALS = (
    Rival("bare", "the bare loop, nothing stored", "diffusers", exact_goal=0.97),
    Rival("naive", "diffusers, one prompt at a time", "diffusers", auto_goal=2.3),
    Rival("batched", "diffusers in batches", "diffusers", auto_goal=1.35),
    Rival("accelerate_split", "accelerate's split_between_processes", "accelerate", 0.97, 1.10),
    Rival("ray_data", "Ray Data's map_batches", "pandas", auto_goal=1.25),
)


@dataclass(frozen=True)
class Pair:
    """The figures of a rival, and of the nightpress runs beside it."""

    rival: Figures
    nightpress: tuple[Figures, ...]
    """One for each variant; the first is the plain one."""


Variant = tuple[str, ...]
"""Settings of nightpress's job as `KEY=VALUE`; empty for the plain variant."""

AUTO: Variant = ("model.speed=auto",)


def main() -> None:
    """Run the pairs and print the table."""
    options = arguments()
    rivals = [rival for rival in RIVALS if rival.name in options.only and is_installed(rival)]
    if not rivals:
        raise SystemExit("none of the rivals can run here")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.output or Path(scratch)
        job, settings = job_of(options, folder)
        print("\n".join([settings, *warnings(job)]), flush=True)
        pairs: dict[str, list[Pair]] = {rival.name: [] for rival in rivals}
        for number in range(options.pairs):
            run_pairs(job, rivals, number, folder, pairs, options.variants)
    print(f"\n{settings}; medians of {options.pairs} pairs")
    for place, variant in enumerate(options.variants):
        print(f"\nnightpress with {' '.join(variant) or 'the same settings'}\n")
        print("\n".join(table(rivals, pairs, place, variant)))


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--prompts",
        type=Path,
        default=PROMPTS,
        help="a text file, or a CSV or TSV file with a column Prompt",
    )
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument(
        "--threads", type=int, default=2, help="sampling threads in total; also nightpress's actors"
    )
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--model", default="builtin", help="builtin, or a diffusers folder")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--num-inference-steps", type=int, help="default: the model's own")
    parser.add_argument("--guidance-scale", type=float, help="default: the model's own")
    parser.add_argument(
        "--output", type=Path, help="folder to keep all files in; default: temporary"
    )
    parser.add_argument(
        "--way",
        action="append",
        type=lambda text: tuple(text.split()),
        default=[],
        dest="ways",
        metavar="'KEY=VALUE ...'",
        help="also run nightpress with these job settings; may be repeated",
    )
    parser.add_argument("--no-exact", action="store_true", help="run nightpress with --way alone")
    names = [rival.name for rival in RIVALS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    if options.images <= options.batch_size * options.threads:
        parser.error("--images must be more than one batch for each thread")
    options.variants = [*([] if options.no_exact else [()]), *options.ways]
    if not options.variants:
        parser.error("--no-exact needs a --way")
    return options


def is_installed(rival: Rival) -> bool:
    """Whether its package is installed; if not, print that it is left out."""
    if find_spec(rival.needs) is not None:
        return True
    print(f"{rival.name} is left out: {rival.needs} is not installed")
    return False


def job_of(options: argparse.Namespace, folder: Path) -> tuple[Job, str]:
    """The job that all rivals share, apart from its output, and its settings in words."""
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
        f"{job.threads} threads in total"
    )
    return job, settings


def warnings(job: Job) -> Iterator[str]:
    """Reasons why the figures may be unreliable."""
    num_batches = count_records(job.manifest) / (job.batch_size * job.threads)
    if num_batches < MIN_BATCHES:
        yield f"only {num_batches:.0f} batches for each thread: too few for a rate"
    load = os.getloadavg()[0]
    if load > 0.5:
        yield (
            f"the load average is {load:.1f}: other programs slow rivals with several threads, "
            "which wait for each other, more than rivals with several processes"
        )


def find_model(source: str) -> tuple[Path, ModelInfo]:
    """The model's folder and its description."""
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
    variants: Sequence[Variant],
) -> None:
    """Run each rival once, and all variants of nightpress between every two of them."""
    for place, group in enumerate(neighbours(rivals, number)):
        folders = [folder / f"pair-{number}/nightpress-{place}-{n}" for n in range(len(variants))]
        theirs: dict[str, Figures] = {}
        ours: list[Figures] = []
        for rival in group:
            if rival is None:
                for output, variant in zip(folders, variants, strict=True):
                    ours.append(shown(output, run_nightpress(job, output, variant)))
                    print_decision(output)
            else:
                output = folder / f"pair-{number}" / rival.name
                theirs[rival.name] = shown(output, run_rival(rival, job, output))
        for name, result in theirs.items():
            compare_images(folder / f"pair-{number}" / name, folders, variants)
            pairs[name].append(Pair(result, tuple(ours)))


def shown(output: Path, result: Figures) -> Figures:
    """Print the figures of a run and return them."""
    where = f"{output.parent.name}: {output.name}"
    print(f"{where} {result.rate:.2f} images/s, whole {result.whole:.2f}", flush=True)
    return result


def print_decision(output: Path) -> None:
    """Print what `model.speed: auto` has come to in a run, if it was asked."""
    for each in json.loads((output / "run" / "run.json").read_text()).get("auto_speed", ()):
        print(f"{output.parent.name}: {output.name} decided: {each['reason']}", flush=True)


def compare_images(rival: Path, folders: Sequence[Path], variants: Sequence[Variant]) -> None:
    """Require the plain variant's images to equal the rival's; print how far others differ."""
    for folder, variant in zip(folders, variants, strict=True):
        if not variant:
            require_same_images(rival, folder / "run")
        elif any(rival.glob("images/*.png")):
            where = f"{rival.parent.name}: images of {folder.name} beside {rival.name}'s"
            print(f"{where}: {describe_difference(rival, folder / 'run')}", flush=True)


def neighbours(rivals: Sequence[Rival], number: int) -> Iterator[list[Rival | None]]:
    """Groups of one or two rivals around nightpress (None), which changes sides in odd pairs."""
    slots: list[list[Rival]] = [[]] * (number % 2) + [[rival] for rival in rivals]
    slots += [[]] * (len(slots) % 2)
    for before, after in zip(slots[::2], slots[1::2], strict=True):
        yield [*before, None, *after]


def run_rival(rival: Rival, job: Job, output: Path) -> Figures:
    """Run a rival's script and compute its figures."""
    printed, seconds = run_process(rival.command(replace(job, output=output)), output)
    if rival.name == "bare":
        moments = printed_moments(printed)
        return figures(job, moments, max(moments, default=0.0), seconds)
    return stored_figures(job, output, seconds)


def run_nightpress(job: Job, output: Path, variant: Variant) -> Figures:
    """Run nightpress on the same rows with a variant's settings and compute its figures."""
    output.mkdir(parents=True, exist_ok=True)
    spec = {
        "name": "run",
        "manifest": str(job.manifest),
        "output": str(output),
        "model": {
            "source": job.model,
            "dtype": job.dtype,
            "speed": "exact",  # the same pictures as the other programs'
            "prompts": {"long": "cut"},  # as the other programs do
        },
        "sampling": job.sampling,
        "images": {"file_name": "{id}.png"},
        "batch": {"size": job.batch_size},
        "cluster": {"address": "local", "actors": job.threads},
    }
    path = output / "job.yaml"
    path.write_text(yaml.safe_dump(spec))
    program = Path(sys.executable).parent / "nightpress"
    settings = [argument for each in variant for argument in ("--set", each)]
    _, seconds = run_process([str(program), "run", str(path), *settings], output)
    return stored_figures(job, output / "run", seconds)


def run_process(command: Sequence[str], output: Path) -> tuple[str, float]:
    """Run a command; returns its output and seconds, or exits with its last lines."""
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


def table(
    rivals: Sequence[Rival], pairs: dict[str, list[Pair]], place: int, variant: Variant
) -> Iterator[str]:
    """Lines: images/s of each rival, the ratio of a nightpress variant to it, and the goal."""
    yield f"{'':38}{'images/s':>17}{'nightpress / it':>18}"
    yield f"{'':38}{'rate':>9}{'whole':>8}{'rate':>10}{'whole':>8}{'goal':>8}"
    for rival in rivals:
        own = median([pair.rival for pair in pairs[rival.name]])
        ratio = median([pair.nightpress[place].over(pair.rival) for pair in pairs[rival.name]])
        yield (
            f"{rival.title:38}{own.rate:9.2f}{own.whole:8.2f}"
            f"{ratio.rate:10.2f}{ratio.whole:8.2f}{rival.verdict(variant, ratio.rate)}"
        )
    ours = median([pair.nightpress[place] for each in pairs.values() for pair in each])
    yield f"{'nightpress run':38}{ours.rate:9.2f}{ours.whole:8.2f}"


if __name__ == "__main__":
    main()
