"""`--json`: one JSON object on stdout, whatever the exit code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nightpress.diffusion_core.errors import ModelNotFound
from nightpress.jobs import cli
from nightpress.jobs.cli import command
from nightpress.jobs.commands import run as run_command
from nightpress.jobs.commands import status as status_command
from nightpress.jobs.commands.json_output import print_result
from nightpress.jobs.errors import ClusterUnavailable, RunStopped, StoppedOnRequest
from nightpress.pipelines.errors import Change, ChangedRunError, ManifestError, Problem, RunHeld


def printed(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the object on stdout, and stderr."""
    result = CliRunner().invoke(command, [*arguments, "--json"])
    return result.exit_code, json.loads(result.stdout), result.stderr


@pytest.fixture
def job(tmp_path: Path) -> str:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    job = tmp_path / "job.yaml"
    job.write_text(f"manifest: {tmp_path}/prompts.txt\noutput: {tmp_path}/runs\n")
    return str(job)


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `nightpress run` and `status` end with an error."""

    def raise_it(error: BaseException) -> None:
        def call(*args: Any, **options: Any) -> None:
            raise error

        monkeypatch.setattr(run_command, "run", call)
        monkeypatch.setattr(status_command, "status", call)

    return raise_it


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelNotFound("no model"), 2),
        (RunStopped("the store keeps failing"), 4),
        (StoppedOnRequest("stopped as asked"), 4),
        (ClusterUnavailable("no answer; try again"), 4),
        (RunHeld("held by another process"), 5),
    ],
)
def test_an_error_is_printed_with_its_type_its_message_and_the_exit_code(
    job: str, raising: Callable[[BaseException], None], error: Exception, code: int
) -> None:
    raising(error)
    exit_code, values, said = printed("run", job)
    assert exit_code == code
    assert values == {
        "exit_code": code,
        "error": {"type": type(error).__name__, "message": str(error)},
    }
    assert said.splitlines()[-1].removeprefix("error: ") == str(error)


def test_the_problems_of_a_manifest_are_listed_with_their_places(
    job: str, raising: Callable[[BaseException], None]
) -> None:
    problem = Problem("prompts.csv", 3, "width", "500 is not a multiple of 8")
    raising(ManifestError([problem], total=7))
    code, values, _ = printed("run", job)
    (found,) = values["error"]["problems"]
    assert (code, values["error"]["num_problems"]) == (2, 7)
    assert (found["file"], found["row"], found["column"]) == ("prompts.csv", 3, "width")
    assert found["message"] == "500 is not a multiple of 8"


def test_the_changes_of_a_job_are_listed_even_if_json_has_no_such_value(
    job: str, raising: Callable[[BaseException], None]
) -> None:
    changes = [Change("seed", 1, 2), Change("output", Path("a"), float("nan"))]
    raising(ChangedRunError("runs/night", changes))
    code, values, _ = printed("run", job)
    assert (code, values["error"]["run"]) == (2, "runs/night")
    assert values["error"]["changes"] == [
        {"field": "seed", "old": 1, "new": 2},
        {"field": "output", "old": "a", "new": None},
    ]


def test_an_unexpected_error_is_printed_too_and_stays_a_traceback(
    job: str, raising: Callable[[BaseException], None]
) -> None:
    raising(RuntimeError("a bug"))
    result = CliRunner().invoke(command, ["run", job, "--json"])
    assert isinstance(result.exception, RuntimeError)
    assert json.loads(result.stdout) == {
        "exit_code": 1,
        "error": {"type": "RuntimeError", "message": "a bug"},
    }


@pytest.mark.parametrize("name", sorted(set(cli.COMMANDS) - {"init", "schema", "preview"}))
@pytest.mark.parametrize("wrong", [["--no-such-option"], ["a", "b", "c"]])
def test_a_wrong_command_line_is_printed_for_every_command(name: str, wrong: list[str]) -> None:
    code, values, said = printed(name, *wrong)
    assert code == values["exit_code"] == 2
    assert values["error"]["message"] in said


def test_a_wrong_job_file_is_printed(tmp_path: Path) -> None:
    for name in ("run", "plan", "train", "tune", "status", "verify", "retry"):
        code, values, _ = printed(name, str(tmp_path / "nowhere.yaml"))
        assert code == values["exit_code"] == 2, name
        assert "nowhere.yaml" in values["error"]["message"]


def test_without_the_option_nothing_is_printed_on_stdout(job: str) -> None:
    for arguments in (["run", job, "--set", "nonsense=1"], ["run", "--nonsense"]):
        result = CliRunner().invoke(command, arguments)
        assert (result.exit_code, result.stdout) == (2, "")


def test_a_prompt_that_reads_like_the_option_is_none() -> None:
    assert cli.asks_for_json(["steps", "--json", "--", "a cat"])
    assert not cli.asks_for_json(["steps", "--", "--json"])


@pytest.mark.parametrize(
    ("name", "words"),
    [("run", "stopped; committed work is kept"), ("status", "stopped; nothing was changed")],
)
def test_ctrl_c_says_what_is_left_of_this_very_command(
    job: str, raising: Callable[[BaseException], None], name: str, words: str
) -> None:
    raising(KeyboardInterrupt())
    code, values, said = printed(name, job)
    assert code == values["exit_code"] == 4
    assert words in said
    assert words in values["error"]["message"]
    assert "error:" not in said


def test_a_stop_that_was_asked_for_is_no_error(
    job: str, raising: Callable[[BaseException], None]
) -> None:
    raising(StoppedOnRequest("stopped as asked; run the same command again to resume"))
    _, _, said = printed("run", job)
    assert said.splitlines()[-1].startswith("stopped as asked")


def test_a_result_has_the_exit_code_and_no_numbers_that_json_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_result({"psnr": float("inf"), "trials": [{"loss": float("nan")}, 1.5]}, 3)
    values = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert values == {"psnr": None, "trials": [{"loss": None}, 1.5], "exit_code": 3, "error": None}
