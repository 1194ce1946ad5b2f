"""--night, --tz and --ok-codes: what a scheduler gives, and which run and exit code it gets."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from support.made_runs import begin

from nightpress.diffusion_core.errors import ModelNotFound
from nightpress.jobs import cli
from nightpress.jobs.cli import command
from nightpress.jobs.commands import run as run_command
from nightpress.jobs.commands import times
from nightpress.jobs.errors import ClusterUnavailable, RunStopped
from nightpress.jobs.runs.runner import RunResult
from nightpress.pipelines.errors import RunHeld
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.run_directory.lease import acquire
from nightpress.pipelines.storage import Store

NIGHT = "2026-11-28"
Given = Callable[..., RunSpec]
End = Callable[[BaseException | None], None]

TAKE_A_JOB = ("run", "plan", "preview", "tune", "status", "retry", "verify")


def nightpress(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def one_error(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


@pytest.fixture(autouse=True)
def libraries_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking through all packages for what shadows them takes longer than these commands."""
    monkeypatch.setattr(cli, "require_libraries", lambda: None)


@pytest.fixture
def job(tmp_path: Path) -> str:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    job = tmp_path / "job.yaml"
    job.write_text(
        f'name: "{{night}}"\nmanifest: {tmp_path}/prompts.txt\noutput: {tmp_path}/press\n'
    )
    return str(job)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    """The job that `nightpress run` would start with these options."""

    def started(*arguments: str) -> RunSpec:
        specs: list[RunSpec] = []

        def call(spec: RunSpec, *args: Any, **options: Any) -> None:
            specs.append(spec)
            raise RunHeld("held")

        monkeypatch.setattr(run_command, "run", call)
        result = nightpress("run", *arguments)
        assert result.exit_code == 5, result.output
        return specs[0]

    return started


@pytest.mark.parametrize("name", [*TAKE_A_JOB, "submit", "doctor"])
def test_every_command_that_takes_a_job_takes_a_night(name: str) -> None:
    found = cli.command.get_command(click.Context(cli.command), name)
    assert found is not None
    assert {"--night", "--tz"} <= {option for each in found.params for option in each.opts}


def test_a_night_is_taken_from_the_command_line_or_from_the_clock(job: str, given: Given) -> None:
    assert given(job, "--night", NIGHT).name == NIGHT
    far_east, far_west = (
        given(job, "--tz", zone).name for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago")
    )
    assert far_west < far_east  # 25 hours apart


def test_an_overlapping_tick_of_the_same_night_ends_with_5(job: str, tmp_path: Path) -> None:
    lease = acquire(Store(f"{tmp_path}/press/{NIGHT}"), heartbeat_s=0.2)
    try:
        result = nightpress("run", job, "--night", NIGHT)
    finally:
        lease.release()
    assert result.exit_code == 5, result.output
    assert "process" in result.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_each_night_is_a_run_of_its_own_and_the_same_night_is_the_same_run(
    tmp_path: Path, make_spec: Callable[..., RunSpec]
) -> None:
    manifest = tmp_path / "2026-11-28.txt"
    manifest.write_text("a cat\na dog\n")
    (tmp_path / "2026-11-29.txt").write_text("a bird\n")
    values = make_spec(output=f"{tmp_path}/press").as_dict()
    values |= {"name": "cats-{night}", "manifest": f"{tmp_path}/{{night}}.txt"}
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(values))
    made = [
        json.loads(nightpress("run", str(job), "--night", night, "--json").stdout)
        for night in ("2026-11-28", "2026-11-29", "2026-11-28")
    ]
    assert [each["num_made"] for each in made] == [2, 1, 0]
    assert made[0]["url"] == made[2]["url"] == f"{tmp_path}/press/cats-2026-11-28"
    spec = json.loads(Path(made[1]["url"], "run.json").read_text())["spec"]
    assert (spec["name"], spec["manifest"]) == ("cats-2026-11-29", f"{tmp_path}/2026-11-29.txt")


def test_status_and_retry_of_a_job_find_the_run_of_a_night(job: str, tmp_path: Path) -> None:
    run = begin(f"{tmp_path}/press", name=NIGHT)
    found = nightpress("status", job, "--night", NIGHT)
    assert found.exit_code == 0, found.output
    assert run.url in found.stdout
    missing = nightpress("status", job, "--night", "2026-11-29")
    assert "press/2026-11-29: no run here" in one_error(missing)
    assert "press/2026-11-29: no run here" in one_error(
        nightpress("retry", job, "--night", "2026-11-29")
    )


@pytest.mark.parametrize(
    "text", ["28.11.2026", "2026-13-01", "20261128", "tonight", "2026-11-28T22"]
)
def test_a_night_that_is_no_date_is_refused(job: str, text: str) -> None:
    assert f"{text!r} is not a date such as 2027-01-15" in one_error(
        nightpress("run", job, "--night", text)
    )


