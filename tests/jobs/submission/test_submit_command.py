"""`nightpress submit` against a server of Ray's Jobs API whose jobs end as each test says."""

import errno
import gc
import json
import os
import re
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from click.testing import CliRunner, Result
from support.certificates import own_certificate
from support.fakes.jobs_api import JobsApi, jobs_api

from nightpress.jobs import cli
from nightpress.jobs.cluster import address
from nightpress.jobs.errors import StoppedOnRequest
from nightpress.jobs.signals import Interruption
from nightpress.jobs.submission import bundle, client, submit
from nightpress.pipelines.job.spec import RunSpec

ROWS = "id,prompt\na,a cat\n"


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray that another test of this process has started sends its token from then on."""
    disabled = address.AuthenticationMode.DISABLED
    monkeypatch.setattr(address, "get_authentication_mode", lambda: disabled)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[JobsApi]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submit, "POLL_S", 0.02)
    (tmp_path / "cats.csv").write_text(ROWS)
    with jobs_api() as server:
        yield server


@contextmanager
def links_left_to_python() -> Iterator[None]:
    """An interruption, and TLS, may leave a link that only the end of the process would close."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def write(**values: Any) -> str:
    """Write a job file that can be submitted, with other values for some keys."""
    job = {"name": "cats", "manifest": "cats.csv", "output": "s3://press/runs"}
    job |= {"cluster": {"ship_package": False}}
    Path("job.yaml").write_text(yaml.safe_dump(job | values, allow_unicode=True))
    return "job.yaml"


def run(api: JobsApi, *options: str, job: str | None = None) -> Result:
    job = job or write()
    return CliRunner().invoke(cli.command, ["submit", job, "--to", api.url, *options])


def ending(api: JobsApi, status: str, exit_code: int | None, message: str = "") -> Result:
    """What the command does when the job ends in a way."""
    api.on_state = lambda: api.end(status, exit_code, message)
    return run(api)


@pytest.mark.parametrize(
    ("status", "exit_code", "message", "code", "words"),
    [
        ("SUCCEEDED", 0, "", 0, "has finished"),
        ("FAILED", 1, "", 1, "ended with exit code 1"),
        ("FAILED", 2, "", 2, "ended with exit code 2"),
        ("FAILED", 3, "", 3, "ended with exit code 3"),
        ("FAILED", 4, "", 4, "ended with exit code 4"),
        ("FAILED", 5, "", 5, "ended with exit code 5"),
        ("FAILED", -9, "", 4, "killed by signal 9; the same command resumes it"),
        ("FAILED", 137, "", 4, "killed by signal 9; the same command resumes it"),
        ("FAILED", 127, "", 2, "no `python` in its PATH"),
        ("STOPPED", None, "", 4, "was stopped; run the same command again to resume"),
        ("FAILED", None, "Job supervisor actor died\nmore", 4, "was lost: Job supervisor actor"),
        ("FAILED", None, "runtime_env setup failed:\nNo space left", 1, "did not start: No space"),
        ("FAILED", None, "", 4, "was lost: it gives no reason"),
    ],
)
def test_the_exit_code_says_how_the_job_ended(
    api: JobsApi, status: str, exit_code: int | None, message: str, code: int, words: str
) -> None:
    result = ending(api, status, exit_code, message)
    assert result.exit_code == code
    assert words in result.stdout


def test_each_line_of_the_log_is_shown_once_though_the_link_breaks(api: JobsApi) -> None:
    whole = ("one\ntwo\n", "three é\n", "four\n")
    api.logs = [whole[:1], (), ("one\n", "two\nthree é\n"), ("one\ntwo\nth",), whole, whole]
    api.on_log = lambda: None if api.logs[1:] else api.end("SUCCEEDED", 0)
    result = run(api)
    assert result.exit_code == 0
    lines = result.stderr.splitlines()
    assert lines[0].startswith("started job cats-")
    assert lines[1:] == ["one", "two", "three é", "four"]


def test_a_link_that_goes_silent_is_made_anew(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "QUIET_S", 0.5)
    api.logs, api.num_cut = [("one\n",), ("one\n", "two\n")], 1
    asked: list[int] = []

    def on_state() -> None:
        asked.append(1)
        if len(asked) == 600:  # nobody has asked for the log again
            api.end("FAILED", 1)

    api.on_state, api.on_log = on_state, lambda: api.end("SUCCEEDED", 0)
    result = run(api)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[1:] == ["one", "two"]


