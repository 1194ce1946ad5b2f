"""`nightpress schedule`: files that schedulers accept, and that run what was asked for."""

import json
import re
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from support import schedules
from support.schedules import (
    CRDS,
    called_by_cron,
    crd_problems,
    cronjob_problems,
    echoing_program,
    fake_airflow,
    unit_problems,
    words_in,
)

from nightpress.jobs import cli
from nightpress.jobs.cli import command
from nightpress.jobs.commands import times
from nightpress.jobs.schedules.checks import clock_changes
from nightpress.jobs.schedules.files import Kind
from nightpress.jobs.schedules.quoting import yaml_literal

JOB = """\
# every night
name: "cats-{night}"
manifest: s3://studio/in/{night}.csv
output: s3://studio/press
cluster: {drain_s: 90}
"""

NIGHTLY = ("--at", "22:00", "--tz", "Europe/Berlin", "--deadline", "06:30")

KINDS = [str(kind) for kind in Kind]

needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason=f"no KubeRay definitions at {CRDS}")
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here"
)

Schedule = Callable[..., str]


@pytest.fixture(autouse=True)
def libraries_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking through all packages for what shadows them takes longer than these commands."""
    monkeypatch.setattr(cli, "require_libraries", lambda: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose name every kind of file must quote."""
    folder = tmp_path / 'it\'s 100% "$HOME" \\ ;'
    folder.mkdir()
    return folder


@pytest.fixture
def job(folder: Path) -> Path:
    path = folder / "Cats_v2.yaml"
    path.write_text(JOB)
    return path


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, ["schedule", *map(str, arguments)])


def written(kind: str, job: Path, *options: str | Path) -> dict[str, str]:
    """Name -> text of the files of a schedule."""
    result = call(job, "--as", kind, *NIGHTLY, *options, "--json")
    assert result.exit_code == 0, result.output
    files: dict[str, str] = json.loads(result.stdout)["files"]
    return files


def refusal(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


def resources(text: str) -> dict[str, dict[str, Any]]:
    """Kind -> resource."""
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


# Every kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_printed_or_written_and_never_replaced_unasked(
    kind: str, job: Path, tmp_path: Path
) -> None:
    files = written(kind, job)
    printed = call(job, "--as", kind, *NIGHTLY).stdout
    assert all(text in printed for text in files.values())
    assert all(text.endswith("\n") and "{{" not in text for text in files.values())
    out = ("--out", tmp_path / "a" / "b")
    assert call(job, "--as", kind, *NIGHTLY, *out).exit_code == 0
    assert {path.name: path.read_text() for path in (tmp_path / "a/b").iterdir()} == files
    assert "already there" in refusal(job, "--as", kind, *NIGHTLY, *out)
    assert call(job, "--as", kind, *NIGHTLY, *out, "--force").exit_code == 0


def command_lines(kind: str, text: str) -> list[str]:
    """The words of the command in a file of Kubernetes."""
    found = resources(text)
    if kind == "raycronjob":
        return shlex.split(found["RayCronJob"]["spec"]["jobTemplate"]["entrypoint"])
    pod = found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    words: list[str] = pod["containers"][0]["args"]
    return words


