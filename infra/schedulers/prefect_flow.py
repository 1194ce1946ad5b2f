"""nightpress in Prefect: a flow a night, which submits the job and follows it to its end.

`python infra/schedulers/prefect_flow.py` serves it with its schedule.
"""

import subprocess
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from prefect import flow, runtime, task
from prefect.schedules import Cron
from prefect.states import Completed, State

STOPPED, HELD = 4, 5

SUBMIT = ["nightpress", "submit", "/etc/nightpress/job.yaml", "--to", "http://head:8265"]
# It may start in these hours alone: no retry goes on into the day.
SUBMIT += ["--deadline", "22:00-06:30", "--tz", "Europe/Berlin"]


class StoppedEarly(Exception):
    """The same command continues."""


def may_continue(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a failed attempt stopped early; other failures would be the same again."""
    return isinstance(state.result(raise_on_failure=False), StoppedEarly)


@task(retries=3, retry_delay_seconds=300, retry_condition_fn=may_continue)
def press(night: str) -> State[Any] | None:
    """Submit the job; 4 is tried again, 5 is no failure, and 1, 2 and 3 fail for good."""
    process = subprocess.Popen([*SUBMIT, "--night", night])
    try:
        code = process.wait()
    except BaseException:  # a flow run that is cancelled: stop the job cleanly
        process.terminate()
        process.wait()
        raise
    if code == STOPPED:
        raise StoppedEarly("stopped early")
    if code == HELD:
        return Completed(message="another process makes this run")
    if code:
        raise RuntimeError(f"nightpress ended with exit code {code}")
    return None


@flow(name="nightpress", timeout_seconds=37800)  # of one that hangs
def nightpress() -> None:
    """The night of the tick, which a retry after midnight keeps. A night begins at noon."""
    tick = runtime.flow_run.scheduled_start_time.astimezone(ZoneInfo("Europe/Berlin"))
    press((tick.replace(tzinfo=None) - timedelta(hours=12)).date().isoformat())


if __name__ == "__main__":
    nightpress.serve(schedule=Cron("0 22 * * *", timezone="Europe/Berlin"))
