"""The cluster, failure limit and pickles of a repair: a run's own record cannot have code run."""

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.fakes.fake_runs import finished_run

from nightpress.jobs.cli import command
from nightpress.jobs.errors import UntrustedRun
from nightpress.jobs.runs import repair_spec as module
from nightpress.jobs.runs.repair_spec import repair_spec
from nightpress.pipelines import Run, RunSpec
from nightpress.pipelines.job.sections import ClusterSpec
from nightpress.pipelines.run_directory.record import RUN_FILE


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that was started with `max_failures: 0`, on a cluster that no longer exists."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(module, "is_chosen", lambda: False)
    store, record = finished_run(tmp_path, ["a picture", "nan"])
    return started_on(Run(store, record), ClusterSpec(address="gone:6379", max_failures=0))


def started_on(run: Run, cluster: ClusterSpec) -> Run:
    return Run(
        run.store,
        replace(run.record, spec=run.spec.model_copy(update={"cluster": cluster})),
    )


def with_pickles(run: Run, allowed: bool = True) -> Run:
    model = run.spec.model.model_copy(update={"allow_pickle": allowed})
    spec = run.spec.model_copy(update={"model": model, "cluster": ClusterSpec()})
    return Run(run.store, replace(run.record, spec=spec))


@pytest.fixture
def head() -> Iterator[socket.socket]:
    """Something that listens where a downloaded run names a cluster."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def test_a_job_says_what_its_cluster_is_now(run: Run) -> None:
    cluster = {"address": "new:6379", "watchdog_s": 900, "max_failures": 3}
    job = RunSpec.from_dict(run.spec.as_dict() | {"cluster": cluster})
    found = repair_spec(run, job).cluster
    assert (found.address, found.watchdog_s, found.drain_s) == ("new:6379", 900, 60)
    assert repair_spec(run, job, "other:6379").cluster.address == "other:6379"


def test_a_url_means_the_cluster_that_its_user_names_and_never_that_of_the_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for target in (run.url, run):
        with pytest.raises(UntrustedRun) as caught:
            repair_spec(run, target)
        assert f"{run.url}/{RUN_FILE} names the Ray cluster gone:6379" in str(caught.value)
        assert "--address gone:6379" in str(caught.value)
        assert repair_spec(run, target, "here:6379").cluster.address == "here:6379"
        assert repair_spec(run, target, "local").cluster.address == "local"
    monkeypatch.setattr(module, "is_chosen", lambda: True)  # by RAY_ADDRESS, or a notebook's Ray
    assert repair_spec(run, run.url).cluster.address is None


@pytest.mark.parametrize("address", [None, "local"])
def test_a_run_of_one_machine_is_repaired_on_one_machine(run: Run, address: str | None) -> None:
    own = started_on(run, ClusterSpec(address=address, drain_s=5))
    spec = repair_spec(own, own.url)
    assert (spec.cluster.address, spec.cluster.drain_s) == (None, 5)
    assert spec.changes(own.spec) == []


def test_pickles_are_loaded_only_if_the_user_or_the_job_allows_them(run: Run) -> None:
    pickled = with_pickles(run)
    with pytest.raises(UntrustedRun, match=r"run\.json says model\.allow_pickle: true"):
        repair_spec(pickled, pickled.url)
    assert repair_spec(pickled, pickled.url, allow_pickle=True).model.allow_pickle
    assert repair_spec(pickled, pickled.spec).model.allow_pickle
    with pytest.raises(UntrustedRun):
        repair_spec(pickled, with_pickles(run, allowed=False).spec)
    safe = with_pickles(run, allowed=False)
    assert not repair_spec(safe, safe.url, allow_pickle=True).model.allow_pickle


def test_a_repair_has_its_own_failure_limit_and_not_the_job_s(run: Run) -> None:
    assert repair_spec(run, run.url, "local").cluster.max_failures is None
    assert repair_spec(run, run.url, "local", 12).cluster.max_failures == 12
    assert repair_spec(run, run.url, "local", "5%").cluster.max_failures == "5%"


def test_no_command_contacts_the_cluster_or_loads_the_pickles_that_a_downloaded_run_names(
    run: Run, head: socket.socket
) -> None:
    record = json.loads(run.store.read(RUN_FILE))
    record["spec"]["cluster"]["address"] = f"127.0.0.1:{head.getsockname()[1]}"
    run.store.put(RUN_FILE, json.dumps(record).encode())
    image = f"{run.url}/images/00000000_00.png"
    commands = {
        2: (["retry", run.url], ["verify", "--repair", run.url]),
        0: (["status", run.url], ["verify", run.url]),
    }
    for code, lines in commands.items():
        for words in lines:
            result = CliRunner().invoke(command, words)
            assert result.exit_code == code, result.output
    record["spec"]["model"]["allow_pickle"] = True
    record["spec"]["cluster"]["address"] = None
    run.store.put(RUN_FILE, json.dumps(record).encode())
    for words in (["retry", run.url], ["verify", "--repair", run.url], ["reproduce", image]):
        result = CliRunner().invoke(command, words)
        assert result.exit_code == 2, result.output
        assert "allow_pickle: true, and loading a pickle runs code" in result.output
        assert len(result.output.splitlines()) == 1
    with pytest.raises(BlockingIOError):
        head.accept()