@pytest.mark.parametrize("kind", KINDS)
def test_nightpress_understands_the_command_in_the_file(
    kind: str, job: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evening(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 11, 28, 22, 0, tzinfo=UTC).astimezone(tz)

    monkeypatch.setattr(times, "datetime", Evening)
    program = echoing_program(folder.parent / "night press")
    options = ["--ok-codes", "3,5", "--set", "images.file_name={mood}/{image_id}.png", "--extend"]
    if kind in ("cronjob", "raycronjob"):
        (text,) = written(kind, job, *options).values()
        _, name, *words = command_lines(kind, text)
    else:
        machine = ["--command", str(program), "--directory", str(folder)]
        _, name, *words = executed(kind, written(kind, job, *options, *machine), folder)
    assert words[:1] == [f"/etc/nightpress-job/{job.name}" if "job" in kind else str(job)]
    assert "--deadline 22:00-06:30 --tz Europe/Berlin" in " ".join(words)
    assert "images.file_name={mood}/{image_id}.png" in words
    assert {"3,5", "--extend"} <= set(words)
    if name == "submit":
        assert words[1:3] == ["--to", "http://nightpress-head-svc:8265"]
    if name in cli.COMMANDS:
        found = cli.command.get_command(click.Context(cli.command), name)
        assert found is not None
        context = found.make_context(name, list(words))
        assert context.params["job"] == words[0]


def executed(kind: str, files: dict[str, str], folder: Path) -> list[str]:
    """Where an `echoing_program` was called, and the words, when a scheduler starts it."""
    log = folder / "nightpress-cats-v2.log"
    match kind:
        case "cron":
            (text,) = files.values()
            assert called_by_cron(text.splitlines()[-1]) == ""
        case "airflow":
            (text,) = files.values()
            run_task(text, folder)
        case _:
            line = next(
                each for each in files["nightpress-cats-v2.service"].splitlines() if "Exec" in each
            )
            called = subprocess.run(
                unquoted_unit_words(line.removeprefix("ExecStart=")),
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
            )
            log.write_text(called.stdout)
    assert words_in(log)[0] == str(folder)
    return words_in(log)


def unquoted_unit_words(text: str) -> list[str]:
    """Words of a unit's command line: quotes, then what escapes specifiers and variables."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', text)
    plain = [re.sub(r"\\(.)", r"\1", quoted) or bare for quoted, bare in found]
    return [word.replace("%%", "%").replace("$$", "$") for word in plain]


# Kubernetes


def test_a_cron_job_says_what_a_night_needs_and_holds_the_job(job: Path) -> None:
    found = resources(written("cronjob", job)["nightpress-cats-v2.yaml"])
    assert found["ConfigMap"]["data"] == {"Cats_v2.yaml": JOB}
    assert cronjob_problems(found["CronJob"], drain_s=90) == []
    volume = found["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"][0]
    assert volume["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]


@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [
        ("Forbid", "Allow", "concurrencyPolicy"),
        ('  timeZone: "Europe/Berlin"\n', "", "timeZone"),
        ("values: [1, 2, 3, 5]", "values: [1, 2, 3, 4, 5]", "exit codes"),
        ("containerName: submit", "containerName: nightpress", "exit codes"),
        ("restartPolicy: Never", "restartPolicy: OnFailure", "restartPolicy"),
        ("DisruptionTarget", "PodScheduled", "disruption"),
        ("terminationGracePeriodSeconds: 270", "terminationGracePeriodSeconds: 30", "grace"),
        ("backoffLimit: 3", "backoffLimits: 3", "backoffLimit"),
        ("  failedJobsHistoryLimit: 8\n", "", "history"),
        ('"submit", ', '"run", ', "command"),
    ],
)
def test_a_mistake_in_a_cron_job_is_caught(job: Path, right: str, wrong: str, name: str) -> None:
    text = written("cronjob", job)["nightpress-cats-v2.yaml"]
    assert text.count(right) == 1
    assert name in cronjob_problems(resources(text.replace(right, wrong))["CronJob"], drain_s=90)


@pytest.mark.parametrize(
    "mistake", [None, ("backoffLimit:", "backoffLimits:"), ("- name:", "- n:")]
)
def test_kubernetes_own_schema_accepts_a_cron_job_and_no_mistake_in_it(
    job: Path, mistake: tuple[str, str] | None
) -> None:
    schema = pytest.importorskip("kubernetes_validate")
    text = written("cronjob", job)["nightpress-cats-v2.yaml"]
    for resource in yaml.safe_load_all(text if mistake is None else text.replace(*mistake)):
        if mistake is None or resource["kind"] == "ConfigMap":
            schema.validate(resource, schema.latest_version(), strict=True)
        else:
            with pytest.raises(schema.ValidationError):
                schema.validate(resource, schema.latest_version(), strict=True)


@needs_crds
@pytest.mark.parametrize(
    "mistake",
    [
        None,
        ("backoffLimit: 0", "backoffLimits: 0"),
        ("rayStartParams: {}", "rayStartParams: []"),
        ("groupName: press", "group: press"),
        ("timeZone:", "timezone:"),
        ("replicas: 2", "replicas: many"),
    ],
)
def test_a_ray_cron_job_is_what_kuberay_defines_and_no_mistake_is(
    job: Path, mistake: tuple[str, str] | None
) -> None:
    (text,) = written("raycronjob", job, "--workers", "2", "--gpus", "1").values()
    assert mistake is None or mistake[0] in text
    found = resources(text if mistake is None else text.replace(*mistake))
    assert bool(crd_problems(found["RayCronJob"])) == (mistake is not None)


def test_a_ray_cron_job_has_the_nodes_and_the_grace_that_the_job_needs(job: Path) -> None:
    (text,) = written("raycronjob", job, "--workers", "2", "--gpus", "1").values()
    template = resources(text)["RayCronJob"]["spec"]["jobTemplate"]
    environment = yaml.safe_load(template["runtimeEnvYAML"])["env_vars"]
    (group,) = template["rayClusterSpec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    (worker,) = pod["containers"]
    ray_drain_s = int(worker["env"][0]["value"])
    assert 90 < ray_drain_s < pod["terminationGracePeriodSeconds"]
    assert int(environment["RAY_JOB_STOP_WAIT_TIME_S"]) > 90
    assert (group["replicas"], worker["resources"]["limits"]["nvidia.com/gpu"]) == (2, "1")
    assert template["backoffLimit"] == 0


@pytest.mark.parametrize("text", ["a: 1\n", "a: 1", "a: 1\n\n", " a: 1\n", "a:\t1 \nb: ü\n", ""])
def test_a_job_file_is_the_same_text_in_a_config_map(text: str) -> None:
    assert yaml.safe_load(f"data:\n  job: {yaml_literal(text, 4)}\n") == {"data": {"job": text}}


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ("manifest: cats.csv\noutput: s3://b/press\n", "manifest: 'cats.csv'"),
        ("manifest: s3://b/in.csv\noutput: press\n", "output: 'press'"),
        ("manifest: s3://b/a.csv\noutput: s3://b/p\ninputs: {root: in}\n", "inputs.root: 'in'"),
        ("manifest: s3://b/a.csv\noutput: builtin/p\n", "output: 'builtin/p'"),
        ("manifest: s3://b/a.csv\noutput: s3://b/p\nmodel: ~/sdxl\n", "model: '~/sdxl'"),
        (
            "manifest: s3://b/a.csv\noutput: s3://b/p\nscores: {look: {scorer: brand.py:Logo}}\n",
            "scores.look.scorer: 'brand.py'",
        ),
        (
            "manifest: s3://b/a.csv\noutput: s3://b/p\n"
            "scores: {fit: {scorer: clip, model: ./models/clip}}\n",
            "scores.fit.model: './models/clip'",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["cronjob", "raycronjob"])
def test_a_path_of_this_machine_is_refused_for_pods(
    kind: str, lines: str, key: str, job: Path
) -> None:
    job.write_text(lines)
    line = refusal(job, "--as", kind, *NIGHTLY)
    assert f"{key} is relative to a folder of this machine" in line
    assert call(job, "--as", "cron", *NIGHTLY).exit_code == 0


@pytest.mark.parametrize("kind", ["cronjob", "raycronjob"])
@pytest.mark.parametrize("name", ["on", "null", "true", "y"])
def test_any_name_is_text_in_yaml(kind: str, name: str, job: Path) -> None:
    (text,) = written(kind, job, "--name", name).values()
    assert [each["metadata"]["name"] for each in yaml.safe_load_all(text)] == [f"{name}-job", name]


def test_what_yaml_refuses_or_reads_otherwise_is_escaped(job: Path) -> None:
    odd = "sampling.negative_prompt=a\u2028b\ufffe"
    (text,) = written("cronjob", job, "--set", odd).values()
    assert odd in command_lines("cronjob", text)


# systemd


def units(job: Path, folder: Path, tmp_path: Path, *options: str) -> list[Path]:
    place = tmp_path / "100% of $HOME"
    place.mkdir()
    program = echoing_program(place / "nightpress")
    where = ("--command", program, "--directory", folder, "--user", "games")
    paths = []
    for name, text in written("systemd", job, *where, *options).items():
        paths.append(tmp_path / name)
        paths[-1].write_text(text)
    return paths


@needs_systemd
@pytest.mark.parametrize("to", [(), ("--to", "http://head:8265")])
def test_systemd_accepts_the_units(
    job: Path, folder: Path, tmp_path: Path, to: tuple[str, ...]
) -> None:
    assert unit_problems(*units(job, folder, tmp_path, "--at", "00:00", *to)) == ""


@needs_systemd
@pytest.mark.parametrize(
    ("number", "right", "wrong"),
    [
        (0, "KillMode=mixed", "KillMode=mixd"),
        (0, "SuccessExitStatus=4 5", "SuccesExitStatus=4 5"),
        (0, "TimeoutStopSec=150", "TimeoutStopSec=soon"),
        (0, 'nightpress" run', 'nightpres" run'),
        (1, "22:00:00 Europe/Berlin", "22:00:00 Europe/Berln"),
        (1, "Persistent=true", "Persistent=perhaps"),
    ],
)
def test_a_mistake_in_a_unit_is_caught(
    job: Path, folder: Path, tmp_path: Path, number: int, right: str, wrong: str
) -> None:
    paths = units(job, folder, tmp_path)
    text = paths[number].read_text()
    assert text.count(right) == 1
    paths[number].write_text(text.replace(right, wrong))
    assert unit_problems(*paths) != ""


def test_a_unit_stops_one_process_and_gives_it_the_time_that_the_job_needs(job: Path) -> None:
    service, timer = written("systemd", job, "--at", "02:00").values()
    assert "KillMode=mixed\n" in service
    assert "TimeoutStopSec=150\n" in service
    submits, _ = written("systemd", job, "--to", "http://h:8265").values()
    assert "TimeoutStopSec=270\n" in submits
    assert "OnCalendar=*-*-* 22:00:00 Europe/Berlin\nOnCalendar=*-*-* 02:00:00" in timer
    assert "Persistent=true\n" in timer


# cron


@pytest.mark.parametrize("code", [0, 3])
def test_cron_runs_the_command_in_its_folder_and_mails_its_exit_code(
    job: Path, folder: Path, code: int
) -> None:
    program = echoing_program(folder / "nightpress", code)
    (text,) = written("cron", job, "--command", program, "--directory", folder).values()
    *_, zone, line = text.splitlines()
    assert zone == "CRON_TZ=Europe/Berlin"
    assert line.startswith("0 22 * * * cd ")
    mail = called_by_cron(line)
    assert mail == ("" if code == 0 else f"nightpress-cats-v2: exit code {code}\n")
    assert words_in(folder / "nightpress-cats-v2.log")[:3] == [str(folder), "run", str(job)]


@pytest.mark.parametrize("escapes", ["%", "%\\"])
def test_no_cron_reads_another_command_in_backslashes_and_percent_signs(
    tmp_path: Path, escapes: str
) -> None:
    folder = tmp_path / "a\\%b \\\\ 100%\\"
    folder.mkdir()
    job = folder / "c\\\\d%.yaml"
    job.write_text(JOB)
    program = echoing_program(folder / "nightpress")
    machine = ("--command", program, "--directory", folder, "--name", "cats")
    (text,) = written("cron", job, *machine).values()
    assert called_by_cron(text.splitlines()[-1], escapes) == ""
    assert words_in(folder / "cats.log")[:3] == [str(folder), "run", str(job)]


def test_a_line_that_cron_would_cut_off_is_refused(job: Path) -> None:
    long = ("--set", f"sampling.negative_prompt={'x' * 900}")
    assert "a line of a crontab may have about" in refusal(job, "--as", "cron", *NIGHTLY, *long)
    assert call(job, "--as", "airflow", *NIGHTLY, *long).exit_code == 0
    wide = ("--set", f"sampling.negative_prompt={'ü' * 450}")
    assert "a line of a crontab may have about" in refusal(job, "--as", "cron", *NIGHTLY, *wide)


# Airflow


def run_task(text: str, folder: Path, stop_after_s: float | None = None) -> None:
    """Execute the task of a DAG file, at 02:00 of the night of 28 November in Berlin."""
    module: dict[str, Any] = {}
    with fake_airflow():
        exec(compile(text, "dag.py", "exec"), module)
        task = module["Nightpress"](task_id="press")
        if stop_after_s is not None:
            threading.Timer(stop_after_s, task.on_kill).start()
        tick = datetime(2026, 11, 29, 1, tzinfo=UTC)
        task.execute({"dag_run": SimpleNamespace(logical_date=tick, run_after=None)})


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (0, None),
        (1, "AirflowFailException"),
        (2, "AirflowFailException"),
        (3, "AirflowFailException"),
        (4, "AirflowException"),
        (5, "AirflowSkipException"),
    ],
)
def test_airflow_tries_again_only_what_stopped_early(
    job: Path, folder: Path, code: int, error: str | None
) -> None:
    program = echoing_program(folder / "nightpress", code)
    (text,) = written("airflow", job, "--command", program, "--directory", folder).values()
    try:
        run_task(text, folder)
        raised = None
    except schedules.Failed as failed:
        raised = type(failed).__name__
    assert raised == error
    assert words_in(folder / "nightpress-cats-v2.log")[-2:] == ["--night", "2026-11-28"]


def test_airflow_gets_every_character_of_a_command(job: Path, folder: Path) -> None:
    program = echoing_program(folder / "nightpress")
    odd = "sampling.negative_prompt=\U0001f600 ü \u2028 \"\\x41'"
    machine = ("--command", program, "--directory", folder, "--set", odd)
    (text,) = written("airflow", job, *machine).values()
    run_task(text, folder)
    assert odd in words_in(folder / "nightpress-cats-v2.log")


def test_airflow_stops_the_run_cleanly_and_waits_for_it(job: Path, folder: Path) -> None:
    program = folder / "nightpress"
    program.write_text("#!/bin/sh\ntrap 'echo drained; exit 4' TERM\nsleep 30 & wait\n")
    program.chmod(0o755)
    (text,) = written("airflow", job, "--command", program, "--directory", folder).values()
    with pytest.raises(schedules.Failed, match="stopped early"):
        run_task(text, folder, stop_after_s=0.5)
    assert (folder / "nightpress-cats-v2.log").read_text() == "drained\n"


@pytest.mark.parametrize(
    ("right", "wrong"), [("COMMAND = [", "COMMAND = ("), ("case 4:", "case 4"), ('"""', '"')]
)
def test_a_mistake_in_a_dag_is_caught(job: Path, right: str, wrong: str) -> None:
    (text,) = written("airflow", job).values()
    compile(text, "dag.py", "exec")
    with pytest.raises(SyntaxError):
        compile(text.replace(right, wrong, 1), "dag.py", "exec")


