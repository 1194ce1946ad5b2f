"""Carried columns arrive untouched, whatever their type and the kind of output."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.arrow_types import arrow_columns
from support.fakes.fake_runs import FakeSampler, make_shard, work_on
from support.plans import MODEL, job

from nightpress.pipelines import open_run
from nightpress.pipelines.image_files.packing import members_of
from nightpress.pipelines.manifest.python_values import (
    nanoseconds_as_text,
    python_rows,
    python_values,
)
from nightpress.pipelines.planning import check, read_shard, write_plan
from nightpress.pipelines.reporting.report import write_report
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RUN_FILE, new_record
from nightpress.pipelines.run_directory.verify import verify
from nightpress.pipelines.storage import Store

ORDER = [0, 0, 1, 2, 1, 1, 2, 0]
"""The example values in the rows of the metadata: two files, whose first rows make two images."""


def run_with(folder: Path, columns: dict[str, pa.Array], packing: str) -> Run:
    """A whole run over two files that hold the same values in another order."""
    for name, start in (("a", 0), ("b", 1)):
        settings = {"prompt": ["x", "y", "z"], "num_images": [2, 1, 1]}
        carried = {name: _from(start, column) for name, column in columns.items()}
        pq.write_table(pa.table(settings | carried), folder / f"{name}.parquet", row_group_size=2)
    files = [folder / "a.parquet", folder / "b.parquet"]
    sizes = {"size": 4, "shard_size": 4}
    spec = job(folder, files, images={"packing": packing}, batch=sizes)
    layout = check(spec, MODEL, 4)
    store, record = Store(spec.url), new_record(spec, MODEL, "cpu", 4, layout)
    store.create(RUN_FILE, record.to_json())
    list(write_plan(spec, MODEL, layout, store))
    for shard in range(layout.num_shards):
        rows = read_shard(store, layout, shard)
        make_shard(store, record, rows, FakeSampler(), work_on(rows, shard))
    return open_run(spec.url)


def _from(start: int, column: pa.Array) -> pa.Array:
    return pa.concat_arrays([column.slice(start), column.slice(0, start)])


@pytest.fixture
def columns() -> dict[str, pa.Array]:
    return arrow_columns()


@pytest.mark.parametrize("packing", ["none", "webdataset", "parquet"])
def test_a_column_of_every_type_arrives_in_every_kind_of_output(
    tmp_path: Path, columns: dict[str, pa.Array], packing: str
) -> None:
    run = run_with(tmp_path, columns, packing)
    metadata = run.metadata.to_table().sort_by("image_id")
    for name, column in columns.items():
        given = python_values(pa.chunked_array([column]))
        assert python_values(metadata[name]) == [given[row] for row in ORDER], name
    assert len(list(run.images())) == len(ORDER)
    assert [finding for part in verify(run) for finding in part.findings] == []
    write_report(run, run.store)


def test_whole_numbers_and_times_are_exact_in_the_json_of_a_webdataset(
    tmp_path: Path, columns: dict[str, pa.Array]
) -> None:
    run = run_with(tmp_path, columns, "webdataset")
    path = run.packs[0].removeprefix(f"{run.url}/")
    members = dict(members_of(path, run.store.read(path)))
    facts = json.loads(members["00000000_00.json"])
    assert (facts["int64"], facts["uint64"]) == (2**53 + 1, 0)
    assert facts["map"] == [["k", 2**53 + 1]]
    assert facts["timestamp_ns"] == "1970-01-01 00:00:00.000000001"
    assert facts["decimal128"] == "0.1000000000"


def test_times_that_python_does_not_have_are_shown_as_text() -> None:
    table = pa.table({"late": pa.array([2**58], pa.timestamp("us")), "n": [1]})
    assert python_rows(table) == [{"late": "11103-08-29 17:22:31.711744", "n": 1}]
    assert python_rows(table.select([])) == [{}]
    inside = pa.table({"at": pa.array([[1]], pa.list_(pa.timestamp("ns")))})
    assert nanoseconds_as_text(inside).to_pylist() == [{"at": ["1970-01-01 00:00:00.000000001"]}]
