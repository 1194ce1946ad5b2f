"""Which command lines are taken for those of a finished run, before anything is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nightpress.jobs.commands.finished_job import seems_finished


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job whose run, in two shards, has all its files."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "press" / "night"
    (folder / "metadata").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"plan": {"num_shards": 2}}))
    for number in range(2):
        (folder / "metadata" / f"shard-0000{number}.parquet").touch()
    (folder / "report.html").touch()
    (tmp_path / "night.yaml").write_text("manifest: prompts.txt\noutput: press\n")
    return folder


def test_the_run_of_a_job_is_found_by_its_name_and_output_and_what_overrides_them(
    job: Path, tmp_path: Path
) -> None:
    assert seems_finished(["run", "night.yaml"])
    assert seems_finished(["run", "--budget", "4", "night.yaml", "--set", "output=press"])
    assert not seems_finished(["run", "night.yaml", "--set", "output=other"])
    assert not seems_finished(["run", "night.yaml", "--set=name=other"])
    (tmp_path / "other.yaml").write_text("name: night\noutput: press\n")
    assert seems_finished(["run", "other.yaml"])


@pytest.mark.parametrize("missing", ["run.json", "metadata/shard-00001.parquet", "report.html"])
def test_a_run_that_lacks_something_is_not_taken_for_finished(job: Path, missing: str) -> None:
    (job / missing).unlink()
    assert not seems_finished(["run", "night.yaml"])


@pytest.mark.parametrize("text", ["- a list", "{", "\0", "output: s3://press\n", "name: x\n", ""])
def test_any_other_job_is_not_taken_for_finished(job: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "night.yaml").write_text(text)
    assert not seems_finished(["run", "night.yaml"])
    assert not seems_finished(["run", "none.yaml"])
    assert not seems_finished(["run"])


def test_a_record_that_is_damaged_is_not_taken_for_finished(job: Path) -> None:
    for text in ("", "[]", '{"plan": 1}', '{"plan": {}}'):
        (job / "run.json").write_text(text)
        assert not seems_finished(["run", "night.yaml"])


def test_no_process_is_begun_for_a_run_that_seems_finished(job: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from nightpress.jobs import cli\n"
        "cli.worker_template.begin = lambda: print('begun', file=sys.stderr)\n"
        "cli.command = lambda: sys.exit(0)\n"
        "sys.argv = ['nightpress', 'run', 'night.yaml']\n"
        "cli.main()\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}

    def said() -> str:
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stderr

    assert said() == ""
    (job / "report.html").unlink()
    assert said() == "begun\n"