# What is refused or said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--at", "10 pm"), "'10 pm' is not a time of day such as 22:00"),
        (("--at", "22:00", "--at", "23:30"), "have different minutes"),
        (("--at", "22:00", "--at", "22:00"), "--at 22:00 is given twice"),
        (("--at", "22:00", "--deadline", "22:00"), "--at 22:00: not between 22:00"),
        (("--at", "22:00", "--at", "12:00", "--deadline", "06:30"), "--at 12:00: not between"),
        (("--at", "22:00", "--tz", "Berlin"), "is not the name of a time zone"),
        (("--at", "22:00", "--name", "Cats!"), "--name Cats!: at most 36 small letters"),
        (("--at", "22:00", "--workers", "2"), "--workers is for raycronjob, not for cron"),
        (("--at", "22:00", "--image", "x"), "--image is for cronjob, raycronjob, not for cron"),
        (("--at", "22:00", "--force"), "--force requires --out"),
        (("--at", "22:00", "--ok-codes", "2"), "'2' in '2' is not allowed"),
        (("--at", "22:00", "--set", "nonsense=1"), "nonsense: no such key"),
        (("--at", "22:00", "--as", "systemd", "--command", "/o'k"), "systemd allows no quotes"),
        (("--at", "22:00", "--set", "seed=1\n# x"), "which a schedule cannot hold"),
        (("--at", "22:00", "--as", "systemd", "--user", "a\nUser=b"), "cannot hold"),
        (
            ("--at", "22:00", "--as", "systemd", "--user", "a b"),
            "--user 'a b': the name of a user has letters from a to z or A to Z, digits, _",
        ),
        (
            ("--at", "22:00", "--as", "cronjob", "--namespace", "My NS"),
            "allows 1 to 63 small letters, di",
        ),
        (("--at", "22:00", "--as", "cronjob", "--image", "my image"), "without white space"),
        (
            ("--at", "22:00", "--as", "cronjob", "--namespace", "a.b"),
            "Kubernetes allows 1 to 63 sm",
        ),
        (("--at", "22:00", "--as", "cronjob", "--secret", "a..b"), "1 to 253 small letters, digit"),
        (("--at", "22:00", "--as", "systemd", "--command", "bin/x"), "by its absolute path"),
        (("--at", "22:00", "--as", "systemd", "--directory", "/a "), "cannot end in a space"),
        (("--at", "22:00", "--as", "systemd", "--directory", "/a\\"), "or a backslash"),
        (("--at", "10:00", "--at", "13:00"), "{night} would be another date at 13:00 than at 10"),
        (("--at", "22:00", "--to", "http://head:826S"), "not the URL of a dashboard"),
        (("--at", "22:00", "--to", "head"), "--to head: not the URL of a dashboard"),
        (("--at", "22:00", "--to", "http://me:pw@head:8265"), "--to: the URL contains cred"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    job: Path, options: tuple[str, ...], words: str
) -> None:
    zone = () if "--tz" in options else ("--tz", "Europe/Berlin")
    kind = () if "--as" in options else ("--as", "cron")
    assert words in refusal(job, *kind, *zone, *options)


