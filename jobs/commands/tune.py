"""`nightpress tune`."""

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
    sigterm_as_ctrl_c,
)
from nightpress.jobs.commands.json_output import print_result
from nightpress.jobs.commands.times import Night, night_options
from nightpress.jobs.errors import StoppedOnRequest
from nightpress.jobs.tuning.options import DEFAULTS, TuneOptions
from nightpress.pipelines.job.night import ANY_NIGHT
from nightpress.pipelines.job.spec import RunSpec

if TYPE_CHECKING:
    from nightpress.jobs.tuning.tune import Tuning


class Decibels(click.ParamType[float]):
    """A PSNR, or `lossless` for an infinite one."""

    name = "DB|lossless"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """A positive number; infinite for `lossless`."""
        if value == "lossless":
            return math.inf
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            self.fail(f"{value!r} is not a PSNR above 0 dB, such as 30, or lossless", param, ctx)
        return number


@click.command("tune")
@job_argument
@set_option
@night_options
@click.option(
    "--tolerance",
    type=Decibels(),
    default=f"{DEFAULTS.tolerance_db:g}",
    show_default=True,
    help="Lowest PSNR that an image may have, or lossless: no pixel may differ.",
)
@click.option(
    "--images",
    "num_images",
    type=click.IntRange(1, 10_000),
    default=DEFAULTS.num_images,
    show_default=True,
    help="Images of the job to sample with each configuration, rounded up to whole batches.",
)
@click.option(
    "--reference-dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default=DEFAULTS.reference_dtype,
    show_default=True,
    help="Precision of the reference. auto: as in a job, by the device and the model.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Device to measure on. [default: the one that the job would use here]",
)
@click.option(
    "--compile/--no-compile",
    "compiles",
    default=DEFAULTS.compiles,
    show_default=True,
    help="Whether to try configurations that compile, each of which may take minutes.",
)
@click.option("--dry-run", is_flag=True, help="Do not change the job file.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="HTML page to write, with pairs of images. [default: <name>-tune.html]",
)
@json_option
def command(
    job: str,
    overrides: tuple[str, ...],
    night: Night,
    tolerance: float,
    num_images: int,
    reference_dtype: Any,
    device: str | None,
    compiles: bool,
    dry_run: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Find the fastest speed settings for JOB on this machine, and write them to JOB.

    Samples the job's first images that have its most frequent settings, of those that are made from
    text alone: once without speed settings as the reference, once with each configuration that the
    model and the device support, and with combinations of the faster ones. Prints images/s and how
    much each configuration's images differ from the reference's. Writes model.dtype and model.speed
    of the fastest configuration whose images are all within the tolerance; the rest of the file
    stays as it is.

    Both settings change pixels, so a run that was started without them cannot resume with them.
    """
    spec = read_job(job, overrides, night=night)
    before = RunSpec.from_file(job, night=ANY_NIGHT)
    page = output or Path(f"{spec.name}-tune.html")
    _require_writable(page, Path(job), overrides, dry_run)
    sigterm_as_ctrl_c()
    options = TuneOptions(tolerance, num_images, reference_dtype, device, compiles)
    tuning = _tune(job, spec, options)
    if not as_json:
        _print_trials(tuning)
    _write_page(tuning, page)
    _keep(tuning)
    _update_job(tuning, job, before, page, dry_run, as_json)


def _tune(job: str, spec: RunSpec, options: TuneOptions) -> "Tuning":
    """Try all configurations, with progress on stderr.

    Raises:
        StoppedOnRequest: interrupted.
    """
    from nightpress.jobs.tuning.report import display_for  # loads torch; --help should not
    from nightpress.jobs.tuning.tune import tune

    display = display_for(Console(stderr=True))
    try:
        with display:
            return tune(spec, options, display.show)
    except KeyboardInterrupt:
        raise StoppedOnRequest(f"stopped; {job} is unchanged") from None


def _require_writable(page: Path, job: Path, overrides: tuple[str, ...], dry_run: bool) -> None:
    """Check before any work that the results can be written."""
    if page.suffix.lower() not in (".html", ".htm"):
        raise click.UsageError(f"-o {page}: the page is HTML, so its name must end in .html")
    require_writable("-o", page)
    if dry_run:
        return
    changed = [
        text for text in overrides if text.partition("=")[0].split(".")[0].strip() == "model"
    ]
    if changed:
        raise click.UsageError(
            f"--set {changed[0]}: the result would be written to {job}, which describes another "
            "model; change the model there, or add --dry-run"
        )
    file = job.resolve()
    if not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)):
        raise click.UsageError(f"{job}: not writable; add --dry-run to leave it unchanged")


def _print_trials(tuning: "Tuning") -> None:
    """The table, the configurations that are not available, and which one is the fastest."""
    from nightpress.jobs.tuning.report import outcome, refusals, terminal_table

    Console().print(terminal_table(tuning), highlight=False)
    for line in [*refusals(tuning), "", outcome(tuning)]:
        click.echo(line)


def _write_page(tuning: "Tuning", page: Path) -> None:
    from nightpress.jobs.tuning.report import write_page

    try:
        write_page(tuning, page)
    except OSError as error:
        raise click.FileError(str(page), error.strerror) from error


def _keep(tuning: "Tuning") -> None:
    """Keep the result for the summaries of runs; if that fails, only say so."""
    from nightpress.jobs.tuning.kept import keep

    try:
        keep(tuning)
    except OSError as error:
        click.echo(f"warning: runs will not know of this result: {error}", err=True)


def _update_job(
    tuning: "Tuning", job: str, before: RunSpec, page: Path, dry_run: bool, as_json: bool
) -> None:
    """Change the job file, and print what was written."""
    from nightpress.jobs.tuning.job_file import update_job
    from nightpress.jobs.tuning.report import as_values, update_lines

    update = update_job(tuning, Path(job), before, dry_run)
    if as_json:
        written = {"changes": update.changes, "written": update.written, "page": str(page)}
        print_result(as_values(tuning) | written)
        return
    for line in [*update_lines(tuning, job, update, dry_run), f"wrote {page}"]:
        click.echo(line)
