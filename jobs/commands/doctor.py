"""`nightpress doctor`."""

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import asdict

import click

from nightpress.jobs.commands.common import address_option_of, json_option, read_job, set_option
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.times import Night, night_options
from nightpress.jobs.errors import BAD_INPUT, OK
from nightpress.jobs.runs.doctor import Diagnosis, doctor
from nightpress.jobs.runs.doctor_checks import State
from nightpress.pipelines.formatting import plural

COLOURS: dict[State, str] = {
    "ok": "green",
    "warning": "yellow",
    "fault": "red",
    "not checked": "bright_black",
}


@click.command("doctor")
@click.argument("job", type=click.Path(dir_okay=False), required=False)
@set_option
@address_option_of(
    "cluster.address of JOB, else RAY_ADDRESS, else none: only this machine is looked at"
)
@night_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    job: str | None,
    overrides: tuple[str, ...],
    address: str | None,
    night: Night,
    as_json: bool,
) -> None:
    """Look for what would make a nightly run fail, and say what to do about it.

    Looks at this machine, at each node of the Ray cluster if there is an address, and with JOB at
    the output, inputs and model of that job. Scratch objects in the output are deleted again;
    nothing else is written, and no model is downloaded. The exit code is 2 if there is a fault.
    """
    if job is None and overrides:
        raise click.UsageError("--set changes a job, but there is no JOB")
    spec = None if job is None else read_job(job, overrides, address, night)
    with redirect_stdout(sys.stderr):  # where Ray would print what its nodes do
        found = doctor(spec, address=address)
    code = OK if found.is_healthy else BAD_INPUT
    if not as_json:
        click.echo("\n".join(lines(found)))
    values = {"checks": [asdict(check) for check in found.checks], "num_faults": found.num_faults}
    print_and_exit(ctx, code, values, summary(found), as_json)


def lines(found: Diagnosis) -> Iterator[str]:
    """One line for each check, in columns."""
    names = max(len(check.name) for check in found.checks)
    places = max(len(check.where) for check in found.checks)
    for check in found.checks:
        state = click.style(f"{check.state:11}", fg=COLOURS[check.state])
        yield f"{state}  {check.name:{names}}  {check.where:{places}}  {check.text}"


def summary(found: Diagnosis) -> str:
    """The last line."""
    counts = {
        state: sum(check.state == state for check in found.checks) for state in ("fault", "warning")
    }
    parts = [plural(number, state) for state, number in counts.items() if number]
    skipped = sum(check.state == "not checked" for check in found.checks)
    return ", ".join(parts or ["no fault"]) + (f"; {skipped:,} not checked" if skipped else "")
