"""nightpress in Dagster: one run a night, which submits the job and follows it to its end."""

import subprocess
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg

BERLIN = ZoneInfo("Europe/Berlin")
STOPPED, HELD = 4, 5

SUBMIT = ["nightpress", "submit", "/etc/nightpress/job.yaml", "--to", "http://head:8265"]
# It may start in these hours alone: no retry goes on into the day.
SUBMIT += ["--deadline", "22:00-06:30", "--tz", "Europe/Berlin"]


class Night(dg.Config):
    """The night to make."""

    date: str
    """As in 2027-01-15: the evening's date."""


@dg.op
def press(context: dg.OpExecutionContext, config: Night) -> None:
    """Submit the job; 4 is tried again, 5 is no failure, and 1, 2 and 3 fail for good."""
    process = subprocess.Popen([*SUBMIT, "--night", config.date])
    try:
        code = process.wait()
    except BaseException:  # Dagster interrupts a run that is terminated: stop the job cleanly
        process.terminate()
        process.wait()
        raise
    if code == STOPPED:
        raise dg.RetryRequested(max_retries=3, seconds_to_wait=300)
    if code == HELD:
        context.log.warning("another process makes this run")
    elif code:
        raise dg.Failure(f"nightpress ended with exit code {code}", allow_retries=False)


@dg.job
def nightpress() -> None:
    """The night."""
    press()


@dg.schedule(job=nightpress, cron_schedule="0 22 * * *", execution_timezone="Europe/Berlin")
def every_night(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """The tick decides the night, so a run that is launched again names the same one."""
    tick: datetime = context.scheduled_execution_time.astimezone(BERLIN)
    # A night begins at noon, so a tick at 02:00 would be of the evening before.
    night = (tick.replace(tzinfo=None) - timedelta(hours=12)).date().isoformat()
    return dg.RunRequest(run_key=night, run_config={"ops": {"press": {"config": {"date": night}}}})


defs = dg.Definitions(jobs=[nightpress], schedules=[every_night])
