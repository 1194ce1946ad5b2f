"""Runs whose manifests grow, without Ray and without a model: planned, extended, and made."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.fakes.fake_runs import FakeSampler, make_shard, work_on
from support.plans import MODEL, job, write

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.jobs.runs.existing_run import compare_with_run
from nightpress.jobs.runs.extend_options import Changed, ExtendOptions
from nightpress.jobs.runs.extension import add_edition, compare
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import (
    Growth,
    check,
    check_inputs,
    compare_growth,
    keep_hashes,
    read_shard,
    write_plan,
)
from nightpress.pipelines.run_directory.commit import committed_shards
from nightpress.pipelines.run_directory.editions import earlier_editions
from nightpress.pipelines.run_directory.lease import held, require_free
from nightpress.pipelines.run_directory.record import (
    RunRecord,
    create_record,
    new_record,
    require_record,
)
from nightpress.pipelines.shards.run_images import EarlierRuns
from nightpress.pipelines.storage import Store

Row = dict[str, Any]


def cats(*numbers: int, **columns: Any) -> list[Row]:
    """A row for each number, with its id and prompt."""
    return [{"id": f"r{n}", "prompt": f"cat {n}", **columns} for n in numbers]


def begin(
    folder: Path,
    rows: Sequence[Row],
    name: str = "m.jsonl",
    info: ModelInfo = MODEL,
    **values: Any,
) -> RunSpec:
    """Plan a run of these rows; nothing is made."""
    spec = job(folder, write(folder / name, rows), **values)
    store = Store(spec.url, spec.storage)
    checked = check_inputs(spec, check(spec, info, 2), EarlierRuns(spec.url, spec.storage))
    layout = keep_hashes(store, checked)
    record = create_record(store, new_record(spec, info, "cpu", 2, layout))
    list(write_plan(spec, info, record.layout, store))
    return spec


def grow(spec: RunSpec, rows: Sequence[Row]) -> Growth:
    """Write the manifest anew, and compare it with the run."""
    (path,) = spec.manifests
    write(Path(path), rows)
    store = Store(spec.url, spec.storage)
    record = require_record(store)
    earlier = earlier_editions(store, record.editions)
    return compare_growth(spec, MODEL, record.layout, store, earlier)


def extend(
    spec: RunSpec,
    rows: Sequence[Row] | None = None,
    changed: Changed = "refuse",
    store: Store | None = None,
    info: ModelInfo = MODEL,
) -> RunRecord:
    """Write the manifest anew, if there are rows, and extend the run by it as `run` does."""
    if rows is not None:
        (path,) = spec.manifests
        write(Path(path), rows)
    store = store or Store(spec.url, spec.storage)
    free = require_free(store)
    record = require_record(store)
    changes = compare_with_run(store, record, spec).manifest_changes
    if changes:
        options = ExtendOptions(True, changed)
        extension = compare(store, record, spec, changes, options).checked(store, info)
        with held(Store(spec.url, spec.storage), free) as lease:
            record = add_edition(store, extension, lease)
    list(write_plan(spec, info, record.layout, store))
    return record


class Killed(BaseException):
    """The process has died."""


class DyingStore(Store):
    """A store whose process dies before one of its writes."""

    writes_left: float = float("inf")
    num_writes = 0

    def create(self, path: str, data: bytes) -> bool:
        return bool(self._write(lambda: super(DyingStore, self).create(path, data)))

    def put(self, path: str, data: bytes) -> None:
        self._write(lambda: super(DyingStore, self).put(path, data))

    def _write(self, write: Callable[[], object]) -> object:
        if self.num_writes >= self.writes_left:
            raise Killed
        self.num_writes += 1
        return write()


def make(spec: RunSpec, store: Store | None = None) -> list[int]:
    """Make every shard that is not committed; returns the seeds that were sampled."""
    store = store or Store(spec.url, spec.storage)
    record = require_record(store)
    sampler = FakeSampler()
    for shard in range(record.layout.num_shards):
        if shard not in committed_shards(store):
            rows = read_shard(store, record.layout, shard)
            make_shard(store, record, rows, sampler, work_on(rows, shard, look_first=True))
    return sampler.seeds
