"""The runs of an output folder: states, codes, counts and costs, read from the store alone."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.made_runs import begin, commit, finish, made
from support.servers import Folder

from nightpress import list_runs
from nightpress.jobs.commands.runs import table_of
from nightpress.pipelines import Run
from nightpress.pipelines.errors import RunNotFound
from nightpress.pipelines.run_directory.lease import acquire
from nightpress.pipelines.run_directory.log import line_of
from nightpress.pipelines.storage import Store, remote
from nightpress.pipelines.storage.drivers import open_driver


def write_start(run: Run, lease: int, event: str = "ended", **values: Any) -> None:
    """The log of a start, as it left it."""
    known: dict[str, Any] = {
        "lease": lease,
        "command": "run",
        "started_at": "2027-01-15T22:00:00.000+00:00",
        "elapsed_s": 60.0,
        "num_images": 10,
        "num_done": 10,
        "num_failed": 1,
        "num_made": 10,
        "num_retries": 0,
        "num_actors_lost": 0,
        "actor_s": 30.0,
        "gpus_per_actor": 1.0,
        "cost": 2.0,
        "currency": "EUR",
    }
    line = line_of(event, known | values)
    run.store.put(f"log/{lease:05d}-00000.jsonl", line.encode())


def named(output: Path, name: str) -> Run:
    return begin(str(output), name=name)


def test_each_run_has_its_state_code_images_time_and_cost(tmp_path: Path) -> None:
    ok = named(tmp_path, "a-finished")
    finish(ok)
    write_start(ok, 1, state="stopped", exit_code=4)
    write_start(ok, 2, state="finished", exit_code=3)
    stopped = named(tmp_path, "b-stopped")
    commit(stopped, 0, [made(stopped, n) for n in range(4)])
    write_start(stopped, 1, state="stopped", exit_code=4, reason="the deadline is near")
    killed = named(tmp_path, "c-killed")
    write_start(killed, 1, "progress", time="2027-01-15T23:00:00+00:00")
    failed = named(tmp_path, "d-failed")
    write_start(failed, 1, state="failed", exit_code=1, reason="a bug")
    old = named(tmp_path, "e-old")
    commit(old, 0, [made(old, n) for n in range(4)])
    runs = {run.name: run for run in list_runs(str(tmp_path))}
    assert {name: (run.state, run.exit_code) for name, run in runs.items()} == {
        "a-finished": ("finished", 3),
        "b-stopped": ("stopped", 4),
        "c-killed": ("killed", None),
        "d-failed": ("failed", 1),
        "e-old": ("unfinished", None),
    }
    first = runs["a-finished"]
    assert (first.num_images, first.num_done, first.num_failed) == (10, 10, 1)
    assert (first.duration_s, first.num_starts, first.gpu_s) == (120.0, 2, 60.0)
    assert first.cost is not None
    assert (first.cost.amount, first.cost.per_image) == (4.0, 0.4)
    assert (runs["b-stopped"].num_done, runs["b-stopped"].reason) == (4, "the deadline is near")
    assert runs["e-old"].num_done == 4
    assert table_of(list(runs.values())).row_count == 5


def test_a_start_runs_while_its_lease_and_its_log_are_alive(tmp_path: Path) -> None:
    run = named(tmp_path, "night")
    lease = acquire(run.store)
    write_start(run, 1, "progress")
    assert [each.state for each in list_runs(str(tmp_path))] == ["running"]
    old = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    write_start(run, 1, "progress", time=old)
    assert [each.state for each in list_runs(str(tmp_path))] == ["killed"]
    write_start(run, 1, "progress")
    lease.release()
    assert [each.state for each in list_runs(str(tmp_path))] == ["killed"]


def test_a_retry_that_mends_everything_leaves_a_run_that_is_ok(tmp_path: Path) -> None:
    run = named(tmp_path, "night")
    finish(run)
    write_start(run, 1, state="finished", exit_code=3)
    write_start(run, 2, command="retry", state="finished", exit_code=0, num_failed=0)
    assert [each.exit_code for each in list_runs(str(tmp_path))] == [0]
    write_start(run, 3, command="retry", state="stopped", exit_code=4)
    (found,) = list_runs(str(tmp_path))  # the images are what counts; one of them has failed
    assert (found.state, found.exit_code) == ("finished", 3)


def test_a_run_that_cannot_be_read_is_listed_with_the_reason(tmp_path: Path) -> None:
    finish(named(tmp_path, "good"))
    Store(str(tmp_path / "bad")).put("run.json", b"{")
    Store(str(tmp_path / "empty")).put("notes.txt", b"")
    runs = {run.name: run for run in list_runs(str(tmp_path))}
    assert set(runs) == {"good", "bad"}
    assert runs["bad"].state == "unreadable"
    assert "not the record of a run" in (runs["bad"].reason or "")
    assert table_of(list(runs.values())).row_count == 2


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("created_at", "yesterday"),
        ("created_at", "2027-01-15T08:00:00"),
        ("created_at", 5),
        ("plan", {"parts": [{"num_images": "many"}]}),
        ("plan", []),
        ("spec", []),
        ("model", {}),
        ("measured", [1]),
        ("format_version", 99),
        ("format_version", "1"),
    ],
)
def test_a_foreign_record_costs_the_list_one_line(tmp_path: Path, key: str, wrong: Any) -> None:
    finish(named(tmp_path, "good"))
    bad = named(tmp_path, "bad")
    values = json.loads(bad.store.read("run.json"))
    bad.store.put("run.json", json.dumps(values | {key: wrong}).encode())
    runs = {run.name: run for run in list_runs(str(tmp_path))}
    assert (runs["good"].state, runs["bad"].state) == ("finished", "unreadable")
    assert table_of(list(runs.values())).row_count == 2


def test_what_is_no_output_folder_is_refused(tmp_path: Path) -> None:
    run = named(tmp_path, "night")
    with pytest.raises(RunNotFound, match="this is a run"):
        list_runs(run.url)
    with pytest.raises(RunNotFound, match="no runs here"):
        list_runs(str(tmp_path / "elsewhere"))


def test_all_runs_of_a_bucket_are_read_through_one_connection(
    bucket: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open a driver takes longer than to read a run."""
    data = named(tmp_path, "night").store.read("run.json")
    store = Store(bucket.url, bucket.options)
    for path in (*(f"night-{number}/run.json" for number in range(3)), "notes/a.txt"):
        store.put(path, data)
    opened = []

    def counted(*arguments: Any, **options: Any) -> tuple[Any, str]:
        opened.append(arguments)
        return open_driver(*arguments, **options)

    monkeypatch.setattr(remote, "open_driver", counted)
    runs = list_runs(bucket.url, storage=bucket.options)
    assert [run.name for run in runs] == ["night-0", "night-1", "night-2"]
    assert len(opened) == 1
