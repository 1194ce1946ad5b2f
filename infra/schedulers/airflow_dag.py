"""nightpress in Airflow (3.2 or later): a task a night, which submits the job and follows it.

Needs nightpress where Airflow's workers run, and the Ray cluster's token in their RAY_AUTH_TOKEN
(with RAY_AUTH_MODE=token). Airflow kills a task five seconds after it asked it to stop, which no
setting changes. That is enough: `nightpress submit` first of all asks the cluster to stop the job,
which then stores its batches there, followed or not.
"""

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.timetables.trigger import CronTriggerTimetable

BERLIN = ZoneInfo("Europe/Berlin")
STOPPED, HELD = 4, 5


def night_of(context: Any) -> str:
    """The night of the tick, or of a start by hand; a night begins at noon."""
    run = context["dag_run"]
    tick = (run.logical_date or run.run_after).astimezone(BERLIN)
    return str((tick.replace(tzinfo=None) - timedelta(hours=12)).date())


class Nightpress(BashOperator):
    """A nightpress command for a night; its exit code decides what becomes of the task."""

    def execute(self, context: Any) -> None:
        """Run it: 4 is tried again, 5 skips the task, and 1, 2 and 3 fail for good."""
        command = f"{self.bash_command} --night {night_of(context)}"
        result = self.subprocess_hook.run_command(
            ["bash", "-c", command], env=self.get_env(context)
        )
        match result.exit_code:
            case 0:
                return
            case code if code == STOPPED:
                raise AirflowException("stopped early: the same command continues")
            case code if code == HELD:
                raise AirflowSkipException("another process makes this run")
            case code:
                raise AirflowFailException(f"nightpress ended with exit code {code}")


with DAG(
    "nightpress",
    schedule=CronTriggerTimetable("0 22 * * *", timezone="Europe/Berlin"),
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
):
    Nightpress(
        task_id="press",
        # It may start in the hours of --deadline alone: no retry goes on into the day.
        bash_command=(
            "exec nightpress submit /etc/nightpress/job.yaml --to http://head:8265"
            " --deadline 22:00-06:30 --tz Europe/Berlin"
        ),
        append_env=True,
        retries=3,
        retry_delay=timedelta(minutes=5),
        execution_timeout=timedelta(hours=10, minutes=30),  # of one that hangs
    )
