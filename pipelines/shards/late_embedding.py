"""Vectors for the images of a committed shard that lack one: a part of `nightpress score`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nightpress.pipelines.run_directory.embeddings import (
    embedding_parts,
    read_part,
    write_embeddings,
)
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.scoring.image_scorer import ImageScores
from nightpress.pipelines.scoring.scorer import ScorerNote

Row = Mapping[str, Any]

Ask = Callable[
    [Sequence[Row], Sequence[str]], tuple[list[ImageScores | None], tuple[ScorerNote, ...]]
]
"""What some scorers say of the images of some rows; None for one that is missing or damaged."""


@dataclass(frozen=True)
class ShardEmbedded:
    """What was done about the vectors of one shard."""

    embedded: frozenset[str] = frozenset()
    """Ids of the images that were read and given a vector now."""
    missing: frozenset[str] = frozenset()
    """Ids of the images that lack a vector, because a scorer failed on them."""
    unreadable: tuple[str, ...] = ()
    """Ids of images that are missing or damaged; if there are any, nothing is written."""
    notes: tuple[ScorerNote, ...] = ()


def embed_missing(
    run: Run, shard: int, rows: Sequence[Row], fingerprints: Mapping[str, str], ask: Ask
) -> ShardEmbedded:
    """Write a vector for each image of a shard that has none from one of some scorers.

    An image that a scorer has failed on is not shown to it again.

    Args:
        run: the run.
        shard: which of its shards.
        rows: its rows that are ok.
        fingerprints: the scorers that give vectors, with their fingerprints.
        ask: asks scorers.

    Raises:
        StoreError: the store failed.
        Damaged: a part is not what was written.
    """
    known = {name: _known(run, shard, name) for name in fingerprints}
    wanted = [row for row in rows if any(row["sha256"] not in each for each in known.values())]
    new, notes = ask(wanted, list(fingerprints)) if wanted else ([], ())
    unreadable = tuple(
        row["image_id"] for row, each in zip(wanted, new, strict=True) if each is None
    )
    if unreadable:
        return ShardEmbedded(unreadable=unreadable)
    for name, mark in fingerprints.items():
        vectors = {
            row["sha256"]: each.embeddings[name]
            for row, each in zip(wanted, new, strict=True)
            if each is not None and row["sha256"] not in known[name]
        }
        write_embeddings(run.store, shard, name, mark, vectors)
        known[name] |= {sha256: each is not None for sha256, each in vectors.items()}
    missing = {row["image_id"] for row in rows if not all(k[row["sha256"]] for k in known.values())}
    embedded = frozenset(row["image_id"] for row in wanted)
    return ShardEmbedded(embedded, frozenset(missing), notes=notes)


def _known(run: Run, shard: int, name: str) -> dict[str, bool]:
    """SHA-256 of the images that a scorer was shown -> whether it gave a vector."""
    known: dict[str, bool] = {}
    for path in embedding_parts(run.store, name, shard):
        part = read_part(run.store, path)
        known |= dict.fromkeys(set(part.failed).difference(known), False)
        known |= dict.fromkeys(part.hashes, True)
    return known
