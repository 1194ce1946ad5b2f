"""Which bytes the pictures had that a run has used, as its committed metadata have recorded them.

A row that failed because of a picture has not used it: once the picture is mended, the row can be
made. Every other row has, also one that failed for another reason.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.hashing import hash64
from nightpress.pipelines.records import METADATA_SCHEMA, FailureType
from nightpress.pipelines.run_directory.commit import metadata_columns
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.stored import stored_facts

INPUT_FAILURES = (
    FailureType.INPUT_MISSING,
    FailureType.INPUT_UNDECODABLE,
    FailureType.INPUT_CHANGED,
)
"""Why a row fails before any of its pictures is used."""

Hashes = Mapping[str, frozenset[str]]
"""URL -> the SHA-256 that its picture had; several if it changed while a start was working."""

DIGEST_BYTES = 32


@dataclass(frozen=True)
class UsedInputs:
    """URL -> SHA-256 of the pictures that a run has used, small enough for every process.

    Two URLs with the same 64-bit key, of which a million have one pair in 40 million runs, are each
    allowed the bytes of both.
    """

    keys: NDArray[np.uint64]
    """(n,) sorted: the hash of a URL; as often as it has different digests."""
    digests: NDArray[np.uint8]
    """(n, 32)."""

    @classmethod
    def of(
        cls, rows: Iterable[pa.Table], others: Iterable[tuple[str | None, str | None]] = ()
    ) -> "UsedInputs":
        """From metadata rows.

        Args:
            rows: with their columns `inputs` and `error_type`.
            others: (URL, SHA-256) of pictures that other images were made from.
        """
        pairs = [_pairs(table) for table in rows]
        known = [(url, each) for url, hashes in hashes_of(others).items() for each in hashes]
        pairs.append(pa.Table.from_pylist([{"url": u, "sha256": h} for u, h in known], _PAIRS))
        found = pa.concat_tables(pairs).group_by(["url", "sha256"]).aggregate([])
        keys = _keys(found.column("url"))
        order = np.argsort(keys, kind="stable")
        text = "".join(found.column("sha256").to_pylist())
        digests = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, DIGEST_BYTES)
        return cls(keys[order], digests[order])

    def hashes(self, url: str) -> frozenset[str]:
        """The SHA-256 that the picture of a URL had; empty if it was not used."""
        key = _keys(pa.array([url], pa.string()))[0]
        first, end = (
            np.searchsorted(self.keys, key, "left"),
            np.searchsorted(self.keys, key, "right"),
        )
        return frozenset(digest.tobytes().hex() for digest in self.digests[first:end])


NOTHING_USED = UsedInputs(np.zeros(0, np.uint64), np.zeros((0, DIGEST_BYTES), np.uint8))


def read_used_inputs(run: Run, unreadable: Collection[int] = ()) -> UsedInputs:
    """What a run has used, from all its commits and the images that no commit names yet.

    Of those images only the next ones of the plan are looked at; see `stored.stored_facts`.

    Args:
        run: as it is now.
        unreadable: shards whose commits are damaged, which are left out.

    Raises:
        StoreError: the store fails, or another commit is damaged.
    """
    committed = run.committed
    stored = stored_facts(run.store, run.record, committed)
    inputs = [each for facts in stored for each in facts.inputs]
    readable = [shard for shard in committed if shard not in unreadable]
    with run.reading():
        shards = run.shards(readable, _COLUMNS)
        batches = shards.to_batches(columns=["inputs", "error_type"])
        rows = (pa.Table.from_batches([batch]) for batch in batches)
        return UsedInputs.of(rows, ((each.url, each.sha256) for each in inputs))


def used_by_image(part: pa.Table) -> dict[str, Hashes]:
    """Image id -> what it was made from, for the images of a metadata part that used pictures."""
    rows = metadata_columns(part).select(["image_id", "error_type", "inputs"]).to_pylist()
    return {
        row["image_id"]: hashes_of((each["url"], each["sha256"]) for each in row["inputs"] or ())
        for row in rows
        if row["inputs"] and row["error_type"] not in INPUT_FAILURES
    }


def hashes_of(pairs: Iterable[tuple[str | None, str | None]]) -> Hashes:
    """The hashes by URL, from (URL, SHA-256); pairs without one of them are left out."""
    found: dict[str, frozenset[str]] = {}
    for url, sha256 in pairs:
        if url is not None and sha256 is not None:
            found[url] = found.get(url, frozenset()) | {sha256}
    return found


_COLUMNS = pa.schema([METADATA_SCHEMA.field(name) for name in ("inputs", "error_type")])
_PAIRS = pa.schema([("url", pa.string()), ("sha256", pa.string())])


def _pairs(rows: pa.Table) -> pa.Table:
    """URL and SHA-256 of the pictures that the rows used, without repeats."""
    failures = pa.array([each.value for each in INPUT_FAILURES])
    used = rows.filter(pc.invert(pc.is_in(rows.column("error_type"), failures)))
    inputs = pc.list_flatten(used.column("inputs"))
    pairs = pa.table({name: pc.struct_field(inputs, name) for name in ("url", "sha256")})
    known = pc.and_(pc.is_valid(pairs.column("url")), pc.is_valid(pairs.column("sha256")))
    return pairs.filter(known).group_by(["url", "sha256"]).aggregate([])


def _keys(urls: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    array = urls.combine_chunks() if isinstance(urls, pa.ChunkedArray) else urls
    return np.asarray(hash64(array, 0), np.uint64)
