"""`nightpress submit`."""

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

import click

from nightpress.jobs.commands.common import (
    EXTEND,
    budget_option,
    extend_options,
    job_argument,
    json_option,
    max_failures_option,
    read_job,
    set_option,
    take_over_option,
    with_limit,
)
from nightpress.jobs.commands.exit_codes import ok_codes_option
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.log_format import LogFormat, log_format_option, tell
from nightpress.jobs.commands.times import Deadline, Night, night_options
from nightpress.jobs.errors import BAD_INPUT, OK, STOPPED, UNEXPECTED, StoppedOnRequest
from nightpress.jobs.progress.log_lines import LineWrapper
from nightpress.jobs.runs.extend_options import ExtendOptions
from nightpress.jobs.signals import Interruption, first_interruption
from nightpress.jobs.submission.client import JobsClient
from nightpress.jobs.submission.submit import Ended, Submission, follow, stop_wait_s, submit

SIGNALLED = 128
"""Above it, a shell's exit code tells the signal that its command was killed by."""


@click.command("submit")
@job_argument
@set_option
@click.option(
    "--to",
    "address",
    required=True,
    metavar="URL",
    envvar="RAY_API_SERVER_ADDRESS",
    help="Dashboard of the Ray cluster, such as http://head:8265. [default: "
    "RAY_API_SERVER_ADDRESS]",
)
@click.option(
    "--deadline",
    type=Deadline(),
    metavar="TIME",
    help="As for `run`, by the clock of --tz.",
)
@night_options
@max_failures_option("As for `run`.")
@budget_option
@take_over_option
@extend_options(EXTEND)
@ok_codes_option
@log_format_option
@click.option("--no-wait", is_flag=True, help="Print the job's id and leave it to the cluster.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    job: str,
    overrides: tuple[str, ...],
    address: str,
    deadline: float | None,
    night: Night,
    max_failures: int | str | None,
    budget: float | None,
    take_over: bool,
    growing: ExtendOptions,
    log_format: LogFormat,
    no_wait: bool,
    as_json: bool,
) -> None:
    """Run JOB on a Ray cluster through its Jobs API, and follow it to its end.

    The job file travels there, with the manifests that it names by relative paths; everything else
    must be a URL or an absolute path that the cluster's nodes share. If this very job is running
    there already, its output is shown instead of starting it again.

    The exit code is that of the run. SIGTERM and Ctrl-C stop the job as they stop `nightpress run`:
    its batches are finished and stored, and the exit code is 4. A second one leaves at once, while
    the job goes on stopping.
    """
    spec, say = read_job(job, with_limit(overrides, max_failures), night=night), partial(tell, ctx)
    options = list(_run_options(deadline, budget, take_over, growing, log_format))
    with first_interruption() as stop:
        client = JobsClient(address)
        _require_not_stopped(stop)
        submission = submit(client, spec, options, say)
        how = "attached to" if submission.attached else "started"
        say(f"{how} job {submission.job_id} at {submission.address}")
        if no_wait:
            print_and_exit(ctx, OK, asdict(submission), submission.job_id, as_json)
        with closing(LineWrapper(sys.stderr)) as lines:
            show = lines if log_format == "json" else _show
            ended = follow(client, submission, stop_wait_s(spec), show, stop, say)
    code, text = outcome(submission, ended)
    print_and_exit(ctx, code, asdict(submission) | asdict(ended), text, as_json)


def _require_not_stopped(stop: Interruption) -> None:
    if stop.is_set():
        raise StoppedOnRequest("stopped before the job was submitted; nothing was changed")


def _run_options(
    deadline: float | None,
    budget: float | None,
    take_over: bool,
    growing: ExtendOptions,
    log_format: LogFormat,
) -> Iterator[str]:
    if deadline is not None:
        yield "--deadline"
        yield datetime.fromtimestamp(deadline, UTC).isoformat(timespec="seconds")
    if budget is not None:
        yield from ("--budget", str(budget))
    if take_over:
        yield "--take-over"
    yield from growing.words
    if log_format != "text":
        yield from ("--log-format", log_format)


def _show(text: str) -> None:
    click.echo(text, err=True, nl=False)


def outcome(submission: Submission, ended: Ended) -> tuple[int, str]:
    """The exit code of a job that has ended, and one line that says how it did."""
    job = f"job {submission.job_id}"
    match ended.status, ended.exit_code:
        case "SUCCEEDED", _:
            return OK, f"{job} has finished"
        case "STOPPED", _:
            return STOPPED, f"{job} was stopped; run the same command again to resume"
        case _, 126 | 127:  # of the shell
            return BAD_INPUT, f"{job} did not start: the cluster's head has no `python` in its PATH"
        case _, int(code) if code < 0 or code > SIGNALLED:
            number = -code if code < 0 else code - SIGNALLED
            return STOPPED, f"{job} was killed by signal {number}; the same command resumes it"
        case _, int(code):
            return code, f"{job} ended with exit code {code}"
    lines = ended.message.strip().splitlines() or ["it gives no reason"]
    if "runtime_env" in ended.message or "runtime env" in ended.message:
        return UNEXPECTED, f"{job} did not start: {lines[-1]}"
    return STOPPED, f"{job} was lost: {lines[0]}; the same command resumes it"
