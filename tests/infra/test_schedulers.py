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

EXPECTED = {
    0: ("done", 1),
    1: ("failed", 1),
    2: ("failed", 1),
    3: ("failed", 1),
    4: ("failed", fakes.TRIES),
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
    f" --deadline 22:00-06:30 --tz Europe/Berlin --night {NIGHT}"
)


def submitted(log: Path) -> set[str]:
    """The different command lines that were run."""
    return set(log.read_text().splitlines())


def test_airflow(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.load(SCHEDULERS / "airflow_dag.py", monkeypatch, *fakes.airflow())
    (task,) = fakes.BashOperator.made
    command, night = task.bash_command.split("{{")
    assert "logical_date.in_timezone('Europe/Berlin')" in night
    task.bash_command = command + NIGHT
    assert outcomes(log, lambda: task.execute({})) == EXPECTED | {5: ("skipped", 1)}  # type: ignore[attr-defined]
    assert submitted(log) == {SUBMITTED}


def test_dagster(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = fakes.load(SCHEDULERS / "dagster_job.py", monkeypatch, *fakes.dagster())
    request = loaded.every_night(SimpleNamespace(scheduled_execution_time=TICK))
    config = request.run_config["ops"]["press"]["config"]
    assert (request.run_key, config) == (NIGHT, {"date": NIGHT})
    context = SimpleNamespace(log=SimpleNamespace(warning=lambda _text: None))
    once = lambda: loaded.press(context, SimpleNamespace(**config))  # noqa: E731
    assert outcomes(log, once) == EXPECTED
    assert submitted(log) == {SUBMITTED}


def test_prefect(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = fakes.load(SCHEDULERS / "prefect_flow.py", monkeypatch, *fakes.prefect(TICK))
    assert outcomes(log, loaded.nightpress) == EXPECTED
    assert submitted(log) == {SUBMITTED}


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((SCHEDULERS / name).read_text(encoding="utf-8"))
    return found


def test_argo_tries_again_after_4_alone() -> None:
    spec = read("argo.yaml")["spec"]
    (template,) = spec["workflowSpec"]["templates"]
    assert template["retryStrategy"]["expression"] == 'lastRetry.exitCode == "4"'
    assert (spec["concurrencyPolicy"], spec["timezone"]) == ("Forbid", "Europe/Berlin")
    assert template["metadata"]["labels"] == {"app.kubernetes.io/component": "submit"}


def test_skypilot_starts_again_after_4_alone() -> None:
    recovery = read("skypilot.yaml")["resources"]["job_recovery"]
    assert recovery == {"max_restarts_on_errors": 0, "recover_on_exit_codes": [4]}
