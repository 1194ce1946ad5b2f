"""`export`: images of runs as a training set, written by tasks on all nodes of a cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TypeVar

from nightpress.jobs.cluster.connection import cluster, spread_map
from nightpress.jobs.cluster.preflight import (
    require_readable_on_every_node,
    require_store_on_every_node,
)
from nightpress.jobs.errors import StoppedOnRequest
from nightpress.jobs.progress.events import Message
from nightpress.jobs.progress.exporting import (
    ExportEvent,
    ExportPlanned,
    ShardExported,
    ShardSurveyed,
)
from nightpress.jobs.runs.shared import (
    create_only_store,
    failures_as_run_stopped,
    require_free_run,
)
from nightpress.jobs.signals import first_interruption
from nightpress.pipelines.export.captions import Caption
from nightpress.pipelines.export.columns import exported_schema, left_out
from nightpress.pipelines.export.finish import finish
from nightpress.pipelines.export.index import IndexKey, listed_entries
from nightpress.pipelines.export.leaks import find_leaks
from nightpress.pipelines.export.plan import ExportPlan, ShardTask, tasks_of, with_wanted
from nightpress.pipelines.export.record import (
    ExportRecord,
    create_export,
    existing_export,
    new_export,
)
from nightpress.pipelines.export.shard import export_shard
from nightpress.pipelines.export.sources import open_sources
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.export.splits import require_split_column
from nightpress.pipelines.export.summary import (
    SUMMARY_FILE,
    ExportSummary,
    index_hash,
    read_summary_file,
    state_of,
)
from nightpress.pipelines.export.survey import SURVEY_FOLDER, Surveyed, survey_shard
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.run_directory.lease import Lease, held
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.storage import Store

R = TypeVar("R")

OnExportEvent = Callable[[ExportEvent], None]


def ignore(event: ExportEvent) -> None:
    """Do nothing: the default of `on_event`."""


@dataclass(frozen=True)
class ExportResult:
    """What an export holds, and what this start did for it."""

    url: str
    """URL of the export's directory."""
    num_images: dict[str, int]
    """Split -> images."""
    num_dropped: dict[str, int]
    """Reason -> images of the runs that are not in it."""
    num_bytes: int
    num_shards: int
    """Shards of the runs."""
    num_written: int
    """Shards that this start has written; the others were there."""
    elapsed_s: float


def export(
    spec: ExportSpec | str | Path, on_event: OnExportEvent = ignore, *, take_over: bool = False
) -> ExportResult:
    """Write a training set of the images of runs, or bring it up to date.

    Only shards whose commits have changed since, or which are not there yet, are written. What an
    interrupted start has written is kept.

    Args:
        spec: the export, or its YAML file.
        on_event: called with every event, to show progress.
        take_over: take over from a process that still works on it.

    Raises:
        SpecError: the file is wrong, or the runs do not have what it asks for.
        RunNotFound: a source is no run, or is not finished.
        ChangedExport: the directory has another export.
        RunHeld: another process works on it.
        RunStopped: it stopped early; the same call goes on.
    """
    spec = spec if isinstance(spec, ExportSpec) else ExportSpec.from_file(spec)
    return _Session(spec, on_event).carry_out(take_over)