def test_an_output_that_cannot_be_read_is_said_once(api: JobsApi) -> None:
    asked: list[int] = []

    def on_state() -> None:
        asked.append(1)
        if len(asked) == 40:
            api.end("SUCCEEDED", 0)

    api.on_state, api.has_logs = on_state, False
    result = run(api)
    assert result.exit_code == 0
    assert result.stderr.count("the output of the job cannot be read now (403") == 1


def test_a_second_submission_attaches_while_the_job_runs_and_then_starts_the_next_attempt(
    api: JobsApi,
) -> None:
    first = run(api, "--no-wait").stdout.strip()
    assert first.startswith("cats-")
    assert first.endswith("-1")
    again = run(api, "--no-wait", "--json")
    assert json.loads(again.stdout) == {
        **{"job_id": first, "address": api.url, "attached": True},
        **{"exit_code": 0, "error": None},
    }
    assert f"attached to job {first}" in again.stderr
    assert len(api.started) == 1
    api.end("FAILED", 4)
    assert run(api, "--no-wait").stdout.strip() == first.removesuffix("-1") + "-2"
    assert len(api.started) == 2
    Path("cats.csv").write_text(ROWS + "b,a dog\n")
    other = run(api, "--no-wait").stdout.strip()
    assert other.endswith("-1")
    assert other != first


def test_options_that_a_running_job_was_not_started_with_are_said(api: JobsApi) -> None:
    def said(*options: str) -> str:
        return run(api, "--no-wait", *options).stderr

    assert "not applied" not in said("--budget", "40")
    assert "not applied" not in said("--budget", "40")
    assert (
        "the job runs with the options of its start, --budget 40.0; those given now, "
        "--budget 50.0 --take-over, are not applied"
    ) in said("--budget", "50", "--take-over")
    assert "those given now, none, are not applied" in said()


