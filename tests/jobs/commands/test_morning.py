"""The options of costs and logs, and `nightpress runs`, on the command line."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.made_runs import begin, finish

from nightpress.jobs.cli import command
from nightpress.jobs.commands import run as run_command
from nightpress.jobs.commands.log_format import threads_as_json
from nightpress.jobs.errors import StoppedOnRequest
from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.runner import RunResult
from nightpress.pipelines.job.cost_section import Cost
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.storage import Store

Options = dict[str, Any]


def nightpress(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "cats.yaml"
    path.write_text("manifest: cats.csv\noutput: press\n")
    return str(path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Options:
    """What `nightpress run` asked of `run`."""
    options: Options = {}

    def call(spec: RunSpec, show: Callable[[Any], None], **given: Any) -> RunResult:
        options.update(given)
        show(Message("a warning", warning=True))
        if given["budget"]:
            raise StoppedOnRequest("stopped: the budget is spent")
        return RunResult("press/x", 2, 1, 1, 2, 1.0, None, {}, None, Cost(12.4, "EUR", 6.2))

    monkeypatch.setattr(run_command, "run", call)
    return options


def test_the_budget_and_the_ok_codes_reach_the_run(job: str, asked: Options) -> None:
    ended = nightpress("run", job, "--budget", "40", "--ok-codes", "4,5")
    assert (asked["budget"], asked["ok_codes"], ended.exit_code) == (40.0, (4, 5), 0)
    assert "cost: 12.40 EUR, 6.20 EUR an image" in nightpress("run", job).stdout


@pytest.mark.parametrize("amount", ["nan", "inf", "0", "-3", "40 EUR", ""])
def test_a_budget_is_an_amount_above_zero(job: str, amount: str) -> None:
    ended = nightpress("run", job, "--budget", amount)
    assert ended.exit_code == 2
    assert "is not an amount above zero, such as 40 or 12.50" in ended.stderr


@pytest.mark.usefixtures("asked")
def test_every_line_on_stderr_is_json(job: str) -> None:
    ended = nightpress("run", job, "--log-format", "json", "--budget", "1", "--ok-codes", "4")
    warning, stopped, reported = json_lines(ended.stderr)
    assert (warning["level"], warning["message"]) == ("warning", "a warning")
    assert (stopped["message"], stopped["exit_code"]) == ("stopped: the budget is spent", 4)
    assert reported["message"] == "exit code 4, reported as 0: --ok-codes"


def test_wrong_usage_and_wrong_jobs_are_json_too(job: str) -> None:
    (wrong,) = json_lines(nightpress("run", job, "--log-format=json", "--budget", "x").stderr)
    assert (wrong["level"], wrong["exit_code"]) == ("error", 2)
    Path(job).write_text("manifest: m.csv\noutput: press\nseed: x\n")
    ended = nightpress("run", job, "--log-format", "json", "--json")
    (wrong,) = json_lines(ended.stderr)
    assert (wrong["type"], wrong["exit_code"], ended.exit_code) == ("SpecError", 2, 2)
    assert json.loads(ended.stdout)["error"]["type"] == "SpecError"


def test_an_unexpected_error_is_one_line_of_json() -> None:
    code = (
        "from nightpress.jobs.commands.log_format import everything_as_json; "
        "import logging; everything_as_json(); logging.getLogger('lib').error('odd'); 1 / 0"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False
    )
    logged, error = json_lines(ended.stderr)
    assert (logged["logger"], logged["message"]) == ("lib", "odd")
    assert error["message"] == "ZeroDivisionError: division by zero"
    assert "Traceback" in error["traceback"]


def test_an_error_that_ends_a_thread_is_one_line_of_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = threading.excepthook
    with threads_as_json():
        thread = threading.Thread(target=lambda: [][0])
        thread.start()
        thread.join()
    assert threading.excepthook is before
    (error,) = json_lines(capsys.readouterr().err)
    assert (error["level"], error["message"]) == ("error", "IndexError: list index out of range")
    assert "Traceback" in error["traceback"]


def test_runs_lists_a_folder_for_people_and_for_programs(tmp_path: Path) -> None:
    finish(begin(str(tmp_path), name="night-1"))
    begin(str(tmp_path), name="night-2")
    lines = nightpress("runs", str(tmp_path)).stdout.splitlines()
    assert lines[0].split()[:3] == ["run", "state", "code"]
    assert lines[1].split()[:5] == ["night-1", "finished", "3", "10", "1"]
    assert lines[2].split()[:5] == ["night-2", "unfinished", "0", "of", "10"]
    values = json.loads(nightpress("runs", str(tmp_path), "--json").stdout)
    assert [run["name"] for run in values["runs"]] == ["night-1", "night-2"]
    assert nightpress("runs", str(tmp_path / "night-1")).exit_code == 2


def test_a_folder_s_name_and_a_reason_do_not_steer_the_terminal(tmp_path: Path) -> None:
    finish(begin(str(tmp_path), name="cats"))
    (tmp_path / "cats").rename(tmp_path / "[red]cats:smile:")
    Store(str(tmp_path / "b\x1b[2J")).put("run.json", b"{")
    ended = nightpress("runs", str(tmp_path))
    assert "[red]cats:smile: " in ended.stdout
    assert "\x1b" not in ended.stdout


def test_status_says_that_the_log_cannot_be_read(tmp_path: Path) -> None:
    run = begin(str(tmp_path), name="cats")
    run.store.put("log", b"a file where the folder should be")
    ended = nightpress("status", run.url)
    assert ended.exit_code == 0
    assert "spent    unknown: the log cannot be read: " in ended.stdout
    assert "log" in json.loads(nightpress("status", run.url, "--json").stdout)["log_error"]
