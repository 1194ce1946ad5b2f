"""nightpress in Airflow: one task a night, which submits the job and follows it to its end.

Needs nightpress where Airflow's workers run, and the Ray cluster's token in their RAY_AUTH_TOKEN
(with RAY_AUTH_MODE=token). Set `killed_task_cleanup_time` above drain_s + 120 s: what `submit` may
need to stop the job cleanly after Airflow's SIGTERM.
"""

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.timetables.trigger import CronTriggerTimetable

STOPPED, HELD = 4, 5


class Nightpress(BashOperator):
    """A nightpress command; its exit code decides what becomes of the task."""

    def execute(self, context: Any) -> None:
        """Run it: 4 is tried again, 5 skips the task, and 1, 2 and 3 fail for good."""
        result = self.subprocess_hook.run_command(
            ["bash", "-c", self.bash_command], env=self.get_env(context)
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
        # The night is that of the tick, so a task that is cleared later makes the same run. It may
        # start in the hours of --deadline alone: no retry goes on into the day.
        bash_command=(
            "exec nightpress submit /etc/nightpress/job.yaml --to http://head:8265"
            " --deadline 22:00-06:30 --tz Europe/Berlin"
            " --night {{ logical_date.in_timezone('Europe/Berlin').to_date_string() }}"
        ),
        append_env=True,
        retries=3,
        retry_delay=timedelta(minutes=5),
        execution_timeout=timedelta(hours=10, minutes=30),  # of one that hangs
    )
