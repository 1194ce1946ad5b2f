"""Scores that were made after a run: `scores/`, whose parts take the place of commits for readers.

A part holds every row of one commit, with more scores. It is created once and never rewritten: more
scores come in another part, one layer above. Parts belong to the commit of one size, and a commit
that is amended grows: of the parts from before, only the scores of images count that have the same
bytes still.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged, SpecError
from nightpress.pipelines.records import METADATA_SCHEMA, SCORE_COLUMNS
from nightpress.pipelines.run_directory.commit import metadata_columns
from nightpress.pipelines.run_directory.json_files import json_file, what_is_wrong
from nightpress.pipelines.storage import Store

SCORES_FOLDER = "scores"

SCORERS = b"nightpress.scorers"
"""Key in a part's Parquet footer: name -> fingerprint, as JSON, of the scorers that scored all its
images, if only by a null."""

COMMIT_SHA256 = b"nightpress.commit_sha256"
"""Key in a part's Parquet footer: SHA-256 of the commit whose rows it has."""

_PART = re.compile(r"scores/shard-(\d{5,})/(\d+)-(\d{3,})\.parquet")


@dataclass(frozen=True, order=True)
class LatePart:
    """A part: where it lies, by what it belongs to."""

    shard: int
    num_bytes: int
    """Size of the commit whose rows it has."""
    layer: int
    """From 0; the part of the highest layer has the scores of those below, too."""

    @property
    def path(self) -> str:
        """`scores/shard-00012/4711-000.parquet`."""
        return f"{shard_folder(self.shard)}/{self.num_bytes}-{self.layer:03d}.parquet"


@dataclass(frozen=True)
class LateScores:
    """The content of a part."""

    rows: pa.Table
    scorers: Mapping[str, str]
    """Name -> fingerprint, of the scorers that it has scores of."""


def shard_folder(shard: int) -> str:
    """`scores/shard-00012`."""
    return f"{SCORES_FOLDER}/shard-{shard:05d}"


def late_parts(store: Store, shard: int | None = None) -> list[LatePart]:
    """The parts of one shard, or of all, in order; from one listing."""
    folder = SCORES_FOLDER if shard is None else shard_folder(shard)
    found = (_PART.fullmatch(path) for path in store.list(folder))
    return sorted(LatePart(*map(int, match.groups())) for match in found if match)


def newest_parts(store: Store) -> dict[int, LatePart]:
    """Shard -> its newest part, for shards that have one.

    If its commit has been amended since, it still has the scores of images that stayed the same;
    see `with_late_scores`.
    """
    return {each.shard: each for each in late_parts(store)}  # in order, so the newest comes last


def read_late(store: Store, part: LatePart) -> LateScores:
    """Read a part.

    Raises:
        Damaged: it is not what was written.
    """
    try:
        source = pa.BufferReader(store.read(part.path))
        rows = pq.read_table(source, page_checksum_verification=True)
        scorers = json.loads(rows.schema.metadata[SCORERS])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"{store.url}/{part.path} is damaged ({one_line(error, 200)}); delete it, and "
            "nightpress score makes it again",
            part.shard,
        ) from error
    return LateScores(rows.replace_schema_metadata(None), scorers)


def with_late_scores(rows: pa.Table, late: LateScores) -> pa.Table:
    """Rows of a commit, with the late scores of the images whose bytes are still those scored.

    Args:
        rows: all rows of the commit, with at least the column `sha256`.
        late: the content of a part of its shard, for this commit or for one before it.
    """
    names = ("sha256", *SCORE_COLUMNS)
    own, other = metadata_columns(rows, names).to_pylist(), late.rows.select(names).to_pylist()
    merged = [
        after if after["sha256"] == before["sha256"] else before
        for before, after in zip(own, other, strict=True)
    ]
    for name in SCORE_COLUMNS:
        field = METADATA_SCHEMA.field(name)
        values = pa.array([row[name] for row in merged], field.type)
        if name in rows.column_names:
            rows = rows.set_column(rows.schema.get_field_index(name), field, values)
        else:
            rows = rows.append_column(field, values)
    return rows


def with_scores_of(store: Store, rows: pa.Table, part: LatePart | None) -> pa.Table:
    """Rows of a commit with the scores of a stored part; unchanged if there is none.

    Raises:
        Damaged: the part is not what was written.
    """
    return rows if part is None else with_late_scores(rows, read_late(store, part))


def create_late(store: Store, part: LatePart, scores: LateScores, commit_sha256: str) -> bool:
    """Write a part; False if another process has written one of this name."""
    footer = {SCORERS: json.dumps(dict(scores.scorers)), COMMIT_SHA256: commit_sha256}
    sink = pa.BufferOutputStream()
    rows = scores.rows.replace_schema_metadata(footer)
    pq.write_table(rows, sink, compression="zstd", write_page_checksum=True)
    return store.create(part.path, sink.getvalue().to_pybytes())


def register_scorer(store: Store, name: str, fingerprint: str, scorer: Mapping[str, Any]) -> None:
    """Take a name for the scores of one scorer, for good, in `scores/<name>.json`.

    Args:
        name: its name in the job.
        fingerprint: of the scorer.
        scorer: its settings, for people.

    Raises:
        SpecError: the name stands for the scores of another scorer.
        Damaged: the record of the name is not one.
    """
    data = json_file({"fingerprint": fingerprint, "scorer": dict(scorer)})
    if not store.create(_record_of(name), data):
        require_free_name(store, name, fingerprint)


def require_free_name(store: Store, name: str, fingerprint: str) -> None:
    """Refuse a name that stands for the late scores of another scorer.

    Raises:
        SpecError: it does.
        Damaged: the record of the name is not one.
    """
    path = _record_of(name)
    data = store.read_if_any(path)
    if data is None:
        return
    try:
        taken = json.loads(data)["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        wrong = what_is_wrong(error)
        raise Damaged(f"{store.url}/{path}: not the record of a scorer: {wrong}") from error
    require_same_scorer(store, name, taken, fingerprint)


def _record_of(name: str) -> str:
    return f"{SCORES_FOLDER}/{name}.json"


def require_same_scorer(store: Store, name: str, taken: str, fingerprint: str) -> None:
    """Refuse to mix the scores of two scorers under one name.

    Raises:
        SpecError: they are two.
    """
    if taken != fingerprint:
        raise SpecError(
            f"scores.{name}: {store.url} has scores of this name by a scorer with other weights, "
            f"settings or code (fingerprint {taken[:12]}, and this one's is {fingerprint[:12]}); "
            "give this one another name"
        )
