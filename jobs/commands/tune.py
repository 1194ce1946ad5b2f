"""`nightpress tune`."""

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from nightpress.jobs.commands.common import (
    job_argument,
    json_option,
    read_job,
    require_writable,
    set_option,
    stop_politely,
)
from nightpress.jobs.errors import RunStopped
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.edit import rewrite_model
from nightpress.pipelines.job.spec import RunSpec

if TYPE_CHECKING:
    from nightpress.jobs.tuning.tune import TuneOptions, Tuning

REFUSED_LATER = (
    "a run of this job that has begun goes on only as it began: let it end first, or give this job "
    "another name"
)


class Decibels(click.ParamType[float]):
    """A PSNR, or `lossless` for an infinite one."""

    name = "DB|lossless"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """A positive number; infinite where no pixel may differ."""
        if value == "lossless":
            return math.inf
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            self.fail(f"{value!r}: a PSNR in dB above 0 such as 30, or lossless", param, ctx)
        return number


@click.command("tune")
@job_argument
@set_option
@click.option(
    "--tolerance",
    type=Decibels(),
    default="30",
    show_default=True,
    help="The lowest PSNR that a picture may have, or lossless: no pixel may differ.",
)
@click.option(
    "--images",
    "num_images",
    type=click.IntRange(1, 10_000),
    default=16,
    show_default=True,
    help="Images of the job to sample in every way, rounded up to whole batches.",
)
@click.option(
    "--reference-dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Precision of the reference. auto: float32 on a CPU, bfloat16 on an accelerator.",
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="[default: as the job would use here]"
)
@click.option(
    "--compile/--no-compile",
    "compiles",
    default=True,
    show_default=True,
    help="Whether ways that compile are tried, each of which may take minutes.",
)
@click.option("--dry-run", is_flag=True, help="Leave the job file as it is.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The page to write, with pairs of pictures. [default: <name>-tune.html]",
)
@json_option
def command(
    job: str,
    overrides: tuple[str, ...],
    tolerance: float,
    num_images: int,
    reference_dtype: Any,
    device: str | None,
    compiles: bool,
    dry_run: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Find the fastest way to sample JOB on this machine, and write it into JOB.

    Samples the job's first images, of those with its most frequent settings, with nothing chosen;
    that is the reference. Then it samples them in each way that model and device can take, and in
    combinations of those that pay. Tells images/s, and how far each way's pictures are from the
    reference's. Writes model.dtype and model.speed of the fastest way whose pictures all stay
    within the tolerance; the rest of the file stays as it is.

    Both decide pixels, so a run that began without them refuses to go on with them.
    """
    spec, before = read_job(job, overrides), RunSpec.from_file(job)
    page = output or Path(f"{spec.name}-tune.html")
    _require_writable(page, Path(job), overrides, dry_run)
    stop_politely()
    from nightpress.jobs.tuning import (
        report as report,  # loads the frameworks, which help does without
    )
    from nightpress.jobs.tuning.tune import TuneOptions

    options = TuneOptions(tolerance, num_images, reference_dtype, device, compiles)
    tuning = _tuned(job, spec, options)
    if not as_json:
        _show(tuning)
    _write(page, tuning)
    changes = tuning.changes(before.model)
    written = not dry_run and bool(changes) and _rewritten(Path(job), before, changes)
    if as_json:
        told = {"changes": changes, "written": written, "page": str(page)}
        click.echo(json.dumps(report.as_values(tuning) | told))
        return
    for line in _what_happened(tuning, job, changes, written, dry_run):
        click.echo(line)
    click.echo(f"wrote {page}")


def _tuned(job: str, spec: RunSpec, options: "TuneOptions") -> "Tuning":
    """Try everything, telling of each way on stderr.

    Raises:
        RunStopped: it was interrupted.
    """
    from nightpress.jobs.tuning.report import display_for
    from nightpress.jobs.tuning.tune import tune

    display = display_for(Console(stderr=True))
    try:
        with display:
            return tune(spec, options, display.show)
    except KeyboardInterrupt:
        raise RunStopped(f"stopped; {job} is as it was") from None


def _require_writable(page: Path, job: Path, overrides: tuple[str, ...], dry_run: bool) -> None:
    """See before any work that its results can be kept."""
    if page.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"-o {page}: the page is HTML; let its name end in .html")
    require_writable("-o", page)
    if dry_run:
        return
    of_model = [
        text for text in overrides if text.partition("=")[0].split(".")[0].strip() == "model"
    ]
    if of_model:
        raise click.UsageError(
            f"--set {of_model[0]}: what is found would be written into {job}, which has another "
            "model; change it there, or add --dry-run"
        )
    file = job.resolve()
    if not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        raise click.UsageError(f"{job}: cannot be written; --dry-run leaves it as it is")


def _write(page: Path, tuning: "Tuning") -> None:
    from nightpress.jobs.tuning.report import page_of
    from nightpress.pipelines.reporting.tuning_page import render

    try:
        page.write_text(render(page_of(tuning)), encoding="utf-8")
    except OSError as error:
        raise click.FileError(str(page), error.strerror) from error


def _show(tuning: "Tuning") -> None:
    """The table, what cannot be had, and which way is the fastest."""
    from nightpress.jobs.tuning.report import outcome, refusals, terminal_table

    Console().print(terminal_table(tuning), highlight=False)
    for line in [*refusals(tuning), "", outcome(tuning)]:
        click.echo(line)


def _rewritten(job: Path, before: RunSpec, changes: dict[str, Any]) -> bool:
    """Whether the file now says the changes; False where it is better left to its author."""
    values = before.as_dict()
    try:
        after = RunSpec.from_dict(values | {"model": values["model"] | changes}, where=str(job))
    except SpecError:  # it holds with --set only
        return False
    return rewrite_model(job, before, after, changes)


def _what_happened(
    tuning: "Tuning", job: str, changes: dict[str, Any], written: bool, dry_run: bool
) -> list[str]:
    """What became of the job file, in lines."""
    from nightpress.jobs.tuning.report import lines_for

    if not changes:
        has_it = "has it already" if tuning.best is not None else "stays as it is"
        return [f"{job} {has_it}"]
    lines = lines_for(changes)
    if written:
        return [f"wrote into {job}:", lines, REFUSED_LATER]
    if dry_run:
        return [f"{job} would say:", lines]
    return [f"{job} changed meanwhile, or is better changed by its author; say in it:", lines]
