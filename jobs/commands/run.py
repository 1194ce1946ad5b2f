"""`nightpress run`."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from nightpress.jobs.commands.common import (
    EXTEND,
    budget_option,
    extend_options,
    job_options,
    json_option,
    max_failures_option,
    read_job,
    require_writable,
    sigterm_as_ctrl_c,
    take_over_option,
    with_limit,
)
from nightpress.jobs.commands.exit_codes import OK_CODES, ok_codes_option
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.log_format import LogFormat, log_format_option
from nightpress.jobs.commands.run_display import run_display
from nightpress.jobs.commands.score_lines import score_lines
from nightpress.jobs.commands.times import Deadline, Night, local_text, night_options, zone_of
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.jobs.progress.displays import Display
from nightpress.jobs.progress.events import Event, Message
from nightpress.jobs.progress.trace import time_lines
from nightpress.jobs.runs.extend_options import ExtendOptions
from nightpress.jobs.runs.runner import RunResult, run
from nightpress.pipelines.formatting import duration
from nightpress.pipelines.job.spec import RunSpec


@click.command("run")
@job_options
@click.option(
    "--deadline",
    type=Deadline(),
    metavar="TIME",
    help="Stop cleanly by this time, such as 06:30 or 2027-01-15T06:30, with exit code 4. "
    "22:00-06:30 also refuses to start outside these hours.",
)
@night_options
@max_failures_option(
    "Stop early, with exit code 1, when more images than this have failed: a number, or a share of "
    "the finished images such as 5%."
)
@budget_option
@take_over_option
@extend_options(EXTEND)
@ok_codes_option
@log_format_option
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write a timeline of the actors to, for chrome://tracing or ui.perfetto.dev.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    job: str,
    overrides: tuple[str, ...],
    address: str | None,
    deadline: float | None,
    night: Night,
    max_failures: int | str | None,
    budget: float | None,
    take_over: bool,
    growing: ExtendOptions,
    log_format: LogFormat,
    trace: Path | None,
    as_json: bool,
) -> None:
    """Make every image of JOB, a YAML job file.

    Images, their metadata and a report are written to <output>/<name>. Interrupt it at any time: it
    finishes and stores the batches that are being sampled, for at most cluster.drain_s seconds, and
    the same command later makes only what is missing. A second interruption stops it at once.

    If the manifest has other rows by then, it says what came, went and changed; see --extend.
    """
    require_writable("--trace", trace)
    spec = read_job(job, with_limit(overrides, max_failures), address, night)
    sigterm_as_ctrl_c()
    with run_display(log_format) as display:
        if deadline is not None:
            display.show(Message(f"to be done by {local_text(deadline, zone_of(ctx))}"))
        result = run(
            spec,
            display.show,
            take_over=take_over,
            **asdict(growing),
            deadline_at=deadline,
            budget=budget,
            ok_codes=ctx.meta.get(OK_CODES, ()),
            trace=None if trace is None else trace_writer(trace, display),
        )
    print_and_exit(ctx, exit_code(result), asdict(result), summary(result, spec), as_json)


def exit_code(result: RunResult) -> int:
    """The exit code of a run that has ended."""
    return SOME_FAILED if result.num_failed else OK


def trace_writer(path: Path, display: Display[Event]) -> Callable[[str], None]:
    """A function that writes the trace; if it cannot, it shows a warning and the run goes on."""

    def write(text: str) -> None:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            display.show(Message(f"--trace {path}: {error.strerror}", warning=True))

    return write


def summary(result: RunResult, spec: RunSpec | None = None) -> str:
    """The closing lines: what was made, how it was scored, and where it is.

    Args:
        result: how the run ended.
        spec: its job; without it scores are not listed if images were only measured.
    """
    per_s = result.images_per_s
    rate = [] if per_s is None else [f"{per_s:.2f} images/s of sampling time in the whole run"]
    failed = f", {result.num_failed:,} failed" if result.num_failed else ""
    if result.num_rejected:
        failed += f" ({result.num_rejected:,} of them rejected by gates)"
    lines = [
        f"{result.num_ok:,} of {result.num_images:,} images{failed}",
        f"{result.num_made:,} made now in {duration(result.elapsed_s)}",
        *rate,
        *time_lines(result.time_shares, result.between_batches),
        *([] if result.cost is None else [f"cost: {result.cost}"]),
        *([] if result.tuned is None else [result.tuned]),
        *score_lines(result.scores, result.url, spec is not None and spec.gates is not None),
        "",
        f"images    {result.url}/images/",
        f"metadata  {result.url}/metadata/",
        f"report    {result.url}/report.html",
    ]
    if result.num_failed:
        lines.append("failed rows have status = 'failed' and a reason in the metadata")
    return "\n".join(lines)
