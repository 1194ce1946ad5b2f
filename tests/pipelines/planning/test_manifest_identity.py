"""What makes a manifest the same: its bytes, their order and format, not where they are stored."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.plans import MODEL, manifest_changes, write

from nightpress.pipelines.errors import ManifestError, StoreMissing
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import (
    check,
    compare_manifest,
    planned_file_changes,
    require_unchanged,
    write_plan,
)
from nightpress.pipelines.planning.layout import PlanLayout
from nightpress.pipelines.run_directory.record import RunRecord, new_record
from nightpress.pipelines.storage import Store

Spell = Callable[[Path], str | list[str]]


def job(folder: Path, manifest: str | list[str]) -> RunSpec:
    return RunSpec.from_dict({"name": "run", "manifest": manifest, "output": f"{folder}/out"})


def two_files(folder: Path) -> tuple[Path, Path]:
    return (
        write(folder / "a.csv", [{"prompt": "a"}]),
        write(folder / "b" / "c.csv", [{"prompt": "b"}, {"prompt": "c"}]),
    )


def record_of(spec: RunSpec) -> RunRecord:
    return new_record(spec, MODEL, "cpu", 1, check(spec, MODEL))


def linked(folder: Path) -> str:
    (folder / "link").symlink_to(folder / "set")
    return f"{folder}/link"


def mirrored(folder: Path) -> str:
    shutil.copytree(folder / "set", folder / "mirror")
    return f"{folder}/mirror"


SPELLINGS: dict[str, Spell] = {
    "relative": lambda folder: "set",
    "with a dot": lambda folder: "./set/",
    "a URL": lambda folder: f"file://{folder}/set",
    "through its parent": lambda folder: f"{folder}/set/b/..",
    "a pattern": lambda folder: f"{folder}/set/**/*",
    "a list": lambda folder: [f"{folder}/set/a.csv", "set/b/c.csv"],
    "a list of patterns": lambda folder: ["set/*.csv", "set/*/*.csv"],
    "a link": linked,
    "a mirror": mirrored,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_spelling_of_a_manifest_is_not_part_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    two_files(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    began, again = (
        record_of(job(tmp_path, f"{tmp_path}/set")),
        record_of(job(tmp_path, SPELLINGS[spelling](tmp_path))),
    )
    assert again.fingerprint == began.fingerprint
    assert began.changes(again.spec, MODEL, "cpu") == []
    assert manifest_changes(began.layout, again.spec) == []
    assert manifest_changes(again.layout, began.spec) == []


def test_a_resumed_run_reads_the_manifest_where_it_is_now(tmp_path: Path) -> None:
    two_files(tmp_path / "set")
    layout = check(job(tmp_path, f"{tmp_path}/set"), MODEL)
    shutil.move(tmp_path / "set", tmp_path / "moved")
    moved = job(tmp_path, f"{tmp_path}/moved")
    found = replace(layout, files=compare_manifest(layout.files, moved).files)
    assert [file.url for file in found.files] == [
        f"{tmp_path}/moved/a.csv",
        f"{tmp_path}/moved/b/c.csv",
    ]
    assert list(write_plan(moved, MODEL, found, Store(moved.url))) == ["plan/part-00000.parquet"]


def changed(layout: PlanLayout, spec: RunSpec) -> list[str]:
    return [change.field for change in manifest_changes(layout, spec)]


def test_another_mirror_with_one_changed_file_is_refused_by_that_file(tmp_path: Path) -> None:
    two_files(tmp_path / "set")
    layout = check(job(tmp_path, f"{tmp_path}/set"), MODEL)
    mirror = mirrored(tmp_path)
    write(tmp_path / "mirror" / "a.csv", [{"prompt": "b"}])
    assert changed(layout, job(tmp_path, mirror)) == [f"manifest {mirror}/a.csv"]


def test_another_order_of_the_files_is_another_manifest(tmp_path: Path) -> None:
    one, other = map(str, two_files(tmp_path / "set"))
    layout = check(job(tmp_path, [one, other]), MODEL)
    assert changed(layout, job(tmp_path, [other, one])) == ["manifest: order of the files"]
    with pytest.raises(ManifestError) as caught:
        require_unchanged(layout, job(tmp_path, [other, one]))
    assert str(caught.value) == (
        "manifest: the order of its files has changed since it was checked; start again"
    )


def test_a_planned_file_is_looked_up_by_its_own_name(tmp_path: Path) -> None:
    path = write(tmp_path / "data[1].csv", [{"prompt": "a"}])
    layout = check(job(tmp_path, str(path)), MODEL)
    write(tmp_path / "data1.csv", [{"prompt": "a"}])
    assert planned_file_changes(layout, {}) == []
    write(path, [{"prompt": "b"}])
    assert [each.field for each in planned_file_changes(layout, {})] == [f"manifest {path}"]


def to_folder(path: Path) -> None:
    path.unlink()
    write(path / "x.csv", [{"prompt": "a"}])


def to_match_of_pattern(path: Path) -> None:
    path.rename(path.with_name("data1.csv"))


@pytest.mark.parametrize("change", [Path.unlink, to_folder, to_match_of_pattern])
def test_a_planned_file_that_is_gone_is_named(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = write(tmp_path / "data[1].csv", [{"prompt": "a"}])
    layout = check(job(tmp_path, str(path)), MODEL)
    change(path)
    with pytest.raises(StoreMissing) as caught:
        planned_file_changes(layout, {})
    assert str(caught.value) == (
        f"{path}: the run was planned from this file, but it is not there any more"
    )


def test_the_same_bytes_in_another_format_are_another_manifest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"prompt": "a"}])
    layout = check(job(tmp_path, str(path)), MODEL)
    shutil.copy(path, tmp_path / "a.txt")
    (change,) = manifest_changes(layout, job(tmp_path, f"{tmp_path}/a.txt"))
    assert (change.old, change.new) == ("csv uncompressed", "text uncompressed")
