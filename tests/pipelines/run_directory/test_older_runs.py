"""Runs of versions that knew no pictures: their plans and commits lack columns, and still work."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.fakes.fake_runs import FakeSampler, make_shard, work_on
from support.plans import MODEL

from nightpress.pipelines import Run, RunSpec, open_run
from nightpress.pipelines.planning import check, read_shard, write_plan
from nightpress.pipelines.records import (
    ADDED_AFTER_PASSES,
    ADDED_TO_METADATA,
    ADDED_TO_PLANS,
    ImageFacts,
    ImageRecord,
)
from nightpress.pipelines.reporting.report import REPORT_FILE, write_report
from nightpress.pipelines.run_directory.commit import (
    amend_commit,
    metadata_columns,
    read_commit,
    shard_path,
)
from nightpress.pipelines.run_directory.record import RUN_FILE, new_record
from nightpress.pipelines.run_directory.verify import verify
from nightpress.pipelines.shards.work import Amendment
from nightpress.pipelines.storage import Store

CARRIED = ("topic", "mode", "inputs")
"""Columns of the manifest; two of them have names that a later version uses itself."""

PROMPT_CUTS = {"prompt_cut", "negative_prompt_cut"}
LATER = [*ADDED_AFTER_PASSES]


def older_run(folder: Path, packing: str, carried: tuple[str, ...], aged: bool = True) -> Run:
    """A run of eight images in two shards; the second is not committed."""
    rows = [{"prompt": f"picture {n}"} | {c: f"{c} {n}" for c in carried} for n in range(8)]
    manifest = folder / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = RunSpec.from_dict(
        {
            "name": "night",
            "manifest": str(manifest),
            "output": str(folder / "runs"),
            "batch": {"size": 4, "shard_size": 4},
            "images": {"packing": packing},
        }
    )
    layout = check(spec, MODEL, 4)
    store, record = Store(spec.url), new_record(spec, MODEL, "cpu", 4, layout)
    list(write_plan(spec, MODEL, layout, store))
    make_shard(store, record, read_shard(store, layout, 0), FakeSampler())
    store.create(RUN_FILE, record.to_json())
    if aged:
        age(Path(store.url), json.loads(record.to_json()))
    return open_run(store.url)


def age(root: Path, record: dict[str, Any]) -> None:
    """Take out of a run directory what older versions did not write, and rename what they did."""
    for part, added in (
        (root / "plan/part-00000.parquet", ADDED_TO_PLANS | {"parent"}),
        (root / shard_path(0), ADDED_TO_METADATA | PROMPT_CUTS | {"parent", *LATER}),
    ):
        table = pq.read_table(part)
        kept = table.drop_columns([name for name in added if name in table.column_names])
        names = [name.removeprefix("manifest_") for name in kept.column_names]
        pq.write_table(kept.rename_columns(names), part)
    for section, keys in (("spec", ("inputs", "passes")), ("model", ("modes", "references"))):
        for key in keys:
            del record[section][key]
    (root / RUN_FILE).write_text(json.dumps(record))


@pytest.fixture(params=["none", "parquet"])
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Run:
    return older_run(tmp_path, request.param, CARRIED)


def test_an_older_run_is_sound(run: Run) -> None:
    assert [shard.findings for shard in verify(run)] == [()]


def test_its_rows_say_that_text_alone_made_the_images(run: Run) -> None:
    row = run.row("00000002_00")
    assert row is not None
    assert (row["mode"], row["strength"], row["inputs"], row["passes"]) == ("text", None, [], [])
    assert next(iter(run.images()))[1].size == (row["width"], row["height"])


def test_its_carried_columns_keep_their_values_under_names_that_are_free(run: Run) -> None:
    rows = run.metadata.to_table(filter=ds.field("id") == "00000002").to_pylist()
    assert [(row["topic"], row["manifest_mode"], row["manifest_inputs"]) for row in rows] == [
        ("topic 2", "mode 2", "inputs 2")
    ]
    assert rows[0]["prompt"] == "picture 2"


def test_a_start_of_this_version_goes_on_with_it(run: Run) -> None:
    rows = read_shard(run.store, run.record.layout, 1)
    make_shard(run.store, run.record, rows, FakeSampler(), work_on(rows, 1))
    assert [shard.findings for shard in verify(run)] == [(), ()]
    table = run.metadata.to_table().sort_by("id")
    assert table["manifest_mode"].to_pylist() == [f"mode {n}" for n in range(8)]


def test_rows_are_made_again_with_the_recorded_bytes(run: Run) -> None:
    before, rows = read_commit(run.store, 0), read_shard(run.store, run.record.layout, 0)
    work = work_on(rows, amends=Amendment((1, 2), replaces=True), look_first=True)
    make_shard(run.store, run.record, rows, FakeSampler(), work)
    assert read_commit(run.store, 0)["sha256"].equals(before["sha256"])
    assert [shard.findings for shard in verify(run)] == [()]


def test_a_commit_that_is_amended_gets_the_columns_of_this_version(run: Run) -> None:
    row = metadata_columns(read_commit(run.store, 0)).to_pylist()[1]
    facts = ImageFacts.from_dict(row)
    amend_commit(run.store, 0, {1: ImageRecord(facts, "failed", 1, "here:1", 0.0)})
    part = read_commit(run.store, 0)
    assert ADDED_TO_METADATA.issubset(part.column_names)
    assert part["mode"].to_pylist() == ["text"] * 4
    assert part["manifest_inputs"].to_pylist() == [f"inputs {n}" for n in range(4)]
    assert part["status"].to_pylist() == ["ok", "failed", "ok", "ok"]


def test_it_has_a_report(run: Run) -> None:
    write_report(run, run.store)
    page = run.store.read(REPORT_FILE).decode()
    assert "manifest_mode" in page
    assert "<th>Mode</th>" not in page


def test_an_older_run_without_such_columns_is_read_without_its_rows(tmp_path: Path) -> None:
    run = older_run(tmp_path, "none", ("topic",))
    assert isinstance(run.metadata, ds.FileSystemDataset)
    table = run.metadata.to_table(columns=["topic", "mode", "inputs"])
    assert table["topic"].to_pylist() == [f"topic {n}" for n in range(4)]
    assert table["mode"].null_count == 4
    assert pa.types.is_list(table["inputs"].type)


def test_a_column_parent_that_was_carried_before_it_had_a_meaning_is_still_carried(
    tmp_path: Path,
) -> None:
    run = parents_run(tmp_path)
    rows = read_shard(run.store, run.record.layout, 0)
    assert (rows["parent"].null_count, rows["manifest_parent"][1].as_py()) == (4, "parent 1")
    assert [shard.findings for shard in verify(run)] == [()]
    make_shard(
        run.store,
        run.record,
        read_shard(run.store, run.record.layout, 1),
        FakeSampler(),
        work_on(rows, 1),
    )
    assert [shard.findings for shard in verify(run)] == [(), ()]
    table = run.metadata.to_table().sort_by("id")
    assert table["parent"].null_count == 8
    assert table["manifest_parent"].to_pylist() == [f"parent {n}" for n in range(8)]
    assert run.row("00000002_00")["parent"] is None  # type: ignore[index]


def parents_run(folder: Path) -> Run:
    """A run of a version that knew pictures, but no images that are made again."""
    run = older_run(folder, "none", ("parent",), aged=False)
    for path in ("plan/part-00000.parquet", shard_path(0)):
        part = Path(run.url, path)
        table = pq.read_table(part).drop_columns(["parent"])
        names = [name.removeprefix("manifest_") for name in table.column_names]
        pq.write_table(table.rename_columns(names), part)
    return run


def test_carried_scores_of_older_versions_are_still_carried(tmp_path: Path) -> None:
    run = unscored_run(tmp_path, ("scores", "perceptual_hash"))
    rows = read_shard(run.store, run.record.layout, 0)
    assert rows["manifest_scores"].to_pylist() == [f"scores {n}" for n in range(4)]
    assert [shard.findings for shard in verify(run)] == [()]
    row = run.row("00000002_00")
    assert row is not None
    assert (row["scores"], row["perceptual_hash"]) == (None, None)
    make_shard(
        run.store,
        run.record,
        read_shard(run.store, run.record.layout, 1),
        FakeSampler(),
        work_on(rows, 1),
    )
    assert [shard.findings for shard in verify(run)] == [(), ()]
    table = run.metadata.to_table().sort_by("id")
    assert table["manifest_scores"].to_pylist() == [f"scores {n}" for n in range(8)]
    assert table["manifest_perceptual_hash"].to_pylist()[-1] == "perceptual_hash 7"
    assert pa.types.is_map(table["scores"].type)


def test_a_commit_without_scores_shows_null(tmp_path: Path) -> None:
    run = unscored_run(tmp_path, ("topic",))
    assert isinstance(run.metadata, ds.FileSystemDataset)
    table = run.metadata.to_table(columns=["topic", *ADDED_AFTER_PASSES])
    assert {table[name].null_count for name in ADDED_AFTER_PASSES} == {4}
    row = metadata_columns(read_commit(run.store, 0)).to_pylist()[1]
    facts = ImageFacts.from_dict(row)
    scored = ImageRecord(facts, "ok", 1, "here:1", 0.0, scores={"clip": 0.25, "text": None})
    part = amend_commit(run.store, 0, {1: scored})
    assert part["scores"].to_pylist() == [None, [("clip", 0.25), ("text", None)], None, None]
    assert part["topic"].to_pylist() == [f"topic {n}" for n in range(4)]
    assert run.row(row["image_id"])["scores"] == {"clip": 0.25, "text": None}  # type: ignore[index]


def unscored_run(folder: Path, carried: tuple[str, ...]) -> Run:
    """A run of a version that knew images that are made again, but no scores."""
    run = older_run(folder, "none", carried, aged=False)
    part = Path(run.url, shard_path(0))
    pq.write_table(pq.read_table(part).drop_columns(LATER), part)
    for path in (Path(run.url, "plan/part-00000.parquet"), part):
        table = pq.read_table(path)
        names = [name.removeprefix("manifest_") for name in table.column_names]
        pq.write_table(table.rename_columns(names), path)
    return run
