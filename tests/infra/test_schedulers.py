"""The files for other schedulers use the exit codes rightly: 4 again, 5 no failure, others fail."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from support.fakes import schedulers as fakes
from support.infra_checks import INFRA

SCHEDULERS = INFRA / "schedulers"

NIGHT = "2026-10-24"
TICK = datetime(2026, 10, 24, 20, 0, tzinfo=UTC)
"""22:00 in Berlin, on the evening before its clocks go back."""

AFTER_MIDNIGHT = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
"""02:30 of that night in Berlin, for the second time."""

BY_DAY = datetime(2026, 10, 25, 11, 30, tzinfo=UTC)
"""12:30 in Berlin, when the next night has begun."""

EVENING = ("0 22 * * *", "Europe/Berlin")

nights = pytest.mark.parametrize(
    ("tick", "night"), [(TICK, NIGHT), (AFTER_MIDNIGHT, NIGHT), (BY_DAY, "2026-10-25")]
)
"""A night begins at noon, as {night} of a job does."""

EXPECTED = {
    0: ("done", 1),
    1: ("failed", 1),
    2: ("failed", 1),
    3: ("failed", 1),
    4: ("failed", 4),
    5: ("done", 1),
}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A nightpress on the path that writes its arguments here, and ends with the code in `code`."""
    program = tmp_path / "bin" / "nightpress"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\nexit $(cat {tmp_path}/code)\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return tmp_path / "log"


def outcomes(log: Path, once: Callable[[], object]) -> dict[int, tuple[str, int]]:
    """What becomes of a task by exit code."""
    found = {}
    for code in range(6):
        (log.parent / "code").write_text(str(code))
        found[code] = fakes.outcome(once)
    return found


SUBMITTED = (
    "submit /etc/nightpress/job.yaml --to http://head:8265"
    " --deadline 22:00-06:30 --tz Europe/Berlin --night "
)


def submitted(log: Path) -> set[str]:
    """The different command lines that were run."""
    return set(log.read_text().splitlines())


def dag_run(logical_date: datetime | None, run_after: datetime) -> dict[str, Any]:
    """What Airflow tells a task about its run."""
    return {"dag_run": SimpleNamespace(logical_date=logical_date, run_after=run_after)}


def succeeding(log: Path) -> None:
    """Let nightpress end with 0."""
    (log.parent / "code").write_text("0")


def test_airflow(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.load(SCHEDULERS / "airflow_dag.py", monkeypatch, *fakes.airflow())
    (task,) = fakes.BashOperator.made
    assert "{{" not in task.bash_command
    context = dag_run(TICK, TICK)
    assert outcomes(log, lambda: task.once(context)) == EXPECTED | {5: ("skipped", 1)}
    assert submitted(log) == {SUBMITTED + NIGHT}


@nights
def test_airflow_s_night(
    log: Path, monkeypatch: pytest.MonkeyPatch, tick: datetime, night: str
) -> None:
    """A run that somebody starts may have no logical date."""
    loaded = fakes.load(SCHEDULERS / "airflow_dag.py", monkeypatch, *fakes.airflow())
    (task,) = fakes.BashOperator.made
    succeeding(log)
    for context in (dag_run(tick, BY_DAY), dag_run(None, tick)):
        task.once(context)
    assert submitted(log) == {SUBMITTED + night}
    assert loaded.DAG.made[-1].options["schedule"] == EVENING


def test_dagster(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = fakes.load(SCHEDULERS / "dagster_job.py", monkeypatch, *fakes.dagster())
    request = loaded.every_night(SimpleNamespace(scheduled_execution_time=TICK))
    config = request.run_config["ops"]["press"]["config"]
    assert (request.run_key, config) == (NIGHT, {"date": NIGHT})
    context = SimpleNamespace(log=SimpleNamespace(warning=lambda _text: None))
    once = lambda: loaded.press(context, SimpleNamespace(**config))  # noqa: E731
    assert outcomes(log, once) == EXPECTED
    assert submitted(log) == {SUBMITTED + NIGHT}
    (schedule,) = loaded.defs.schedules
    assert (schedule.cron_schedule, schedule.execution_timezone) == EVENING


@nights
def test_dagster_s_night(monkeypatch: pytest.MonkeyPatch, tick: datetime, night: str) -> None:
    loaded = fakes.load(SCHEDULERS / "dagster_job.py", monkeypatch, *fakes.dagster())
    request = loaded.every_night(SimpleNamespace(scheduled_execution_time=tick))
    assert request.run_key == night


def test_prefect(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = fakes.load(SCHEDULERS / "prefect_flow.py", monkeypatch, *fakes.prefect(TICK))
    assert outcomes(log, loaded.nightpress) == EXPECTED
    assert submitted(log) == {SUBMITTED + NIGHT}
    served = (SCHEDULERS / "prefect_flow.py").read_text(encoding="utf-8")
    assert f'schedule=Cron("{EVENING[0]}", timezone="{EVENING[1]}")' in served


@nights
def test_prefect_s_night(
    log: Path, monkeypatch: pytest.MonkeyPatch, tick: datetime, night: str
) -> None:
    loaded = fakes.load(SCHEDULERS / "prefect_flow.py", monkeypatch, *fakes.prefect(tick))
    succeeding(log)
    loaded.nightpress()
    assert submitted(log) == {SUBMITTED + night}


def read(name: str) -> dict[str, Any]:
    text = (SCHEDULERS / name).read_text(encoding="utf-8")
    found: dict[str, Any] = next(yaml.safe_load_all(text))
    return found


def test_argo_tries_again_after_4_and_an_eviction_alone() -> None:
    spec = read("argo.yaml")["spec"]
    (template,) = spec["workflowSpec"]["templates"]
    retries = template["retryStrategy"]
    assert retries["expression"] == 'lastRetry.exitCode == "4" || lastRetry.status == "Error"'
    assert (retries["limit"], retries["retryPolicy"]) == (3, "Always")
    assert (spec["concurrencyPolicy"], spec["timezone"]) == ("Forbid", "Europe/Berlin")
    assert template["metadata"]["labels"] == {"app.kubernetes.io/component": "submit"}


def test_skypilot_starts_again_after_4_alone() -> None:
    recovery = read("skypilot.yaml")["resources"]["job_recovery"]
    assert recovery == {"max_restarts_on_errors": 0, "recover_on_exit_codes": [4]}
