"""What the cluster starts for a job: the command, without files for its workers."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from nightpress.jobs.commands import exit_codes
from nightpress.jobs.submission import start
from nightpress.jobs.submission.start import JOB_CONFIG, without_files


def test_workers_get_no_working_folder_and_all_else_of_the_environment() -> None:
    env = {"py_modules": ["gcs://a.zip"], "env_vars": {"A": "1"}}
    given = {"runtime_env": env | {"working_dir": "gcs://b.zip"}, "metadata": {"job_name": "x"}}
    assert json.loads(without_files(json.dumps(given))) == given | {"runtime_env": env}
    assert json.loads(without_files("{}")) == {}


def test_the_variable_has_the_name_that_ray_gives_it() -> None:
    assert JOB_CONFIG == RAY_JOB_CONFIG_JSON_ENV_VAR


def test_it_becomes_nightpress_run_with_its_exit_code(tmp_path: Path) -> None:
    environment = os.environ | {JOB_CONFIG: json.dumps({"runtime_env": {}})}
    command = [sys.executable, "-m", "nightpress.jobs.submission.start", "none.yaml"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "none.yaml" in done.stderr


def test_a_deadline_that_came_while_the_job_waited_is_4_and_no_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deadline = "2026-11-28T05:30:00+00:00"
    monkeypatch.setattr(sys, "argv", ["start", "job.yaml", "--deadline", deadline])
    with pytest.raises(SystemExit) as ended:
        start.main()
    assert ended.value.code == exit_codes.STOPPED
    assert f"the deadline {deadline} came before the cluster could start" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--budget", "40"], ["--deadline", "2099-01-01T00:00Z"]])
def test_other_jobs_are_started(options: list[str]) -> None:
    assert start.missed_deadline(["job.yaml", *options], datetime.now(UTC)) is None
