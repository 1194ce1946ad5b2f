"""Repairing a run without a cluster: plan parts rewritten, orphans deleted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fakes.fake_runs import finished_run
from support.servers import Server

from nightpress.jobs.commands.verify import _orphan_lines
from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.repair import delete_orphans, repair_rows, rewrite_plan_parts
from nightpress.jobs.runs.retry import failed_amendments
from nightpress.jobs.runs.shared import READS_BACK
from nightpress.jobs.runs.verify import verify
from nightpress.pipelines import Run
from nightpress.pipelines.errors import LeaseLost, RunHeld
from nightpress.pipelines.planning import units
from nightpress.pipelines.run_directory.commit import failed_rows
from nightpress.pipelines.run_directory.lease import acquire, current_process
from nightpress.pipelines.run_directory.thumbs import store_atlas, store_index
from nightpress.pipelines.run_directory.verify import orphan_images
from nightpress.pipelines.shards.work import Amendment
from nightpress.pipelines.storage import Store

PROMPTS = [f"picture {n}" for n in range(6)] + ["nan", "nan too"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(*finished_run(tmp_path, PROMPTS))


def test_failed_rows_are_found_by_shard(run: Run) -> None:
    assert failed_amendments(run) == {1: Amendment((2, 3))}


def test_a_plan_is_rewritten_only_as_long_as_the_lease_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 4)
    run = Run(*finished_run(tmp_path, PROMPTS))
    parts = [part.path for part in run.record.layout.parts]
    assert len(parts) == 2
    for path in parts:
        run.store.put(path, b"cut")
    plain = Store.put

    def put_and_lose_the_lease(store: Store, path: str, data: bytes) -> None:
        plain(store, path, data)
        if path == parts[0]:
            plain(store, "lease/00009.json", current_process().to_json())

    monkeypatch.setattr(Store, "put", put_and_lose_the_lease)
    with pytest.raises(LeaseLost):
        rewrite_plan_parts(run, [0, 1])
    assert run.store.read(parts[0]) != b"cut"
    assert run.store.read(parts[1]) == b"cut"


def test_no_orphan_is_deleted_while_another_process_works_on_the_run(run: Run) -> None:
    run.store.put("images/old.png", b"old")
    other = acquire(run.store, heartbeat_s=0.1)
    with pytest.raises(RunHeld):
        delete_orphans(run)
    other.release()
    assert orphan_images(run) == ["images/old.png"]
    assert delete_orphans(run) == ("images/old.png",)
    assert orphan_images(run) == []


def test_thumbnails_of_what_was_made_again_are_deleted_with_the_orphans(run: Run) -> None:
    thumb = np.zeros((8, 8, 3), np.uint8)
    stale = store_atlas(run.store, 0, {0: ("00000000_00", "e" * 64)}, {0: thumb})
    current = store_atlas(run.store, 0, {1: next(iter(run.hashes().items()))}, {1: thumb})
    named = sorted([stale.path, store_index(run.store, 0, [stale])])
    kept = sorted([current.path, store_index(run.store, 0, [current])])
    run.store.put("images/old.png", b"old")
    text = "\n".join(_orphan_lines(verify(run)))
    assert "1 image and 2 thumbnail files that no commit names, kept; --remove-orphans" in text
    assert delete_orphans(run) == ("images/old.png", *named)
    assert sorted(run.store.list("thumbs")) == kept
    assert verify(run).orphans == ()


@pytest.mark.parametrize(
    "repair",
    [
        lambda run, on_event: repair_rows(run, run.record.spec, failed_amendments(run), on_event),
        lambda run, on_event: rewrite_plan_parts(run, [0], on_event),
        lambda run, on_event: delete_orphans(run, on_event),
    ],
    ids=["rows", "plan", "orphans"],
)
def test_a_repair_says_whose_heartbeat_it_watches(run: Run, repair: Callable[..., object]) -> None:
    other = acquire(run.store, heartbeat_s=0.1)
    said: list[Any] = []
    with pytest.raises(RunHeld):
        repair(run, said.append)
    other.release()
    assert [type(event) for event in said] == [Message]
    assert said[0].text.endswith(
        "may still be working on this run; watching its heartbeat for 30 s"
    )


def test_a_deletion_that_is_taken_over_puts_back_what_the_next_start_may_have_adopted(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.store.put("images/old.png", b"old")
    plain = Store.delete

    def delete_after_a_long_sleep(store: Store, path: str) -> None:
        if path == "images/old.png":
            store.put("lease/00009.json", current_process().to_json())
        plain(store, path)

    monkeypatch.setattr(Store, "delete", delete_after_a_long_sleep)
    with pytest.raises(LeaseLost):
        delete_orphans(run)
    assert run.store.read("images/old.png") == b"old"


def test_on_a_store_without_conditional_writes_deleting_orphans_warns_and_reads_back(
    run: Run, rclone_s3: Server
) -> None:
    folder = rclone_s3.folder()
    remote = Store(f"{folder.url}/run", folder.options)
    for path in run.store.list():
        remote.put(path, run.store.read(path))
    remote.put("images/old.png", b"old")
    messages: list[Any] = []
    assert delete_orphans(Run(remote, run.record), messages.append) == ("images/old.png",)
    assert messages == [Message(READS_BACK, warning=True)]
    assert failed_rows(remote, 1) == (2, 3)
