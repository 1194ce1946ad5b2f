"""`nightpress run`."""

import json
import signal
from dataclasses import asdict

import click
from rich.console import Console

from jobs.cli import SOME_FAILED
from jobs.commands.common import job_options, json_option, read_job
from jobs.progress import display_for
from jobs.runner import RunResult, run
from pipelines.wording import duration


@click.command("run")
@job_options
@json_option
@click.pass_context
def command(
    ctx: click.Context, job: str, overrides: tuple[str, ...], address: str | None, as_json: bool
) -> None:
    """Make every image of JOB, a YAML job file.

    Images, their metadata and a report land in <output>/<name>. Interrupt it at any time: the
    same command goes on, and makes only what is missing.
    """
    spec = read_job(job, overrides, address)
    # A scheduler's polite stop ends a run like Ctrl-C: resumable, exit code 4.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    display = display_for(Console(stderr=True))
    with display:
        result = run(spec, display.show)
    click.echo(json.dumps(asdict(result)) if as_json else summary(result))
    if result.num_failed:
        ctx.exit(SOME_FAILED)


def summary(result: RunResult) -> str:
    """The closing lines: what was made, and where it is."""
    rate = "" if result.images_per_s is None else f", {result.images_per_s:.2f} images/s"
    failed = f", {result.num_failed:,} failed" if result.num_failed else ""
    lines = [
        f"{result.num_ok:,} of {result.num_images:,} images{failed}",
        f"{result.num_made:,} made now in {duration(result.elapsed_s)}{rate}",
        "",
        f"images    {result.url}/images/",
        f"metadata  {result.url}/metadata/",
        f"report    {result.url}/report.html",
    ]
    if result.num_failed:
        lines.append("failed rows have status = 'failed' and a reason in the metadata")
    return "\n".join(lines)
