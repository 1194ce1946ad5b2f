"""Manifests edited while a run starts: the plan is of the bytes that were hashed, or none is."""

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from support.plans import MODEL, encoded, job

from nightpress.pipelines.errors import ManifestError, StoreError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest import same_bytes
from nightpress.pipelines.planning import (
    PlanLayout,
    check,
    read_shard,
    require_unchanged,
    rewrite_plan_part,
    write_plan,
)
from nightpress.pipelines.storage import Store

SUFFIXES = (".csv", ".jsonl", ".txt", ".parquet", ".csv.gz")


def manifest(suffix: str, *prompts: str) -> bytes:
    name = suffix.removesuffix(".gz")
    data = encoded(name, [{"prompt": prompt} for prompt in prompts])
    return gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data


OLD = tuple(f"a red cat number {number}" for number in range(40))

EDITS: dict[str, tuple[str, ...]] = {
    "the same length": tuple(prompt.replace("red", "tan") for prompt in OLD),
    "one row longer": (OLD[0] + " and a dog", *OLD[1:]),
    "last row shorter": (*OLD[:-1], "a cat"),
    "a row more": (*OLD, "a last one"),
    "a row fewer": OLD[:-1],
    "two rows swapped": (OLD[1], OLD[0], *OLD[2:]),
}


def overwrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def rename_over(path: Path, data: bytes) -> None:
    new = path.with_name("new.partial")
    new.write_bytes(data)
    os.replace(new, path)


class EditedStream:
    """A stream that calls `before_read` before each read."""

    def __init__(self, stream: BinaryIO, before_read: Callable[[], None]) -> None:
        self._stream, self._before_read = stream, before_read

    def read(self, size: int = -1) -> bytes:
        self._before_read()
        return self._stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> "EditedStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


class Moments:
    """Edits a file at one of the moments when it is opened or read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        self.edit: Callable[[], None] = lambda: None
        open_source = same_bytes.open_source

        def open_edited(*arguments: Any, **named: Any) -> EditedStream:
            self.pass_one()
            return EditedStream(open_source(*arguments, **named), self.pass_one)

        monkeypatch.setattr(same_bytes, "open_source", open_edited)
        # Small blocks, so that a small file is read in several pieces.
        monkeypatch.setattr(same_bytes, "CHUNK_BYTES", 128)
        monkeypatch.setattr(same_bytes, "CACHED_CHUNKS", 2)

    def pass_one(self) -> None:
        if self.left == 0:
            self.edit()
        self.left -= 1


def prompts_of(spec: RunSpec, layout: PlanLayout) -> list[str]:
    store = Store(spec.url)
    shards = [read_shard(store, layout, shard) for shard in range(layout.num_shards)]
    return [prompt for shard in shards for prompt in shard["prompt"].to_pylist()]


def start(spec: RunSpec) -> tuple[PlanLayout, list[str]]:
    """Check, look again and plan as a start does; returns the prompts of the plan."""
    layout = require_unchanged(check(spec, MODEL), spec)
    list(write_plan(spec, MODEL, layout, Store(spec.url)))
    return layout, prompts_of(spec, layout)


@pytest.mark.parametrize("write", [overwrite, pytest.param(rename_over, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_edited_at_any_moment_of_a_start_is_planned_as_it_was_hashed_or_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    write: Callable[[Path, bytes], None],
) -> None:
    moments = Moments(monkeypatch)
    refused = 0
    for name, new in EDITS.items():
        by_hash = {hashlib.sha256(manifest(suffix, *rows)).hexdigest(): rows for rows in (OLD, new)}
        moment = 0
        while True:
            folder = tmp_path / name / str(moment)
            folder.mkdir(parents=True)
            path = folder / f"m{suffix}"
            path.write_bytes(manifest(suffix, *OLD))
            moments.edit = lambda path=path, new=new: write(path, manifest(suffix, *new))  # type: ignore[misc]
            moments.left = moment
            try:
                layout, prompts = start(job(folder, path))
            except (ManifestError, StoreError):
                refused += 1
            else:
                assert tuple(prompts) == by_hash[layout.files[0].sha256]
            if moments.left >= 0:
                break
            moment += 1 if moment < 12 else 7
    assert refused


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_plan_part_is_never_written_again_from_other_bytes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(manifest(suffix, *OLD))
    spec = job(tmp_path, path)
    layout, _ = start(spec)
    path.write_bytes(manifest(suffix, *EDITS["the same length"]))
    with pytest.raises(ManifestError, match="has changed since it was checked"):
        rewrite_plan_part(spec, MODEL, layout, Store(spec.url), 0)
    path.write_bytes(manifest(suffix, *OLD))
    rewrite_plan_part(spec, MODEL, layout, Store(spec.url), 0)
    assert tuple(prompts_of(spec, layout)) == OLD


def test_a_file_that_is_added_to_the_folder_after_the_check_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_bytes(manifest(".txt", *OLD))
    spec = job(tmp_path, tmp_path / "set")
    layout = check(spec, MODEL)
    (tmp_path / "set" / "b.txt").write_bytes(manifest(".txt", *OLD))
    with pytest.raises(ManifestError, match=r"set/b\.txt: the file has changed"):
        require_unchanged(layout, spec)


def test_the_same_size_and_time_do_not_hide_an_edit(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    path.write_bytes(manifest(".txt", *OLD))
    spec = job(tmp_path, path)
    layout = check(spec, MODEL)
    before = path.stat()
    path.write_bytes(manifest(".txt", *EDITS["the same length"]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ManifestError):
        require_unchanged(layout, spec)


def test_a_run_of_an_older_version_is_read_without_checksums(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(manifest(".csv", *OLD))
    spec = job(tmp_path, path)
    values = check(spec, MODEL).as_dict()
    for file in values["files"]:
        del file["checksums"]
    layout = PlanLayout.from_dict(values)
    list(write_plan(spec, MODEL, layout, Store(spec.url)))
    assert tuple(prompts_of(spec, layout)) == OLD
