"""Errors name what the user of a command can change: its own options, not keys of a job file."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from nightpress.jobs.cli import command

JOB = "manifest: prompts.txt\noutput: runs\n"


def error_of(*arguments: str | Path) -> str:
    result = CliRunner().invoke(command, [str(each) for each in arguments])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        (["x"], "--storage x: must be PROTOCOL.OPTION=VALUE, such as s3.endpoint_url=http://127"),
        (["s3..a=1"], "--storage s3..a=1: must be PROTOCOL.OPTION=VALUE"),
        (["s3.a=1", "s3.a=2"], "--storage s3.a=2: s3.a is already set by --storage s3.a=1"),
        (["s3.a=[1"], "--storage s3.a=[1: "),
        (["s3=1"], "--storage: storage.s3: 1: must be a mapping"),
    ],
)
@pytest.mark.parametrize("target", ["job.yaml", "a-run"])
def test_a_wrong_storage_option_is_named_as_it_was_given(
    tmp_path: Path, target: str, storage: list[str], said: str
) -> None:
    (tmp_path / "job.yaml").write_text(JOB)
    line = error_of("status", tmp_path / target, *(f"--storage={each}" for each in storage))
    assert "--set" not in line
    if storage != ["s3=1"] or target == "a-run":
        assert said in line


@pytest.mark.parametrize(
    "arguments", [("convert", "FILE", "made"), ("steps", "a cat", "--model", "FILE")]
)
def test_a_pickle_is_refused_with_the_option_that_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "x.ckpt"
    file.write_bytes(b"not a pickle")
    given = [file if each == "FILE" else each for each in arguments]
    refused = error_of(*given)
    assert "loading a pickle runs code; give --allow-pickle if you trust it" in refused
    allowed = error_of(*given, "--allow-pickle")  # it is read now, and is none
    assert "runs code" not in allowed
    assert str(file) in allowed


def help_of(name: str) -> str:
    result = CliRunner().invoke(command, [name, "--help"], terminal_width=10_000)
    assert result.exit_code == 0
    return " ".join(result.output.split())


def test_help_says_which_cluster_is_joined_without_an_address() -> None:
    local = "[default: cluster.address of the job file, else RAY_ADDRESS, else a local Ray"
    for name in ("run", "preview", "retry", "train", "score"):
        assert local in help_of(name), name
    assert "else none: only this machine is looked at]" in help_of("doctor")
    assert "[default: cluster.address of FILE, else RAY_ADDRESS" in help_of("export")


def test_help_says_what_extend_does_in_each_command() -> None:
    assert "--extend Add the images that the manifest has gained" in help_of("run")
    assert "--extend Show what `nightpress run --extend` would make" in help_of("plan")
    assert "--extend Schedule `nightpress run --extend`" in help_of("schedule")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("export", "--set KEY=VALUE Override a key of FILE"),
        ("run", "before the run costs more than this"),
        ("submit", "As for `run`, by the clock of --tz."),
        ("review", "Name under which the marks that are made on the page are stored."),
        ("gates", "make draws of an image, each with another seed"),
        ("expand", "what was drawn, that is chosen at random"),
        ("doctor", "Look for what would make a nightly run fail"),
    ],
)
def test_help_defines_its_words(name: str, said: str) -> None:
    assert said in help_of(name)


def test_the_list_of_commands_says_what_is_trained_and_left_out() -> None:
    listed = CliRunner().invoke(command, ["--help"], terminal_width=10_000).output
    assert "a denoiser, a LoRA or a ControlNet" in listed
    assert "for clients, without prompts, models and settings" in listed