def test_a_job_that_is_not_valid_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.yaml"
    assert "nowhere.yaml" in refusal(missing, "--as", "cron", *NIGHTLY)
    odd = tmp_path / "a b.yaml"
    odd.write_text(JOB)
    assert "rename the job file" in refusal(odd, "--as", "cronjob", *NIGHTLY)


def test_what_was_assumed_and_what_a_night_does_is_said(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = call(job, "--as", "cronjob", *NIGHTLY).stderr
    assert "note: --to http://nightpress-head-svc:8265 is assumed" in said
    assert "note: --image registry.example.com/nightpress:cpu is assumed" in said
    chosen = ("--to", "http://head:8265", "--image", "mine")
    assert call(job, "--as", "cronjob", *NIGHTLY, *chosen).stderr == ""
    monkeypatch.setenv("TZ", "Europe/Paris")
    assert "note: --tz Europe/Paris is assumed" in call(job, "--as", "cron", "--at", "1:00").stderr
    job.write_text(JOB.replace("{night}", "x").replace("s3://studio/in/", "/mnt/"))
    said = call(job, "--as", "cronjob", *NIGHTLY, *chosen).stderr
    assert "has no {night}: all nights continue one run" in said
    assert "manifest: /mnt/x.csv must be mounted at this path on every node" in said


def test_the_file_of_a_scorer_travels_with_a_submitted_job_and_its_model_does_not(
    job: Path,
) -> None:
    submitted = ("--as", "cron", *NIGHTLY, "--to", "http://head:8265")
    job.write_text(f"{JOB}scores: {{look: {{scorer: brand.py:Logo}}}}\n")
    assert call(job, *submitted).exit_code == 0
    job.write_text(f"{JOB}scores: {{look: {{scorer: /mnt/brand.py:Logo}}}}\n")
    note = "scores.look.scorer: /mnt/brand.py must be mounted at this path on every node"
    assert note in call(job, *submitted).stderr
    job.write_text(f"{JOB}scores: {{fit: {{scorer: clip, model: ./models/clip}}}}\n")
    assert "scores.fit.model: './models/clip' is relative" in refusal(job, *submitted)


def test_a_name_that_is_cut_is_said(job: Path) -> None:
    long = job.with_name(f"{'spring' * 9}.yaml")
    long.write_text(JOB)
    cut = f"nightpress-{'spring' * 4}s"
    assert f"--name {cut} is assumed" in call(long, "--as", "cron", *NIGHTLY).stderr
    assert "--name" not in call(long, "--as", "cron", *NIGHTLY, "--name", "spring").stderr
    assert "--name" not in call(job, "--as", "cron", *NIGHTLY).stderr


def test_a_window_beyond_noon_is_pointed_out_where_nights_have_names(job: Path) -> None:
    times = ("--tz", "Europe/Berlin", "--at", "22:00", "--deadline")
    beyond = "a night ends at noon, and the deadline is 12:30"
    assert beyond in call(job, "--as", "systemd", *times, "12:30").stderr
    assert beyond not in call(job, "--as", "systemd", *times, "12:00").stderr
    assert beyond not in call(job, "--as", "airflow", *times, "12:30").stderr
    job.write_text(JOB.replace("{night}", "x"))
    assert beyond not in call(job, "--as", "systemd", *times, "12:30").stderr
    assert call(job, "--as", "cron", "--at", "10:00", "--at", "13:00").exit_code == 0


def test_a_job_that_is_too_large_for_a_config_map_is_refused_with_both_sizes(job: Path) -> None:
    job.write_text(JOB + "#" * 900_000)
    size = f"{len(job.read_bytes()):,} bytes; at most 900,000 fit into a ConfigMap"
    assert size in refusal(job, "--as", "cronjob", *NIGHTLY)


def test_a_user_that_no_unit_could_have_matters_to_units_alone(
    job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "CORP\\first.last")
    assert call(job, "--as", "cron", *NIGHTLY).exit_code == 0
    assert "the name of a user has letters" in refusal(job, "--as", "systemd", *NIGHTLY)


@pytest.mark.parametrize(
    ("clock", "zone", "words"),
    [
        (time(2, 30), "Europe/Berlin", ["does not exist on 2027-03-28"]),
        (time(22), "Europe/Berlin", []),
        (time(1, 30), "America/New_York", ["comes twice on 2027-11-07"]),
        (time(2, 30), "Asia/Tokyo", []),
    ],
)
def test_a_time_that_a_night_skips_or_has_twice_is_pointed_out(
    clock: time, zone: str, words: list[str]
) -> None:
    said = list(clock_changes(clock, zone, date(2026, 11, 28)))
    assert len(said) == len(words)
    assert all(word in line for word, line in zip(words, said, strict=True))


def test_what_a_change_of_the_clock_does_to_a_deadline_is_said(job: Path) -> None:
    times = ("--at", "22:00", "--tz", "Europe/Berlin", "--deadline", "02:30")
    (said,) = (
        line for line in call(job, "--as", "airflow", *times).stderr.splitlines() if "02:30" in line
    )
    assert "the deadline" in said.partition("; ")[2]


def test_a_schedule_does_not_touch_the_store(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert call(job, "--as", "systemd", *NIGHTLY).exit_code == 0