def test_two_that_start_a_job_at_once_get_the_same_one(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(api, "--no-wait").stdout.strip()
    jobs = client.JobsClient.jobs
    answers = iter([dict[str, client.RemoteJob]()])  # the list, from before the other had started
    monkeypatch.setattr(client.JobsClient, "jobs", lambda self: next(answers, None) or jobs(self))
    second = run(api, "--no-wait", "--json")
    assert json.loads(second.stdout)["job_id"] == first
    assert json.loads(second.stdout)["attached"]


def test_sigterm_stops_the_job_and_waits_for_its_end(api: JobsApi) -> None:
    asked = iter([lambda: os.kill(os.getpid(), signal.SIGTERM)])

    def on_state() -> None:
        next(asked, lambda: None)()
        if api.stopped:
            api.end("STOPPED")

    api.on_state = on_state
    result = run(api, "--json")
    assert result.exit_code == 4
    values = json.loads(result.stdout)
    assert api.stopped == [values["job_id"]]
    assert (values["status"], values["exit_code"], values["error"]) == ("STOPPED", 4, None)


def test_a_job_that_has_no_process_yet_is_stopped_when_it_has_one(api: JobsApi) -> None:
    asked = iter([lambda: os.kill(os.getpid(), signal.SIGTERM)])

    def on_state() -> None:
        next(asked, lambda: None)()
        if api.stopped:
            api.end("STOPPED")

    api.on_state, api.num_deaf = on_state, 2
    assert run(api).exit_code == 4
    assert len(api.stopped) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_sigterm_leaves_at_once_while_the_cluster_does_not_answer(api: JobsApi) -> None:
    signals = iter([signal.SIGTERM, signal.SIGTERM])

    def on_state() -> None:
        if (number := next(signals, None)) is not None:
            os.kill(os.getpid(), number)
        else:
            api.silent = True

    api.on_state = on_state
    with links_left_to_python():
        result = run(api)
    assert result.exit_code == 4
    assert "goes on stopping; the same command attaches to it" in result.stderr


def test_a_second_request_that_python_lost_is_heard(api: JobsApi) -> None:
    started = submit.Submission("cats-1", api.url, attached=True)
    api.jobs["cats-1"] = {"type": "SUBMISSION", "submission_id": "cats-1", "status": "RUNNING"}
    stop = Interruption()

    def on_state() -> None:
        stop.is_repeated = True
        stop.set()

    api.on_state = on_state
    with links_left_to_python(), pytest.raises(StoppedOnRequest, match="goes on making images"):
        submit.follow(client.JobsClient(api.url), started, 60, print, stop)
    assert api.stopped == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_job_that_was_not_told_to_stop_is_not_said_to_be_stopping(api: JobsApi) -> None:
    def on_state() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    api.on_state = on_state
    with links_left_to_python():
        result = run(api)
    assert result.exit_code == 4
    assert "goes on making images, as it was not stopped yet" in result.stderr
    assert api.stopped == []


def test_a_head_that_was_started_anew_is_said_at_once(api: JobsApi) -> None:
    api.on_state = api.jobs.clear
    result = run(api)
    assert result.exit_code == 4
    assert "no longer knows job cats-" in result.stderr
    assert "the same command submits the job again" in result.stderr


def test_a_frozen_head_is_waited_for_and_then_given_up(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.1)
    monkeypatch.setattr(submit, "LOST_S", 0.5)
    api.on_state = lambda: setattr(api, "silent", True)
    result = run(api)
    assert result.exit_code == 4
    assert result.stderr.count("waiting for it for at most") == 1
    assert "may go on there: the same command attaches to it" in result.stderr


def test_a_head_that_comes_back_is_followed_again(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.1)
    asked: list[int] = []

    def on_state() -> None:
        asked.append(1)
        api.silent = len(asked) == 2
        if len(asked) == 4:
            api.end("FAILED", 3)

    api.on_state = on_state
    assert run(api).exit_code == 3


def test_a_head_that_refuses_the_token_for_a_while_is_waited_for(api: JobsApi) -> None:
    once = iter([None])

    def on_state() -> None:
        if any(True for _ in once):
            api.token = "another"
            threading.Timer(0.3, setattr, (api, "token", None)).start()
        else:
            api.end("FAILED", 3)

    api.on_state = on_state
    result = run(api)
    assert result.exit_code == 3
    assert result.stderr.count("asks for a token") == 1
    assert "waiting for it for at most" in result.stderr


def test_a_last_line_without_an_end_is_shown_though_the_head_is_lost(api: JobsApi) -> None:
    api.logs = [("half a line",)]
    asked: list[int] = []

    def on_state() -> None:
        asked.append(1)
        if len(asked) == 20:  # the line has come by now
            api.jobs.clear()

    api.on_state = on_state
    result = run(api, "--log-format", "json")
    assert result.exit_code == 4
    shown = [json.loads(line) for line in result.stderr.splitlines()]
    assert ("half a line", "job") in [(each["message"], each.get("source")) for each in shown]


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "127.0.0.1:9", "auto"])
@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_the_address_on_the_command_line_wins_over_the_environment(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    monkeypatch.setenv(name, address)
    assert run(api, "--no-wait").exit_code == 0
    assert len(api.started) == 1


def test_the_environment_names_the_cluster_where_the_command_line_does_not(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", api.url)
    result = CliRunner().invoke(cli.command, ["submit", write(), "--no-wait"])
    assert (result.exit_code, len(api.started)) == (0, 1)


@pytest.mark.parametrize("ships", [True, False])
def test_the_package_travels_unless_the_cluster_has_it(api: JobsApi, ships: bool) -> None:
    job = write(cluster={"ship_package": ships, "drain_s": 90, "address": "head:6379"})
    result = run(api, "--no-wait", job=job)
    assert "cluster.address head:6379 is not used" in result.stderr
    env = api.started[0]["runtime_env"]
    assert env["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "150"}
    assert ("py_modules" in env) is ships
    sent = yaml.safe_load(api.files()["job.yaml"])
    assert sent["cluster"]["ship_package"] is False
    assert sent["cluster"]["address"] is None
    assert api.started[0]["entrypoint"] == "python -m nightpress.jobs.submission.start job.yaml"


def test_options_of_the_run_travel_in_the_command(api: JobsApi) -> None:
    options = ["--deadline", "2099-01-01T06:30", "--tz", "Europe/Berlin", "--max-failures", "5%"]
    assert run(api, "--no-wait", "--set", "batch.size=2", *options).exit_code == 0
    assert api.started[0]["entrypoint"].endswith("--deadline 2099-01-01T05:30:00+00:00")
    sent = yaml.safe_load(api.files()["job.yaml"])
    assert sent["cluster"]["max_failures"] == "5%"
    assert sent["batch"]["size"] == 2


def test_options_of_the_run_travel_and_ok_codes_do_not(api: JobsApi) -> None:
    api.on_state = lambda: api.end("FAILED", 3)
    options = [
        "--budget",
        "40",
        "--take-over",
        "--extend",
        "--changed",
        "new-variant",
        "--log-format",
        "json",
        "--ok-codes",
        "3,5",
        "--json",
    ]
    result = run(api, *options)
    assert result.exit_code == 0
    assert api.started[0]["entrypoint"].endswith(
        "job.yaml --budget 40.0 --take-over --extend --changed new-variant --log-format json"
    )
    assert "exit code 3, reported as 0: --ok-codes" in result.stderr
    values = json.loads(result.stdout)
    assert (values["exit_code"], values["process_exit_code"]) == (3, 0)


def test_manifests_travel_as_folders_patterns_and_partitions(api: JobsApi) -> None:
    names = ["rows/a.csv", "parts/mood=calm sea/x.csv", "parts/mood=ü/y.csv", "odd [1] é.csv"]
    for name in [*names, "rows/_hidden.csv", "rows/notes.md", "unused.csv"]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(ROWS)
    manifest = ["rows", "parts/**/*.csv", "odd [1] é.csv", "rows/*.csv", "s3://press/more.csv"]
    assert run(api, "--no-wait", job=write(manifest=manifest)).exit_code == 0
    files = api.files()
    assert files.keys() - {"job.yaml"} == set(names)
    assert yaml.safe_load(files["job.yaml"])["manifest"] == manifest


@pytest.mark.parametrize("name", ["nächte", "a b", "катя", "n" * 200, "..", "-x", "50%", "a'b;c"])
def test_any_name_makes_an_id_that_can_be_a_file_name_and_part_of_a_url(
    api: JobsApi, name: str
) -> None:
    result = run(api, "--no-wait", job=write(name=name))
    if result.exit_code:  # no run may have this name
        assert "name" in result.stderr
        return
    job_id = result.stdout.strip()
    assert len(job_id) < 130
    assert set(job_id) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert yaml.safe_load(api.files()["job.yaml"])["name"] == name
    api.end("SUCCEEDED", 0)
    assert run(api, "--no-wait", job=write(name=name)).stdout.strip() == job_id[:-1] + "2"


@pytest.mark.parametrize("text", ["1e3", "0o17", "yes", "2027-01-15", "null", "ü 😀", "a\u2028b"])
def test_a_text_is_the_same_text_on_the_cluster(api: JobsApi, tmp_path: Path, text: str) -> None:
    values = {"name": "1e3", "manifest": "cats.csv", "output": f"s3://press/{text}"}
    values |= {"sampling": {"negative_prompt": text, "guidance_scale": 1e-05}}
    Path("job.yaml").write_text(bundle.as_yaml(values))
    job = RunSpec.from_file("job.yaml")
    assert (job.name, job.sampling.negative_prompt) == ("1e3", text)
    assert (
        run(api, "--no-wait", "--set", "cluster.ship_package=false", job="job.yaml").exit_code == 0
    )
    sent = tmp_path / "sent.yaml"
    sent.write_bytes(api.files()["job.yaml"])
    assert RunSpec.from_file(sent).sampling == job.sampling
    assert RunSpec.from_file(sent).url == job.url


def test_manifests_that_are_too_large_are_refused_before_they_are_copied(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "MAX_BYTES", 5)
    monkeypatch.setattr(bundle.shutil, "copyfile", None)
    result = run(api)
    assert result.exit_code == 2
    assert "of files would travel with the job, at most" in result.stderr


def test_a_manifest_that_cannot_be_copied_is_one_line(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(bundle.shutil, "copyfile", full)
    result = run(api)
    assert result.exit_code == 2
    assert re.fullmatch(r"error: manifest: \S+cats.csv: No space left on device\n", result.stderr)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"output": "builtin/press"}, "output: 'builtin/press' is a path of this machine"),
        ({"model": "~/sdxl"}, "model: '~/sdxl' is a path of this machine"),
        ({"model": "./sdxl"}, "model: './sdxl' is a path of this machine"),
        ({"output": "press"}, "output: 'press' is a path of this machine"),
        ({"output": "~/press"}, "output: '~/press' is a path of this machine"),
        ({"inputs": {"root": "photos"}}, "inputs.root: 'photos' is a path of this machine"),
        ({"model": "models"}, "model: 'models' is a path of this machine"),
        ({"manifest": "../cats.csv"}, "manifest: '../cats.csv' is no file or folder below"),
        ({"manifest": "~/cats.csv"}, "manifest: '~/cats.csv' is no file or folder below"),
        ({"manifest": "zip://a.csv::a.zip"}, "is no file or folder below"),
        ({"manifest": "none.csv"}, "none.csv"),
        ({"storage": {"s3": {"key": "AKIA"}}}, "storage: s3.key looks like a credential"),
    ],
)
def test_what_cannot_travel_is_refused_in_one_line_before_anything_is_sent(
    api: JobsApi, values: dict[str, Any], words: str
) -> None:
    Path("models").mkdir()
    result = run(api, job=write(**values))
    assert result.exit_code == 2, result.stderr
    assert words in result.stderr
    assert (api.started, api.packages) == ([], {})


