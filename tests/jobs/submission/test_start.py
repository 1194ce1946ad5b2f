"""What the cluster starts for a job: the command, without files for its workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

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
