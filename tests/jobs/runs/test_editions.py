"""Runs of many editions: killed at any write, raced for, and read by everything that reads runs."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from support.fakes.fake_runs import finished_run
from support.growing_runs import DyingStore, Killed, Row, begin, cats, extend, grow, make
from support.picture_files import png
from support.pictured_runs import PICTURED
from support.plans import MODEL, write
from support.run_files import hashes

from nightpress.jobs.errors import RunStopped
from nightpress.jobs.runs.existing_run import compare_with_run
from nightpress.jobs.runs.extend_options import ExtendOptions
from nightpress.jobs.runs.extension import (
    add_edition,
    compare,
    require_no_new_edition,
)
from nightpress.jobs.runs.list_runs import list_runs
from nightpress.jobs.runs.repair import rewrite_plan_parts
from nightpress.jobs.runs.retry import failed_amendments
from nightpress.jobs.runs.status import RunStatus, status
from nightpress.jobs.runs.table_manifest import kept_job
from nightpress.jobs.runs.verify import verify
from nightpress.pipelines import open_run
from nightpress.pipelines.errors import ChangedRunError, Damaged, ManifestError, ManifestGrown
from nightpress.pipelines.job.review_section import ReviewSpec
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import read_shard, write_plan
from nightpress.pipelines.planning.input_hashes import read_hashes
from nightpress.pipelines.reporting.report import write_report
from nightpress.pipelines.run_directory.editions import read_editions
from nightpress.pipelines.run_directory.lease import held, require_free
from nightpress.pipelines.run_directory.record import RunRecord, require_record
from nightpress.pipelines.storage import Store

FEW = {"batch": {"size": 2, "shard_size": 2}}


def finished(folder: Path, rows: list[Row], **values: object) -> RunSpec:
    spec = begin(folder, rows, **FEW | values)
    make(spec)
    return spec


def grown(folder: Path, packing: str = "none") -> RunSpec:
    """A finished run of two editions."""
    spec = finished(folder, cats(1, 2, 3, mood="glad"), images={"packing": packing})
    extend(spec, [*cats(1, 2, 3, mood="glad"), *cats(4, 5, mood="sad", year=1990)])
    make(spec)
    return spec


def carry_out(spec: RunSpec, store: Store) -> list[int]:
    """What `run --extend` does; returns the seeds that were sampled."""
    extend(spec, None, "new-variant", store)
    return make(spec, store)


@pytest.mark.parametrize("packing", ["none", "webdataset", "parquet"])
def test_all_that_reads_runs_reads_a_run_of_editions(tmp_path: Path, packing: str) -> None:
    spec = grown(tmp_path, packing)
    run = open_run(spec.url)
    table = run.metadata.to_table().sort_by("image_id")
    assert table.column("image_id").to_pylist() == [f"r{n}_00" for n in range(1, 6)]
    assert table.column("mood").to_pylist() == ["glad"] * 3 + ["sad"] * 2
    assert table.column("year").to_pylist() == [None] * 3 + [1990] * 2
    assert verify(spec).findings == ()
    assert verify(spec).num_uncommitted == 0
    assert sorted(row["id"] for row, _ in run.images()) == ["r1", "r2", "r3", "r4", "r5"]
    assert run.row("r5_00") is not None
    found = status(spec)
    assert isinstance(found, RunStatus)
    assert found.progress.complete
    assert (found.progress.num_images, found.num_editions) == (5, 1)
    (listed,) = list_runs(spec.output)
    assert (listed.num_images, listed.num_done) == (5, 5)
    write_report(run, run.store)
    assert "2 images came" in run.store.read("report.html").decode()
    extend(spec, cats(1, mood="glad"))
    write_report(open_run(spec.url), run.store)
    assert "not in the manifest any more" in run.store.read("report.html").decode()


def test_a_killed_extend_ends_with_the_images_wanted_and_makes_none_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    spec = finished(home, cats(1, 2, 3), columns={})
    earlier = hashes(spec)
    old = {row.as_py() for row in seeds(spec)}
    write(home / "m.jsonl", [*cats(1, 3, 4, 5, 6), {"id": "r2", "prompt": "dog"}])
    kept = tmp_path / "kept"
    shutil.copytree(home, kept)
    store = DyingStore(spec.url)
    sampled = carry_out(spec, store)
    wanted, num_writes = hashes(spec), store.num_writes
    assert len(sampled) == len(wanted) - len(earlier) == 4
    assert num_writes > 8
    for place in range(num_writes):
        shutil.rmtree(home)
        shutil.copytree(kept, home)
        store = DyingStore(spec.url)
        store.writes_left = place
        with pytest.raises(Killed):
            carry_out(spec, store)
        again = carry_out(spec, Store(spec.url))
        assert hashes(spec) == wanted
        assert {name: wanted[name] for name in earlier} == earlier
        assert old.isdisjoint(again)
        assert len(read_editions(Store(spec.url))) == 1


def seeds(spec: RunSpec) -> pa.ChunkedArray:
    return open_run(spec.url).metadata.to_table().column("seed")


def test_of_two_that_extend_at_once_one_wins_and_the_other_goes_on_with_it(tmp_path: Path) -> None:
    spec = finished(tmp_path, cats(1, 2))
    store = Store(spec.url)
    free, record = require_free(store), require_record(store)
    write(tmp_path / "m.jsonl", cats(1, 2, 3))
    changes = compare_with_run(store, record, spec).manifest_changes
    options = ExtendOptions(True)
    mine, other = (
        compare(store, record, spec, changes, options).checked(store, MODEL) for _ in range(2)
    )
    with held(store, free) as lease:
        first = add_edition(store, other, lease)
        assert add_edition(store, mine, lease).editions == first.editions
        with pytest.raises(RunStopped, match="has extended this run meanwhile"):
            require_no_new_edition(store, record)
    assert require_record(store) == first


def test_who_loses_with_another_manifest_is_told_of_the_other(tmp_path: Path) -> None:
    spec = finished(tmp_path, cats(1, 2))
    store = Store(spec.url)
    free, record = require_free(store), require_record(store)
    extensions = []
    for rows in (cats(1, 2, 3), cats(1, 2, 4)):
        write(tmp_path / "m.jsonl", rows)
        changes = compare_with_run(store, record, spec).manifest_changes
        extension = compare(store, record, spec, changes, ExtendOptions(True))
        extensions.append(extension.checked(store, MODEL))
    with held(store, free) as lease:
        winner = add_edition(store, extensions[0], lease)
        with pytest.raises(ChangedRunError, match=r"manifest .*m\.jsonl"):
            add_edition(store, extensions[1], lease)
    assert require_record(store) == winner


def test_rows_that_failed_in_an_edition_can_be_retried(tmp_path: Path) -> None:
    spec = finished(tmp_path, cats(1, 2))
    extend(spec, [*cats(1, 2, 3), {"id": "r4", "prompt": "nan"}])
    make(spec)
    run = open_run(spec.url)
    ((shard, amendment),) = failed_amendments(run).items()
    rows = read_shard(run.store, run.record.layout, shard)
    (row,) = amendment.rows
    assert rows.column("image_id")[row].as_py() == "r4_00"


def test_a_part_of_an_edition_is_planned_again_without_the_manifest(tmp_path: Path) -> None:
    spec = grown(tmp_path)
    path = Path(spec.url, "plan/part-00001.parquet")
    before = path.read_bytes()
    path.write_bytes(b"damaged")
    (tmp_path / "m.jsonl").unlink()
    run = open_run(spec.url)
    last = run.record.layout.num_shards - 1
    rewrite_plan_parts(run, [last])
    assert path.read_bytes() == before


def test_a_damaged_part_of_the_run_itself_needs_the_manifest_as_it_was(tmp_path: Path) -> None:
    spec = grown(tmp_path)
    Path(spec.url, "plan/part-00000.parquet").write_bytes(b"damaged")
    with pytest.raises(ChangedRunError):
        rewrite_plan_parts(open_run(spec.url), [0])
    with pytest.raises(ManifestGrown, match=r"plan/part-00000\.parquet is missing or damaged"):
        extend(spec, cats(1))


def test_an_edition_that_is_damaged_or_missing_is_not_passed_over(tmp_path: Path) -> None:
    spec = grown(tmp_path)
    extend(spec, cats(1, mood="glad"))
    first = Path(spec.url, "editions/0001.json")
    data = first.read_bytes()
    first.write_bytes(data[:100])
    with pytest.raises(Damaged, match=r"editions/0001\.json: not an edition"):
        open_run(spec.url)
    first.unlink()
    with pytest.raises(Damaged, match=r"editions/0001\.json: this edition is missing"):
        open_run(spec.url)


def test_an_edition_says_who_made_it_and_what_went(tmp_path: Path) -> None:
    spec = grown(tmp_path)
    record = extend(spec, cats(1, 2, mood="glad"))
    edition = record.editions[-1]
    assert "process" in edition.by
    assert edition.summary.went.first == ("r3_00", "r4_00", "r5_00")
    found = status(spec)
    assert isinstance(found, RunStatus)
    assert (found.num_editions, found.num_gone) == (2, 3)
    assert verify(spec).findings == ()


def test_a_moved_run_reads_its_editions_where_it_lies(tmp_path: Path) -> None:
    spec = grown(tmp_path)
    shutil.move(spec.url, tmp_path / "elsewhere")
    run = open_run(str(tmp_path / "elsewhere"))
    (file,) = run.record.layout.sections[1].files
    assert Path(file.url).parent == tmp_path / "elsewhere/editions"


def test_a_moved_run_of_a_table_finds_the_table_that_it_was_extended_with(tmp_path: Path) -> None:
    record = require_record(Store(finished(tmp_path, cats(1)).url))
    (file,) = record.manifest
    table = replace(file, url=f"{tmp_path}/out/run/manifest/table-0123456789abcdef.parquet")
    edition = replace(extend(record.spec, cats(1, 2)).editions[0], manifest=(table,))
    job = record.spec.model_copy(update={"output": "elsewhere"})
    kept = kept_job(job, replace(record, editions=(edition,)))
    assert kept.manifest == f"{job.url}/manifest/table-0123456789abcdef.parquet"


def test_a_large_edition_of_a_small_run_has_shards_of_its_own_size(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1), batch={"size": 2})
    extend(spec, cats(*range(1, 20)))
    record: RunRecord = require_record(Store(spec.url))
    assert record.layout.num_images == 19
    assert sum(map(record.layout.shard_images, range(record.layout.num_shards))) == 19


def test_a_carried_column_whose_type_changes_for_good_is_refused(tmp_path: Path) -> None:
    spec = finished(tmp_path, cats(1, when=[1]))
    with pytest.raises(ManifestError, match="no type holds the values of both"):
        grow(spec, [{"id": "r1", "prompt": "cat 1", "when": {"a": 1}}])


def test_pictures_of_new_rows_alone_are_checked_and_their_hashes_kept(tmp_path: Path) -> None:
    names = ["one.png", "two.png", "three.png"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(png(32, 32, number))
    rows = [{"id": name, "prompt": "a cat", "init_image": name} for name in names]
    inputs = {"root": str(tmp_path), "check": "decode"}
    spec = begin(tmp_path, rows[:1], info=PICTURED, inputs=inputs)
    (tmp_path / names[0]).unlink()
    record = extend(spec, rows, info=PICTURED)
    store = Store(spec.url)
    section = record.layout.sections[1]
    kept = read_hashes(store, section.input_hashes_path)
    assert sorted(kept.column("url").to_pylist()) == sorted(names[1:])
    planned = read_shard(store, record.layout, record.layout.num_shards - 1)
    hashed = [image["inputs"][0]["sha256"] for image in planned.to_pylist()]
    assert hashed == [hashlib.sha256((tmp_path / n).read_bytes()).hexdigest() for n in names[1:]]
    part = Path(spec.url, "plan/part-00001.parquet")
    before = part.read_bytes()
    part.unlink()
    list(write_plan(spec, PICTURED, record.layout, store))
    assert part.read_bytes() == before
    gone = [*rows, {"id": "4", "prompt": "a cat", "init_image": "four.png"}]
    with pytest.raises(ManifestError, match=r"four\.png"):
        extend(spec, gone, info=PICTURED)


def test_a_job_that_asks_for_thumbnails_only_now_gets_them_for_what_is_left(tmp_path: Path) -> None:
    store, record = finished_run(tmp_path, ["a", "b"])
    spec = record.spec.model_copy(update={"review": ReviewSpec(thumbs=True)})
    found = compare_with_run(store, record, spec)
    assert found.job_changes == ()
    assert found.record.spec.review.thumbs
    assert found.record.fingerprint == record.fingerprint
