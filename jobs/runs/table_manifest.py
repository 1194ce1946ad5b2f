"""A run whose manifest is a table: where the table is kept, and how it is recognised again.

The table is written once into the run directory, as a Parquet file whose name holds its sha256. The
run's manifest is that file from then on, so the run can be resumed and repaired without the table.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import pyarrow as pa

from nightpress.pipelines.errors import Change, Damaged, ManifestError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.manifest.frames import TABLE, Frame, rewritten, table_of, to_parquet
from nightpress.pipelines.planning import manifest_sources
from nightpress.pipelines.run_directory.record import RunRecord, read_record
from nightpress.pipelines.storage import Store, find, require_answers

_KEPT = re.compile(r"/(manifest/table-[0-9a-f]{16}\.parquet)")


@dataclass(frozen=True)
class TableManifest:
    """A table that was passed as a manifest, as the Parquet file that its run keeps."""

    data: bytes = field(repr=False)

    @classmethod
    def of(cls, frame: Frame) -> Self:
        """Convert a pyarrow Table, or a pandas or polars frame.

        Raises:
            TypeError: this is not a table.
            ManifestError: the table cannot be converted.
        """
        return cls(to_parquet(table_of(frame)))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the Parquet file, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def path(self) -> str:
        """Path in the run directory."""
        return f"manifest/table-{self.sha256[:16]}.parquet"

    def kept_job(self, spec: RunSpec) -> RunSpec:
        """The job with this table, in its run directory, as the manifest."""
        store = Store(spec.url, spec.storage)
        return spec.model_copy(update={"manifest": f"{store.url}/{self.path}"})

    @contextmanager
    def temporary_job(self, spec: RunSpec) -> Iterator[RunSpec]:
        """The job with a temporary copy of the table as its manifest, for use before a run exists.

        Raises:
            ManifestError: raised inside; its problems name the table instead of the copy.
        """
        with tempfile.TemporaryDirectory(prefix="nightpress-") as folder:
            path = Path(folder) / "table.parquet"
            path.write_bytes(self.data)
            try:
                yield spec.model_copy(update={"manifest": str(path)})
            except ManifestError as error:
                problems = [replace(problem, file=TABLE) for problem in error.problems]
                raise ManifestError(problems, error.total) from error

    def keep(self, store: Store, file: ManifestFile) -> ManifestFile:
        """Write the table into the run directory; returns that file in place of a temporary one.

        Raises:
            Damaged: another file has the table's name.
        """
        if not store.create(self.path, self.data) and store.read(self.path) != self.data:
            raise Damaged(
                f"{store.url}/{self.path}: its content does not match the sha256 in its name"
            )
        (source,) = find([f"{store.url}/{self.path}"], store.options)
        return replace(file, url=source.url, version=source.version)

    def changes(self, store: Store, record: RunRecord) -> list[Change]:
        """How this table differs from the one that a run keeps; empty if they are equal."""
        path = kept_path(record)
        if path is not None and self._equals(store.read(path)):
            return []
        old = ", ".join(file.sha256 for file in record.manifest)
        return [Change("sha256 of the manifest table", old, self.sha256)]

    def _equals(self, data: bytes) -> bool:
        """Whether a kept file holds the same table; another Arrow version may write other bytes."""
        try:
            return data == self.data or rewritten(data) == rewritten(self.data)
        except (pa.ArrowException, OSError):  # the kept file is damaged
            return False


@contextmanager
def readable_manifest(spec: RunSpec, table: TableManifest | None) -> Iterator[RunSpec]:
    """A job whose manifest can be read before a run exists: its files, or a copy of a table.

    Raises:
        SpecError: the job names no manifest, and no table was passed.
        StoreError: the files cannot be found.
    """
    require_answers(spec.sources, spec.storage)
    if table is None:
        manifest_sources(spec)
        yield spec
    else:
        with table.temporary_job(spec) as job:
            yield job


def kept_path(record: RunRecord) -> str | None:
    """Path, in the run directory, of the table that a run makes the rows of; None for files."""
    manifest = record.manifest[0].url if record.editions else record.spec.manifest
    found = _KEPT.search(manifest) if isinstance(manifest, str) else None
    return None if found is None else found.group(1)


def with_kept_table(spec: RunSpec, store: Store) -> RunSpec:
    """The job; if it names no manifest, with the table that its run directory keeps, if any."""
    if spec.manifest:
        return spec
    record = read_record(store)
    return spec if record is None or kept_path(record) is None else kept_job(spec, record)


def kept_job(spec: RunSpec, record: RunRecord) -> RunSpec:
    """The job with the table that its run keeps as its manifest, wherever the run has moved to."""
    return spec.model_copy(update={"manifest": f"{spec.url}/{kept_path(record)}"})
