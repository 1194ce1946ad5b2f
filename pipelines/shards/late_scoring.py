"""Scoring the images of committed shards: what `nightpress score` does with each of them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.records import METADATA_SCHEMA, PLAN_SCHEMA
from nightpress.pipelines.run_directory.commit import decode_commit, metadata_columns, shard_path
from nightpress.pipelines.run_directory.late_scores import (
    LatePart,
    LateScores,
    create_late,
    late_parts,
    read_late,
)
from nightpress.pipelines.run_directory.metadata_rows import metadata_rows
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.scoring.image_scorer import ImageScorer, ImageScores
from nightpress.pipelines.scoring.measurements import MEASUREMENTS
from nightpress.pipelines.scoring.scorer import HasEmbedding, LoadedScorer, ScorerNote, full_name
from nightpress.pipelines.shards.late_embedding import embed_missing
from nightpress.pipelines.shards.shard_scores import PROMPTS
from nightpress.pipelines.storage import READ_THREADS

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ShardScored:
    """What was done about the scores of one shard."""

    shard: int
    num_images: int
    """Images that are ok."""
    num_scored: int = 0
    """Images that were read and scored now; the others had their scores."""
    num_missing: int = 0
    """Images without one of the scores that were asked for: a scorer failed on them."""
    unreadable: tuple[str, ...] = ()
    """Images that are missing or damaged; if there are any, nothing of the shard is scored."""
    notes: tuple[ScorerNote, ...] = ()


@dataclass(frozen=True)
class _Shard:
    """A committed shard, and what is known about its scores."""

    commit_sha256: str
    part: LatePart
    """The part to be written."""
    rows: pa.Table
    """All columns, with the scores known so far."""
    scorers: Mapping[str, str]
    """Name -> fingerprint, of the scorers that have scored all its images."""


class LateScorer:
    """Scores the images of committed shards.

    Args:
        run: the run.
        scorers: name -> scorer.
    """

    def __init__(self, run: Run, scorers: Mapping[str, LoadedScorer]) -> None:
        self._run = run
        self._embedders = {n: e for n, e in scorers.items() if isinstance(e.scorer, HasEmbedding)}
        self._scorers = {n: e for n, e in scorers.items() if n not in self._embedders}
        self._fingerprints = {name: each.scorer.fingerprint for name, each in scorers.items()}

    def score(self, shard: int) -> ShardScored:
        """Score the images of a shard that lack a score, and write the part with their scores.

        Raises:
            StoreError: the store failed.
            Damaged: the commit or a part is not what was written.
        """
        while True:
            found = self._read(shard)
            rows = metadata_rows(found.rows)
            ok = [row for row in rows if row["status"] == "ok"]
            done, part, scored = self._score(found, rows, ok)
            if part is None or create_late(self._run.store, found.part, part, found.commit_sha256):
                return done if done.unreadable else self._embed(done, ok, scored)

    def _embed(self, done: ShardScored, rows: Sequence[Row], scored: Sequence[Row]) -> ShardScored:
        """Give the images of a shard the vectors that they lack.

        Args:
            done: what was done about its scores.
            rows: those that are ok, with their scores.
            scored: those of them that were scored now.
        """
        if not self._embedders:
            return done
        marks = {name: self._fingerprints[name] for name in self._embedders}
        found = embed_missing(self._run, done.shard, rows, marks, self._score_rows)
        names = list(self._scorers)
        return replace(
            done,
            num_scored=len(found.embedded.union(row["image_id"] for row in scored)),
            num_missing=sum(
                row["image_id"] in found.missing or not self._have_scores([row], names)
                for row in rows
            ),
            unreadable=found.unreadable,
            notes=(*done.notes, *found.notes),
        )

    def _read(self, shard: int) -> _Shard:
        store = self._run.store
        data = store.read(shard_path(shard))
        own = [each for each in late_parts(store, shard) if each.num_bytes == len(data)]
        digest, below = hashlib.sha256(data).hexdigest(), own[-1] if own else None
        if below is not None:
            late = read_late(store, below)
            return _Shard(digest, replace(below, layer=below.layer + 1), late.rows, late.scorers)
        rows = decode_commit(store, shard, data)
        carried = [name for name in rows.column_names if name not in METADATA_SCHEMA.names]
        known = metadata_columns(rows)
        full = pa.table(
            [*known.columns, *(rows.column(name) for name in carried)],
            schema=pa.schema([*known.schema, *(rows.schema.field(name) for name in carried)]),
        )
        return _Shard(digest, LatePart(shard, len(data), 0), full, {})

    def _score(
        self, found: _Shard, rows: Sequence[Row], ok: Sequence[dict[str, Any]]
    ) -> tuple[ShardScored, LateScores | None, Sequence[Row]]:
        """Score what lacks a score; the content of the part is None if there is nothing to add.

        Args:
            found: the shard.
            rows: all of its rows.
            ok: those of them that are ok; they get their scores.

        Returns:
            Also the rows that were scored now.
        """
        shard = found.part.shard
        names = self._unfinished(found, ok)
        earlier = self._earlier(found, names)
        for row in ok:
            row["scores"] = (row["scores"] or {}) | earlier.get(row["sha256"], {})
        wanted = [row for row in ok if not self._is_complete(row, names, earlier)]
        if not names and not wanted:
            return ShardScored(shard, len(ok), num_missing=self._num_missing(ok)), None, ()
        new, notes = self._score_rows(wanted, names)
        unreadable = tuple(wanted[n]["image_id"] for n, each in enumerate(new) if each is None)
        if unreadable:
            return ShardScored(shard, len(ok), unreadable=unreadable), None, ()
        for row, scores in zip(wanted, new, strict=True):
            assert scores is not None  # noqa: S101 - the shard would have been left alone
            row["scores"] |= scores.scores
            row["perceptual_hash"] = scores.perceptual_hash
        scorers = {**found.scorers, **{name: self._fingerprints[name] for name in names}}
        missing = self._num_missing(ok)
        done = ShardScored(shard, len(ok), len(wanted), missing, notes=notes)
        return done, LateScores(_with_scores(found.rows, rows), scorers), wanted

    def _score_rows(
        self, rows: Sequence[Row], names: Sequence[str]
    ) -> tuple[list[ImageScores | None], tuple[ScorerNote, ...]]:
        """The scores of images; None for one whose bytes are not those that its row names."""
        known = {**self._scorers, **self._embedders}
        scorer = ImageScorer({name: known[name] for name in names})
        with ThreadPoolExecutor(READ_THREADS) as pool:
            scores = list(pool.map(partial(self._score_row, scorer), rows))
        scorer.close()
        return scores, scorer.take_notes()

    def _unfinished(self, found: _Shard, rows: Sequence[Row]) -> list[str]:
        """The scorers that have not scored all images of a shard."""
        return [
            name
            for name in self._scorers
            if name not in found.scorers
            and not (name in self._run.record.scorers and self._have_scores(rows, [name]))
        ]

    def _have_scores(self, rows: Sequence[Row], names: Sequence[str]) -> bool:
        """Whether all of these images have all scores of these scorers."""
        wanted = list(self._score_names(names))
        return all((row["scores"] or {}).get(each) is not None for row in rows for each in wanted)

    def _is_complete(self, row: Row, names: Sequence[str], earlier: Mapping[str, object]) -> bool:
        """Whether an image is measured and need not be shown to these scorers."""
        scores = row["scores"]
        if row["perceptual_hash"] is None or any(scores.get(each) is None for each in MEASUREMENTS):
            return False
        is_own = all(name in self._run.record.scorers for name in names)
        return row["sha256"] in earlier or (is_own and self._have_scores([row], names))

    def _score_names(self, names: Sequence[str]) -> Iterator[str]:
        for name in names:
            yield from (full_name(name, label) for label in self._scorers[name].labels)

    def _earlier(self, found: _Shard, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
        """SHA-256 of an image -> its scores by these scorers from before its commit was amended."""
        if found.part.layer or not names:
            return {}
        known: dict[str, dict[str, float | None]] = {}
        wanted = list(self._score_names(names))
        for part in late_parts(self._run.store, found.part.shard):
            late = read_late(self._run.store, part)
            if any(late.scorers.get(name) != self._fingerprints[name] for name in names):
                continue
            rows = metadata_rows(late.rows.select(["sha256", "status", "scores"]))
            for row in rows:
                if row["status"] == "ok":
                    known[row["sha256"]] = {name: row["scores"].get(name) for name in wanted}
        return known

    def _num_missing(self, rows: Sequence[Row]) -> int:
        return sum(not self._have_scores([row], list(self._scorers)) for row in rows)

    def _score_row(self, scorer: ImageScorer, row: Row) -> ImageScores | None:
        """The scores of an image; None if its bytes are not those that its row names."""
        try:
            data = image_bytes(self._run.store, row)
        except StoreMissing:
            return None
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            return None
        return scorer.score_file(data, partial(_columns, row))


def _columns(row: Row) -> dict[str, object]:
    """What a scorer sees of an image's row."""
    known = {*METADATA_SCHEMA.names, *PLAN_SCHEMA.names} - set(PROMPTS)
    return {name: value for name, value in row.items() if name not in known}


def _with_scores(table: pa.Table, rows: Sequence[Row]) -> pa.Table:
    """The table with the scores and the hashes of some rows, which are all of its rows."""
    for name in ("scores", "perceptual_hash"):
        field = METADATA_SCHEMA.field(name)
        values = pa.array([row[name] for row in rows], field.type)
        table = table.set_column(table.schema.get_field_index(name), field, values)
    return table
