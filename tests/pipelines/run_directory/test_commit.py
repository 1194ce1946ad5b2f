"""Commits after they are made: read in part, amended, sealed and replaced."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from support.made_runs import begin, failed, finish, made
from support.servers import Folder

from nightpress.pipelines.errors import Damaged, LeaseLost, StoreMissing
from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.run_directory.commit import (
    amend_commit,
    failed_rows,
    metadata_part,
    read_commit,
    recommit_shard,
    seal_commit,
    shard_path,
)
from nightpress.pipelines.run_directory.lease import FencingToken, current_process
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import Store


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Three shards; row 1 of the second one has failed."""
    found = begin(str(tmp_path))
    finish(found)
    return found


def made_by(worker: str, record: ImageRecord) -> ImageRecord:
    return replace(record, worker=worker)


def test_single_columns_of_a_commit_can_be_read(run: Run) -> None:
    assert read_commit(run.store, 1, ["sha256"]).column_names == ["sha256"]
    assert failed_rows(run.store, 1) == (1,)
    assert failed_rows(run.store, 2) == ()


def test_images_that_gates_rejected_are_not_among_the_failed_rows(run: Run) -> None:
    part = read_commit(run.store, 1)
    types = ["Rejected" if each else None for each in part.column("error_type").to_pylist()]
    position = part.schema.get_field_index("error_type")
    rejected = part.set_column(position, part.schema.field(position), pa.array(types))
    recommit_shard(run.store, 1, rejected)
    assert failed_rows(run.store, 1) == ()


def test_sealing_keeps_the_rows_of_a_commit(run: Run) -> None:
    before, stored = read_commit(run.store, 1), run.store.read(shard_path(1))
    seal_commit(run.store, 1, FencingToken(7, "mine"))
    assert run.store.read(shard_path(1)) != stored
    assert read_commit(run.store, 1).equals(before)
    sealed = run.store.read(shard_path(1))
    seal_commit(run.store, 1, FencingToken(7, "mine"))
    assert run.store.read(shard_path(1)) == sealed


def test_a_damaged_commit_is_replaced_by_a_new_one(run: Run) -> None:
    before = read_commit(run.store, 0)
    run.store.put(shard_path(0), run.store.read(shard_path(0))[:-5])
    with pytest.raises(Damaged, match="--repair"):
        failed_rows(run.store, 0)
    records = [made(run, n) for n in range(4)]
    rows = pa.table({"image_id": [r.facts.image_id for r in records]})
    recommit_shard(run.store, 0, metadata_part(records, rows))
    again = read_commit(run.store, 0)
    assert again.column("sha256") == before.column("sha256")


def test_a_shard_without_a_commit_cannot_be_amended(run: Run) -> None:
    run.store.delete(shard_path(0))
    with pytest.raises(StoreMissing):
        amend_commit(run.store, 0, {0: made(run, 0)})


def test_a_process_that_lost_the_lease_while_it_slept_amends_nothing(
    run: Run, run_url: Folder
) -> None:
    store = Store(f"{run_url.url}/run", run_url.options)
    for path in run.store.list():
        store.put(path, run.store.read(path))
    store.create("lease/00001.json", current_process().to_json())

    class Sleeper(Store):
        """Sleeps right before it replaces, while another process takes over."""

        def replace(self, path: str, data: bytes, seen: bytes) -> bool:
            if store.create("lease/00002.json", current_process().to_json()):
                amend_commit(store, 1, {1: made_by("the next", made(run, 5))})
            return super().replace(path, data, seen)

    sleeper = Sleeper(store.url, store.options)
    with pytest.raises(LeaseLost):
        amend_commit(
            sleeper, 1, {1: made_by("the sleeper", failed(run, 5))}, FencingToken(1, "mine")
        )
    row = read_commit(store, 1).to_pylist()[1]
    assert (row["worker"], row["status"]) == ("the next", "ok")
