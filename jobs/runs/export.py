"""`export`: images of runs as a training set, written by tasks on all nodes of a cluster."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from nightpress.jobs.cluster.connection import cluster, spread_map
from nightpress.jobs.cluster.preflight import (
    require_readable_on_every_node,
    require_store_on_every_node,
)
from nightpress.jobs.errors import StoppedOnRequest
from nightpress.jobs.progress.events import Message
from nightpress.jobs.progress.exporting import ExportEvent
from nightpress.jobs.runs.shared import (
    create_only_store,
    failures_as_run_stopped,
    require_free_run,
)
from nightpress.jobs.signals import first_interruption
from nightpress.pipelines.export.plan import ExportPlan, plan_of
from nightpress.pipelines.export.record import (
    create_export,
    record_for,
)
from nightpress.pipelines.export.sources import open_sources
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.export.summary import ExportSummary, read_summary_file, state_of
from nightpress.pipelines.export.writing import ExportWriter
from nightpress.pipelines.run_directory.lease import Lease, held
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.storage import Store

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
    num_rows_apart: int
    """In the layout preference, rows of the manifests that gave no pair because their images are in
    several shards."""
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
        record = record_for(self._store, self._spec, self._sources)
        done = read_summary_file(self._store)
        if done is not None and done.commits == state_of(self._sources):
            self._on_event(Message("nothing has changed since this export was finished"))
            return self._result(done, 0)
        for text in record.left_out(self._sources):
            self._on_event(Message(text, warning=True))
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
                    plan = plan_of(self._spec, store, self._sources, record.columns, lease.fence)
                    return self._write(plan, lease)

    def _write(self, plan: ExportPlan, lease: Lease) -> ExportResult:
        writer = ExportWriter(plan, self._sources, spread_map)
        with first_interruption() as interrupted, closing(writer.events()) as events:
            for event in events:
                lease.require()
                self._on_event(event)
                if interrupted.is_set():
                    raise StoppedOnRequest(
                        "stopped as asked; what is written is kept: run the same command to go on"
                    )
        return self._result(writer.summary, writer.num_written)

    def _result(self, summary: ExportSummary, num_written: int) -> ExportResult:
        return ExportResult(
            url=self._store.url,
            num_images=dict(summary.num_images),
            num_dropped=dict(summary.num_dropped),
            num_rows_apart=summary.num_rows_apart,
            num_bytes=summary.num_bytes,
            num_shards=sum(len(each.sizes) for each in self._sources),
            num_written=num_written,
            elapsed_s=monotonic() - self._began,
        )
