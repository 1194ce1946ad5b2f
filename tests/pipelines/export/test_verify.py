"""Verifying an export: every kind of damage is found, and a sound export has none."""

from dataclasses import replace
from pathlib import Path

import pytest
from support import made_runs
from support.exports import SPLIT, files_of, finished_run, spec_of, written
from support.slow_cases import slow_except

from nightpress.pipelines import Run
from nightpress.pipelines.export.index import index_rows, listed_entries, read_index
from nightpress.pipelines.export.layouts.registry import WRITERS
from nightpress.pipelines.export.spec import WITHOUT_SPLITS, ExportSpec
from nightpress.pipelines.export.verify import (
    ExportCheck,
    ExportDamage,
    ExportFinding,
    orphans,
    verify_files,
    verify_shards,
)
from nightpress.pipelines.run_directory.commit import amend_commit, shard_path
from nightpress.pipelines.storage import Store

LAYOUTS = sorted(set(WRITERS) - {"preference"})  # test_preferences.py has that


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return finished_run(tmp_path / "press")


def checked(spec: ExportSpec, sample: float = 1.0) -> tuple[int, list[ExportFinding], list[str]]:
    """Images read, findings, orphans."""
    store = Store(spec.url)
    stores = tuple(Store(url) for url in spec.runs)
    check = ExportCheck(store, stores, spec.layout, spec.metadata == "full", sample)
    shards = list(verify_shards(check, list(listed_entries(store).values())))
    findings = [finding for shard in shards for finding in shard.findings]
    names = [shard.names for shard in shards]
    return sum(shard.num_checked for shard in shards), findings, orphans(store, names)


@pytest.mark.parametrize("metadata", slow_except(["full", "minimal"], "full"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sound_export_has_no_findings(
    run: Run, tmp_path: Path, layout: str, metadata: str
) -> None:
    spec = spec_of(tmp_path, run.url, layout=layout, metadata=metadata)
    written(spec)
    before = files_of(spec.url)
    assert checked(spec) == (9, [], [])
    assert files_of(spec.url) == before


@pytest.mark.parametrize("layout", slow_except(LAYOUTS, "hf-parquet", "webdataset"))
def test_a_missing_and_a_changed_object_are_found(run: Run, tmp_path: Path, layout: str) -> None:
    split = None if layout in WITHOUT_SPLITS else SPLIT
    spec = spec_of(tmp_path, run.url, layout=layout, split=split)
    written(spec)
    store = Store(spec.url)
    for path in listed_entries(store).values():
        for stored in read_index(store, path).objects:
            data = store.read(stored.path)
            store.delete(stored.path)
            _, (missing,), _ = checked(spec)
            assert (missing.damage, missing.path) == (ExportDamage.MISSING, stored.path)
            store.put(stored.path, data[:-1] + bytes([data[-1] ^ 1]))
            _, (changed,), _ = checked(spec)
            assert (changed.damage, changed.path) == (ExportDamage.CHANGED, stored.path)
            store.put(stored.path, data)
    assert checked(spec)[1] == []


def test_a_commit_that_has_changed_since_is_found(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url)
    written(spec)
    amend_commit(run.store, 1, {1: made_runs.made(run, 5)})
    _, (finding,), _ = checked(spec)
    assert (finding.damage, finding.path) == (
        ExportDamage.SOURCE,
        f"{run.url}/{shard_path(1)}",
    )
    assert "nightpress export goes on with it" in finding.text
    Path(run.url, shard_path(1)).unlink()
    _, (finding,), _ = checked(spec)
    assert "is not in the store any more" in finding.text


def test_a_picture_that_a_stripped_copy_was_made_of_is_compared(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url)
    written(spec)
    Path(run.url, "images/2_00.png").unlink()
    _, (finding,), _ = checked(spec)
    assert finding.damage == ExportDamage.ORIGIN
    assert finding.path.endswith("/2_00.png")
    assert "cannot be compared" in finding.text


def test_whole_copies_need_no_pictures_of_the_run(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, metadata="full")
    written(spec)
    for path in Path(run.url, "images").iterdir():
        path.unlink()
    assert checked(spec) == (9, [], [])


def test_an_index_that_names_another_picture_is_found(run: Run, tmp_path: Path) -> None:
    """As if somebody had exchanged a part and its entry in the index."""
    spec = spec_of(tmp_path, run.url, metadata="full")
    written(spec)
    store = Store(spec.url)
    path = next(iter(listed_entries(store).values()))
    data = store.read(path)
    index = read_index(store, path)
    rows = index.rows.to_pylist()
    for key in ("sha256", "exported_sha256"):
        rows[0][key], rows[1][key] = rows[1][key], rows[0][key]
    store.put(path, replace(index, rows=index_rows(rows)).to_parquet())
    damages = {finding.damage for finding in checked(spec)[1]}
    assert damages == {ExportDamage.ORIGIN}
    store.put(path, data[:-20])
    assert {finding.damage for finding in checked(spec)[1]} == {ExportDamage.INDEX}


@pytest.mark.parametrize("layout", ["hf-parquet", "diffusiondb"])
def test_files_beside_the_parts_are_checked(run: Run, tmp_path: Path, layout: str) -> None:
    spec = spec_of(tmp_path, run.url, layout=layout)
    summary = written(spec)
    store = Store(spec.url)
    beside = {path for path in files_of(spec.url) if "/" not in path}
    assert set(summary.files) == beside - {"export.json", "summary.json"}
    assert verify_files(store, summary) == []
    store.delete("README.md")
    store.put("dropped.parquet", b"another")
    found = {(finding.path, finding.damage) for finding in verify_files(store, summary)}
    assert found == {
        ("README.md", ExportDamage.MISSING),
        ("dropped.parquet", ExportDamage.CHANGED),
    }


def test_objects_that_no_index_names_are_listed(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url)
    written(spec)
    Path(spec.url, "data/train-0-00000-0000000000000000.parquet").write_bytes(b"old")
    assert checked(spec)[2] == ["data/train-0-00000-0000000000000000.parquet"]


def test_a_sample_reads_only_some_images(run: Run, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, run.url, layout="imagefolder")
    written(spec)
    number, findings, _ = checked(spec, sample=0.5)
    assert 0 < number < 9
    assert findings == []