class _Session:
    """One start of an export."""

    def __init__(self, spec: ExportSpec, on_event: OnExportEvent) -> None:
        self._spec, self._on_event = spec, on_event
        self._began = monotonic()
        self._sources = open_sources(spec)
        self._store = Store(spec.url, spec.storage)

    def carry_out(self, take_over: bool) -> ExportResult:
        """Write what is missing; nothing is written before everything has been checked."""
        record = self._checked()
        done = read_summary_file(self._store)
        if done is not None and done.commits == state_of(self._sources):
            self._on_event(Message("nothing has changed since this export was finished"))
            return self._result(done, 0)
        self._say_left_out(record)
        self._store.check()
        store = create_only_store(self._store, self._on_event)
        free = require_free_run(store, take_over, self._on_event)
        with cluster(self._spec.cluster):
            require_store_on_every_node(self._spec.cluster, store)
            for source in self._sources:
                require_readable_on_every_node(source.run.store, RUN_FILE)
            with held(store, free) as lease:
                record = create_export(store, record, self._sources)
                with failures_as_run_stopped():
                    return self._write(self._plan(store, record, lease), lease)

    def _checked(self) -> ExportRecord:
        """The record to go on with, or that of a new export, whose every key fits its runs."""
        spec, sources = self._spec, self._sources
        for source in sources:
            Caption.parse(spec.caption, source.schema)
            require_split_column(spec.split, source.schema)
        existing = existing_export(self._store, spec, sources)
        if existing is not None:
            return existing
        scores = dict.fromkeys(name for source in sources for name in source.scores)
        schemas = [source.schema for source in sources]
        return new_export(spec, sources, exported_schema(schemas, tuple(scores), spec.metadata))

    def _say_left_out(self, record: ExportRecord) -> None:
        """Say which columns runs have gained since the export began."""
        for source in self._sources:
            new = left_out(source.schema, source.scores, record.columns, self._spec.metadata)
            if new:
                text = (
                    f"{source.run.url}: columns that came after this export began are left out: "
                    f"{', '.join(new)}"
                )
                self._on_event(Message(text, warning=True))

    def _plan(self, store: Store, record: ExportRecord, lease: Lease) -> ExportPlan:
        return ExportPlan(
            spec=self._spec,
            store=store,
            stores=tuple(each.run.store for each in self._sources),
            names=tuple(each.name for each in self._sources),
            schemas=tuple(each.schema for each in self._sources),
            columns=record.columns,
            fence=lease.fence,
        )

    def _write(self, plan: ExportPlan, lease: Lease) -> ExportResult:
        surveys = self._surveys(plan, lease)
        tasks = tasks_of(self._sources, find_leaks(plan.store, surveys))
        entries = listed_entries(plan.store)
        missing = [task for task in tasks if task.key not in entries]
        written: list[str] = []
        if missing or self._is_other(plan.store, tasks, entries):
            plan.store.delete(SUMMARY_FILE)
            self._on_event(ExportPlanned(len(tasks), len(tasks) - len(missing)))
            written = self._export(plan, lease, missing)
        paths = [entries[task.key] for task in tasks if task.key in entries] + written
        summary = finish(plan, self._sources, paths, [each.path for each in surveys])
        return self._result(summary, len(written))

    def _surveys(self, plan: ExportPlan, lease: Lease) -> list[Surveyed]:
        """Look at every shard that has changed, if images of train are compared with others."""
        if self._spec.leaks == "keep":
            return []
        tasks = tasks_of(self._sources, {})
        entries = listed_entries(plan.store, SURVEY_FOLDER)
        known = [
            Surveyed(task.source, task.shard, entries[task.key])
            for task in tasks
            if task.key in entries
        ]
        missing = [task for task in tasks if task.key not in entries]
        found = list(
            self._on_all_nodes(
                partial(survey_shard, plan), lease, missing, lambda done: ShardSurveyed()
            )
        )
        return sorted([*known, *found], key=lambda each: (each.source, each.shard))

    def _is_other(
        self, store: Store, tasks: Sequence[ShardTask], entries: dict[IndexKey, str]
    ) -> bool:
        """Whether the export was finished with other index objects than those of its tasks."""
        done = read_summary_file(store)
        return done is not None and done.index != index_hash(entries[task.key] for task in tasks)

    def _export(self, plan: ExportPlan, lease: Lease, tasks: list[ShardTask]) -> list[str]:
        """Export shards in tasks on all nodes; returns the paths of their index objects."""
        done = self._on_all_nodes(
            partial(export_shard, plan),
            lease,
            tasks,
            lambda each: ShardExported(each.num_images, each.num_bytes),
        )
        return [each.path for each in done]

    def _on_all_nodes(
        self,
        function: Callable[[ShardTask], R],
        lease: Lease,
        tasks: list[ShardTask],
        event: Callable[[R], ExportEvent],
    ) -> Iterator[R]:
        """Carry out tasks on all nodes; ends early when it is asked to, or loses the lease."""
        ready = with_wanted(self._sources, tasks)
        with first_interruption() as interrupted, closing(ready):
            for number, done in enumerate(spread_map(function, ready), start=1):
                lease.require()
                self._on_event(event(done))
                yield done
                if interrupted.is_set():
                    raise StoppedOnRequest(
                        f"stopped as asked, {plural(len(tasks) - number, 'shard')} left; what is "
                        "written is kept: run the same command to go on"
                    )

    def _result(self, summary: ExportSummary, num_written: int) -> ExportResult:
        return ExportResult(
            url=self._store.url,
            num_images=dict(summary.num_images),
            num_dropped=dict(summary.num_dropped),
            num_bytes=summary.num_bytes,
            num_shards=sum(len(each.sizes) for each in self._sources),
            num_written=num_written,
            elapsed_s=monotonic() - self._began,
        )
