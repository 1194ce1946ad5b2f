"""`export.json`: what an export is made of, written once when it begins."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import pyarrow as pa

from nightpress.pipelines.errors import (
    Change,
    ChangedExport,
    RunNotFound,
    SpecError,
    UnsupportedFormat,
)
from nightpress.pipelines.export.captions import Caption
from nightpress.pipelines.export.columns import exported_schema, left_out
from nightpress.pipelines.export.preferences import require_score
from nightpress.pipelines.export.sources import ExportSource
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.export.splits import require_split_column
from nightpress.pipelines.job.spec import differences, flatten
from nightpress.pipelines.run_directory.json_files import checked_time, json_file, what_is_wrong
from nightpress.pipelines.run_directory.package_versions import package_versions
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.storage import Store

EXPORT_FILE = "export.json"

TRAIN_FILE = "train.json"
"""The record of a training, which may have the same name as an export."""

FORMAT_VERSION = 1
"""Format of an export. It changes when older versions could not go on with one."""


@dataclass(frozen=True)
class ExportRecord:
    """What an export is made of."""

    spec: ExportSpec
    sources: tuple[Mapping[str, Any], ...]
    """The identity of each run, in order; see `ExportSource.identity`."""
    columns: pa.Schema
    """The columns that it gives, beside images and captions."""
    created_at: str
    """UTC, ISO 8601."""
    versions: Mapping[str, str]

    def to_json(self) -> bytes:
        """As written to `export.json`; `columns` says the types for people."""
        values = {
            "format_version": FORMAT_VERSION,
            "nightpress": self.versions["nightpress"],
            "created_at": self.created_at,
            "spec": self.spec.as_dict(),
            "sources": [dict(each) for each in self.sources],
            "columns": {field.name: str(field.type) for field in self.columns},
            "schema": base64.b64encode(self.columns.serialize().to_pybytes()).decode(),
            "versions": dict(self.versions),
        }
        return json_file(values)

    @classmethod
    def from_json(cls, data: bytes, url: str) -> Self:
        """The inverse of `to_json`.

        Raises:
            UnsupportedFormat: it was written in a newer format.
            RunNotFound: this is not the record of an export.
        """
        where = f"{url}/{EXPORT_FILE}"
        try:
            values = json.loads(data)
            version = int(values["format_version"])
            if version <= FORMAT_VERSION:
                return cls._from_values(values, where)
        except (ValueError, KeyError, TypeError, pa.ArrowException, OSError) as error:
            if isinstance(error, SpecError):
                raise
            wrong = what_is_wrong(error)
            raise RunNotFound(f"{where}: not the record of an export: {wrong}") from error
        raise UnsupportedFormat(
            f"{url}: this export was written in format {version}; this nightpress reads up to "
            f"format {FORMAT_VERSION}. Upgrade nightpress."
        )

    @classmethod
    def _from_values(cls, values: Mapping[str, Any], where: str) -> Self:
        schema = base64.b64decode(values["schema"])
        return cls(
            spec=ExportSpec.from_dict(values["spec"], where=where),
            sources=tuple(values["sources"]),
            columns=pa.ipc.read_schema(pa.py_buffer(schema)),
            created_at=checked_time(values["created_at"]),
            versions=values["versions"],
        )

    def left_out(self, sources: Sequence[ExportSource]) -> list[str]:
        """What to say of columns of the runs that the export lacks."""
        texts = []
        for source in sources:
            new = left_out(source.schema, source.scores, self.columns, self.spec)
            if new:
                texts.append(f"{source.run.url}: columns that are left out: {', '.join(new)}")
        return texts

    def changes(self, spec: ExportSpec, sources: Sequence[ExportSource]) -> list[Change]:
        """What would be exported differently now; runs may have moved, and may have grown."""
        old, new = (dict(flatten(each.identity())) for each in (self.spec, spec))
        changes = differences(old, new)
        if len(self.sources) != len(sources):
            return [*changes, Change("from", self.spec.runs, spec.runs)]
        for number, (was, now) in enumerate(zip(self.sources, sources, strict=True), start=1):
            if was.get("run") != now.identity["run"]:
                changes.append(
                    Change(f"from: run {number}", self.spec.runs[number - 1], now.run.url)
                )
            elif was != now.identity:
                hashes = (each.get("selection") for each in (was, now.identity))
                changes.append(Change(f"select: its images in run {number}", *hashes))
        return changes


def new_export(
    spec: ExportSpec, sources: Sequence[ExportSource], columns: pa.Schema
) -> ExportRecord:
    """The record of an export that begins now."""
    return ExportRecord(
        spec=spec,
        sources=tuple(each.identity for each in sources),
        columns=columns,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=package_versions(),
    )


def record_for(store: Store, spec: ExportSpec, sources: Sequence[ExportSource]) -> ExportRecord:
    """The record that a start goes on with, or that of a new export; writes nothing.

    Raises:
        SpecError: a key of the export does not fit its runs.
        ChangedExport: the directory has an export of other content.
    """
    for source in sources:
        Caption.parse(spec.caption, source.schema)
        require_split_column(spec.split, source.schema)
        if spec.rank_by is not None:
            require_score(spec.rank_by, source.scores, source.run.url)
    existing = existing_export(store, spec, sources)
    if existing is not None:
        return existing
    scores = dict.fromkeys(name for source in sources for name in source.scores)
    schemas = [source.schema for source in sources]
    columns = exported_schema(schemas, tuple(scores), spec.metadata, spec.layout)
    return new_export(spec, sources, columns)


def read_export(store: Store) -> ExportRecord | None:
    """The record of the export in this store; None if there is none.

    Raises:
        UnsupportedFormat: it was written in a newer format.
        RunNotFound: `export.json` is no such record.
    """
    data = store.read_if_any(EXPORT_FILE)
    return None if data is None else ExportRecord.from_json(data, store.url)


def existing_export(
    store: Store, spec: ExportSpec, sources: Sequence[ExportSource]
) -> ExportRecord | None:
    """The record that a start goes on with; None if it begins the export.

    Raises:
        ChangedExport: the directory has an export of other content.
        SpecError: it has a run or a training.
    """
    record = read_export(store)
    if record is None:
        for name, what in ((RUN_FILE, "a run"), (TRAIN_FILE, "a training")):
            if store.size(name) is not None:
                raise SpecError(f"output: {store.url} is {what}; give this export another name")
        return None
    refuse_changes(store, record, spec, sources)
    return record


def create_export(
    store: Store, record: ExportRecord, sources: Sequence[ExportSource]
) -> ExportRecord:
    """Write `export.json`. If several processes begin at once, all get the record of the first.

    Raises:
        ChangedExport: the first process began another export.
    """
    if store.create(EXPORT_FILE, record.to_json()):
        return record
    winner = ExportRecord.from_json(store.read(EXPORT_FILE), store.url)
    refuse_changes(store, winner, record.spec, sources)
    return winner


def refuse_changes(
    store: Store, record: ExportRecord, spec: ExportSpec, sources: Sequence[ExportSource]
) -> None:
    """Raise ChangedExport if an export would have other content."""
    changes = record.changes(spec, sources)
    if changes:
        raise ChangedExport(store.url, changes)