@pytest.mark.parametrize("output", ["/mnt/press", "file:///mnt/press"])
def test_a_path_that_all_nodes_share_is_allowed(api: JobsApi, output: str) -> None:
    assert run(api, "--no-wait", job=write(output=output)).exit_code == 0


def test_credentials_of_this_machine_are_not_sent(
    api: JobsApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "only-on-this-machine-7"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("HF_TOKEN", secret)
    assert run(api, "--no-wait", job=write()).exit_code == 0
    assert secret not in json.dumps(api.started)
    assert not any(secret.encode() in data for data in api.files().values())


def test_a_cluster_that_asks_for_a_token_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cats.csv").write_text(ROWS)
    with jobs_api(token="secret") as server:
        result = run(server)
    assert result.exit_code == 2
    words = f"the Ray cluster at {server.url} asks for a token: set RAY_AUTH_MODE=token, and set"
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_dashboard_without_tls_is_told_from_one_that_is_away(api: JobsApi) -> None:
    address = api.url.replace("http:", "https:")
    result = CliRunner().invoke(cli.command, ["submit", write(), "--to", address])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert "no TLS connection" in result.stderr
    missing = CliRunner(env={"REQUESTS_CA_BUNDLE": "none.pem"})
    result = missing.invoke(cli.command, ["submit", write(), "--to", address])
    assert result.exit_code == 2
    assert "invalid path: none.pem" in result.stderr


def test_a_certificate_of_an_own_authority_is_trusted_for_the_output_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submit, "POLL_S", 0.02)
    Path("cats.csv").write_text(ROWS)
    with links_left_to_python():  # those of earlier tests are found while it is made
        file, certificate = own_certificate(tmp_path)
    with links_left_to_python(), jobs_api(certificate=certificate) as server:
        unknown = run(server)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(file))
        asked: list[int] = []

        def on_state() -> None:
            asked.append(1)
            if len(asked) == 40:
                server.end("SUCCEEDED", 0)

        server.logs, server.on_state = [("one\n",)] * 50, on_state
        known = run(server)
    assert (unknown.exit_code, known.exit_code) == (2, 0)
    assert "no TLS connection" in unknown.stderr
    assert known.stderr.splitlines()[1:] == ["one"]


@pytest.mark.parametrize("address", ["ftp://head", "http://", "head:0", "http://me:pw@head"])
def test_an_address_that_is_no_dashboard_is_refused(api: JobsApi, address: str) -> None:
    result = CliRunner().invoke(cli.command, ["submit", write(), "--to", address])
    assert result.exit_code == 2
    assert "--to" in result.stderr
    assert "pw@" not in result.stderr


def test_the_port_of_the_head_itself_is_told_from_the_dashboards(api: JobsApi) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    command = ["submit", write(), "--to", f"127.0.0.1:{port}"]
    result = CliRunner().invoke(cli.command, command)
    server.stop(None)
    assert result.exit_code == 2
    assert "its answer is not HTTP); its port is usually 8265" in result.stderr


def test_another_web_server_is_told_from_a_dashboard(tmp_path: Path, api: JobsApi) -> None:
    result = CliRunner().invoke(cli.command, ["submit", write(), "--to", f"{api.url}/elsewhere"])
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
