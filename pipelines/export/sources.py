"""The runs that an export takes its images from: opened, finished, with what they select."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged, RunNotFound, SpecError
from nightpress.pipelines.export.columns import SCORES
from nightpress.pipelines.export.spec import ExportSpec, SelectSpec
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.hashing import hash64
from nightpress.pipelines.run_directory.commit import commit_sizes, read_commit
from nightpress.pipelines.run_directory.late_scores import (
    LatePart,
    newest_parts,
    with_scores_of,
)
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RUN_FILE, read_record
from nightpress.pipelines.run_directory.selections.files import selection_path
from nightpress.pipelines.run_directory.where import parse_condition
from nightpress.pipelines.storage import Store

SHA256_BYTES = 32


@dataclass(frozen=True)
class Selection:
    """The images that a selection of a run holds, by hashes of their ids.

    40 bytes an image, so that one of 10 M images fits into memory.
    """

    sha256: str
    """SHA-256 of the selection's object, hexadecimal."""
    keys: NDArray[np.uint64]
    """Sorted `hash64` of the image ids; (n,)."""
    digests: NDArray[np.uint8]
    """SHA-256 of the image files, in the order of the keys; (n, 32)."""

    @classmethod
    def read(cls, store: Store, name: str) -> Self:
        """Read the selection of a run.

        Raises:
            SpecError: the run has none of this name, or it is empty.
            Damaged: the object is no selection.
        """
        path = selection_path(name)
        data = store.read_if_any(path)
        if data is None:
            raise SpecError(f"select: {name}: {store.url} has no such selection ({path})")
        try:
            table = pq.read_table(pa.BufferReader(data), columns=["image_id", "sha256"])
            ids, digests = (one_column(table, name) for name in ("image_id", "sha256"))
            raw = b"".join(bytes.fromhex(each) for each in digests.to_pylist())
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise Damaged(f"{store.url}/{path}: not a selection: {one_line(error, 200)}") from error
        keys = hash64(ids, 0)
        order = np.argsort(keys)
        hashes = np.frombuffer(raw, np.uint8).reshape(len(keys), SHA256_BYTES)
        return cls(sha256(data).hexdigest(), keys[order], hashes[order])

    def wanted(self, image_ids: pa.Array) -> dict[int, str]:
        """Row -> SHA-256 of its image when it was selected, for those of some rows that are in."""
        hashes = hash64(image_ids, 0)
        places = np.searchsorted(self.keys, hashes)
        inside = places < len(self.keys)
        found = np.flatnonzero(inside)
        found = found[self.keys[places[found]] == hashes[found]]
        return {int(row): self.digests[places[row]].tobytes().hex() for row in found}


@dataclass(frozen=True)
class ExportSource:
    """One run that an export takes images from."""

    run: Run
    schema: pa.Schema
    """Its metadata columns, carried ones last."""
    scores: tuple[str, ...]
    """The names of the scores that its images have."""
    sizes: Mapping[int, int]
    """Shard -> bytes of its commit, as listed."""
    late: Mapping[int, LatePart]
    """Shard -> the part with its late scores, of those that have one."""
    selection: Selection | None

    @property
    def name(self) -> str:
        """The last part of its URL."""
        return self.run.url.rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """What the names of its images end with, without the dot."""
        return self.run.spec.images.template.rpartition(".")[2]

    @property
    def identity(self) -> dict[str, Any]:
        """What must stay the same for an export to go on: the run as it began, its selection."""
        selection = {} if self.selection is None else {"selection": self.selection.sha256}
        return {"run": self.run.record.fingerprint_at_first, **selection}


def open_sources(spec: ExportSpec) -> tuple[ExportSource, ...]:
    """Open the runs of an export, and check that it can be made of them; writes nothing.

    Raises:
        RunNotFound: one is no run, or is not finished.
        SpecError: a selection is missing, the condition is none, or nothing is selected.
        StoreError: a store does not answer.
    """
    sources = tuple(_opened(spec, url) for url in spec.runs)
    if isinstance(spec.select, str):
        if not any(len(each.selection.keys) for each in sources if each.selection is not None):
            raise SpecError(f"select: {spec.select}: this selection is empty in every run")
        return sources
    has_images = [_has_any(source, spec.select) for source in sources]
    if not any(has_images):
        where = "" if spec.select is None else f" meets the condition {spec.select.where}"
        raise SpecError(f"select: no image that is ok{where} in {', '.join(spec.runs)}")
    return sources


def _has_any(source: ExportSource, select: SelectSpec | None) -> bool:
    """Whether a run has an image to export; checks the condition, too."""
    wanted = ds.field("status") == "ok"
    if select is not None:
        wanted = wanted & parse_condition(select.where, source.schema)
    with source.run.reading():
        found = source.run.metadata.head(1, columns=["status"], filter=wanted)
    return len(found) > 0


def _opened(spec: ExportSpec, url: str) -> ExportSource:
    store = Store(url, spec.storage)
    store.require_answer()
    record = read_record(store)
    if record is None:
        raise RunNotFound(f"from: {url}: no run here ({RUN_FILE} is missing)")
    run = Run(store, record)
    sizes = commit_sizes(store)
    missing = record.layout.num_shards - len(sizes)
    if missing:
        raise RunNotFound(
            f"from: {url}: this run is not finished: {plural(missing, 'shard')} of "
            f"{record.layout.num_shards:,} not committed yet; nightpress run goes on with it"
        )
    with run.reading():
        schema = run.metadata.schema
    selection = Selection.read(store, spec.select) if isinstance(spec.select, str) else None
    late = newest_parts(store)
    return ExportSource(run, schema, _score_names(run, schema, late), sizes, late, selection)


def _score_names(run: Run, schema: pa.Schema, late: Mapping[int, LatePart]) -> tuple[str, ...]:
    """The names of the scores in the first shard of each edition."""
    if SCORES not in schema.names or not pa.types.is_map(schema.field(SCORES).type):
        return ()
    names: dict[str, None] = {}
    for section in run.record.layout.sections:
        if section.parts:
            first = section.parts[0].first_shard
            part = with_scores_of(run.store, read_commit(run.store, first), late.get(first))
            if SCORES in part.column_names:
                for scores in part.column(SCORES).to_pylist():
                    names |= dict.fromkeys(name for name, _ in scores or ())
    return tuple(names)


def one_column(table: pa.Table, name: str) -> pa.Array:
    """A column of texts as one array, without dictionary encoding."""
    column = table.column(name).cast(pa.string())
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())
