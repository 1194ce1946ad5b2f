"""Airflow, Dagster and Prefect as far as the files in `infra/schedulers` use them.

They know no schedule: each runs a task once, tries it again while its file says so, and tells what
became of it.
"""

import itertools
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Retry(Exception):
    """A failure after which the task is tried again, as often as its file says."""

    retries = 0


class Failed(Exception):
    """A failure for good."""


class Skipped(Exception):
    """The task is skipped."""


def module(name: str, **names: Any) -> ModuleType:
    """A module that holds some names."""
    made = ModuleType(name)
    vars(made).update(names)
    return made


def load(path: Path, patch: pytest.MonkeyPatch, *fakes: ModuleType) -> ModuleType:
    """Run a file that imports a scheduler, with fakes in its place."""
    for fake in fakes:
        patch.setitem(sys.modules, fake.__name__, fake)
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def outcome(once: Callable[[], object]) -> tuple[str, int]:
    """(what becomes of a task, how often it was started)."""
    for started in itertools.count(1):
        try:
            once()
        except Retry as retry:
            if started > retry.retries:
                return "failed", started
            continue
        except Skipped:
            return "skipped", started
        except Failed:
            return "failed", started
        return "done", started
    raise AssertionError("not reached")


def retry(retries: int, text: str = "") -> Retry:
    """A failure after which a task is tried again so often."""
    made = Retry(text)
    made.retries = retries
    return made


class BashOperator:
    """Airflow's."""

    made: "list[BashOperator]"

    def __init__(self, bash_command: str, **options: Any) -> None:
        self.bash_command = bash_command
        self.options = options
        self.subprocess_hook = SimpleNamespace(run_command=_run)
        BashOperator.made.append(self)

    def once(self, context: Any) -> None:
        """Run it as Airflow does."""
        try:
            self.execute(context)  # type: ignore[attr-defined]
        except Retry as error:
            raise retry(self.options["retries"], str(error)) from error

    def get_env(self, _context: Any) -> None:
        """The environment of the command: that of this process."""


def _run(command: list[str], env: None) -> SimpleNamespace:
    return SimpleNamespace(exit_code=subprocess.run(command, env=env, check=False).returncode)


class Dag:
    """Airflow's."""

    made: "list[Dag]"

    def __init__(self, name: str, **options: Any) -> None:
        self.name, self.options = name, options
        Dag.made.append(self)

    def __enter__(self) -> "Dag":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


def airflow() -> list[ModuleType]:
    """The modules of Airflow."""
    BashOperator.made, Dag.made = [], []
    errors = {
        "AirflowException": Retry,
        "AirflowFailException": Failed,
        "AirflowSkipException": Skipped,
    }
    return [
        module("airflow"),
        module("airflow.sdk", DAG=Dag),
        module("airflow.sdk.exceptions", **errors),
        module("airflow.timetables"),
        module(
            "airflow.timetables.trigger",
            CronTriggerTimetable=lambda cron, timezone: (cron, timezone),
        ),
        module("airflow.providers"),
        module("airflow.providers.standard"),
        module("airflow.providers.standard.operators"),
        module("airflow.providers.standard.operators.bash", BashOperator=BashOperator),
    ]


def _plain(function: Any = None, **_options: Any) -> Any:
    """A decorator that leaves a function as it is, used with or without options."""
    return function if function is not None else lambda decorated: decorated


def _schedule(**options: Any) -> Any:
    """Dagster's decorator, which leaves its options at the function."""

    def decorate(function: Any) -> Any:
        vars(function).update(options)
        return function

    return decorate


def dagster() -> list[ModuleType]:
    """The modules of Dagster."""
    names: dict[str, Any] = {"op": _plain, "schedule": _schedule}
    names |= dict.fromkeys(("OpExecutionContext", "ScheduleEvaluationContext"), object)
    names |= {
        "job": lambda _function: "job",
        "Config": SimpleNamespace,
        "RunRequest": SimpleNamespace,
        "Definitions": SimpleNamespace,
        "RetryRequested": lambda max_retries, seconds_to_wait: retry(max_retries),
        "Failure": lambda text, allow_retries: retry(1, text) if allow_retries else Failed(text),
    }
    return [module("dagster", **names)]


def prefect(scheduled: Any) -> list[ModuleType]:
    """The modules of Prefect.

    Args:
        scheduled: the time of the tick.
    """
    names = {
        "flow": _plain,
        "task": _prefect_task,
        "runtime": SimpleNamespace(flow_run=SimpleNamespace(scheduled_start_time=scheduled)),
    }
    states = {"Completed": SimpleNamespace, "State": list}
    return [
        module("prefect", **names),
        module("prefect.schedules", Cron=lambda cron, timezone: (cron, timezone)),
        module("prefect.states", **states),
    ]


def _prefect_task(retry_condition_fn: Any, retries: int, **_options: Any) -> Any:
    def decorate(function: Any) -> Any:
        def once(night: str) -> Any:
            try:
                return function(night)
            except Exception as error:  # Prefect gives any to the condition
                state = SimpleNamespace(result=lambda raise_on_failure, found=error: found)
                is_tried_again = retry_condition_fn(None, None, state)
                raise (retry(retries) if is_tried_again else Failed(str(error))) from error

        return once

    return decorate