def test_a_night_that_would_change_nothing_is_refused(job: str, tmp_path: Path) -> None:
    for name in TAKE_A_JOB:
        path = Path(job)
        path.write_text(path.read_text().replace("{night}", "always"))
        assert one_error(nightpress(name, job, "--night", NIGHT)).startswith(
            f"error: --night: {job} has no {{night}} in name, manifest, output"
        )
    assert "only a job file has a {night}" in one_error(
        nightpress("status", f"{tmp_path}/press/x", "--night", NIGHT)
    )


def test_a_time_zone_that_is_not_known_is_refused(
    job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "did you mean Europe/Berlin?" in one_error(
        nightpress("run", job, "--tz", "Europe/Berln")
    )
    monkeypatch.setenv("TZ", "Europe/Berln")
    for options in ([], ["--deadline", "06:30", "--night", NIGHT]):
        assert "environment variable TZ" in one_error(nightpress("run", job, *options))


@pytest.mark.parametrize(
    ("now", "code"),
    [("2026-11-29T05:29Z", 5), ("2026-11-29T05:31Z", 4), ("2026-11-28T20:30Z", 4)],
)
def test_a_start_outside_the_window_of_the_deadline_ends_with_4_at_once(
    job: str, ending: End, monkeypatch: pytest.MonkeyPatch, now: str, code: int
) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromisoformat(now).astimezone(tz)

    monkeypatch.setattr(times, "datetime", Clock)
    ending(RunHeld("it would have run"))
    window = ("--deadline", "22:00-06:30", "--tz", "Europe/Berlin")
    result = nightpress("run", job, *window, "--json")
    assert result.exit_code == code, result.output
    stopped = json.loads(result.stdout)["error"]["type"] == "StoppedOnRequest"
    assert stopped == (code == 4)
    assert stopped == ("the job runs only from 22:00 to 06:30" in result.stderr)


def test_a_deadline_is_in_the_time_zone_that_is_given_and_is_said(
    job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[float] = []

    def call(spec: RunSpec, *args: Any, deadline_at: float, **options: Any) -> None:
        deadlines.append(deadline_at)
        raise RunHeld("held")

    monkeypatch.setattr(run_command, "run", call)
    arguments = ("run", job, "--deadline", "2099-07-15T06:30")
    for zone, words in (("Europe/Berlin", "06:30 in Europe/Berlin"), ("Asia/Tokyo", "in Asia/Tok")):
        said = nightpress(*arguments, "--tz", zone).stderr
        assert words in said
        assert nightpress(*arguments[:2], "--tz", zone, *arguments[2:]).stderr == said
    assert deadlines[0] == deadlines[1] == deadlines[2] + 7 * 3600


# Exit codes

RESULT = RunResult("press/x", 2, 1, 1, 2, 1.0, None, {}, None)


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> End:
    """Make `nightpress run` end with an error, or with a failed row."""

    def end_with(error: BaseException | None) -> None:
        def call(*args: Any, **options: Any) -> RunResult:
            if error is not None:
                raise error
            return RESULT

        monkeypatch.setattr(run_command, "run", call)

    return end_with


ENDINGS: list[tuple[BaseException | None, int]] = [
    (None, 3),
    (RunStopped("the deadline is near"), 4),
    (ClusterUnavailable("no answer"), 4),
    (KeyboardInterrupt(), 4),
    (RunHeld("held"), 5),
    (ModelNotFound("no model"), 2),
]


@pytest.mark.parametrize(("error", "code"), ENDINGS)
def test_a_code_counts_as_ok_only_if_it_is_listed_and_the_real_one_is_told(
    job: str, ending: End, error: BaseException | None, code: int
) -> None:
    ending(error)
    assert nightpress("run", job).exit_code == code
    others = ",".join(str(each) for each in (3, 4, 5) if each != code)
    unlisted = nightpress("run", job, "--ok-codes", others)
    assert unlisted.exit_code == code
    assert "--ok-codes" not in unlisted.stderr
    if code == 2:
        return
    listed = nightpress("run", job, "--json", "--ok-codes", f"{code}")
    assert listed.exit_code == 0
    assert listed.stderr.splitlines()[-1] == f"exit code {code}, reported as 0: --ok-codes"
    values = json.loads(listed.stdout)
    assert (values["exit_code"], values["process_exit_code"]) == (code, 0)


@pytest.mark.parametrize("codes", ["1", "2", "3,1", "0", "3,,5", "", "three", "3;5", "6"])
def test_a_code_that_says_that_something_is_wrong_cannot_count_as_ok(job: str, codes: str) -> None:
    error = one_error(nightpress("run", job, "--ok-codes", codes))
    assert "allowed are 3 (some rows failed), 4 (stopped early) and 5" in error


def test_an_unexpected_error_stays_one(job: str, ending: End) -> None:
    ending(RuntimeError("a bug"))
    result = nightpress("run", job, "--ok-codes", "3,4,5")
    assert isinstance(result.exception, RuntimeError)
    assert result.exit_code == 1
