"""The metadata of a run shard by shard, each as it was at one moment."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256

import pyarrow as pa

from nightpress.pipelines.run_directory.commit import decode_commit, shard_path
from nightpress.pipelines.run_directory.late_scores import (
    LatePart,
    newest_parts,
    with_scores_of,
)
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.metadata_schema import with_carried
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import READ_THREADS


@dataclass(frozen=True)
class CommittedPart:
    """The metadata of one committed shard."""

    shard: int
    sha256: str
    """SHA-256 of the commit that was read."""
    late: str | None
    """Path of the part with its late scores; None if there is none."""
    rows: pa.Table


def committed_parts(run: Run, schema: pa.Schema) -> Iterator[CommittedPart]:
    """The metadata of each shard that is committed now, in order, read a few ahead.

    Scores that were made later are among the others.

    Args:
        schema: that of the run's `metadata`; every part has these columns.

    Raises:
        Damaged: a part is not what was written.
        StoreError: the metadata cannot be read.
    """
    late = newest_parts(run.store)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = partial(_read, run, schema, late)
        yield from map_ahead(pool, read, run.committed, READ_THREADS)


def _read(run: Run, schema: pa.Schema, late: Mapping[int, LatePart], shard: int) -> CommittedPart:
    data = run.store.read(shard_path(shard))
    rows, found = decode_commit(run.store, shard, data), late.get(shard)
    rows = with_scores_of(run.store, rows, found)
    with run.reading():
        rows = with_carried(rows, schema)
    path = None if found is None else found.path
    return CommittedPart(shard, sha256(data).hexdigest(), path, rows)
