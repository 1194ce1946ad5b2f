"""The committed images of a run as a selection looks at them, read from its commits."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.hashing import hash64
from nightpress.pipelines.run_directory.committed_parts import committed_parts
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.selections.files import Drop
from nightpress.pipelines.run_directory.selections.request import SelectionRequest
from nightpress.pipelines.run_directory.where import (
    parse_condition,
    score_field,
    scores_in_condition,
)
from nightpress.pipelines.scoring.measurements import MEASUREMENTS

Mask = NDArray[np.bool_]

MAX_EXAMPLES = 3
"""How many ids of images are kept for a reason."""

FAILED = "failed"
NOT_MET = "condition not met"
NO_HASH = "no perceptual hash"


def no_score(name: str) -> str:
    """The reason of an image without a score that is needed."""
    return f"no score {name}"


class Drops:
    """Images that are not chosen, counted by reason, in the order in which reasons are asked."""

    def __init__(self) -> None:
        self._drops: dict[str, Drop] = {}

    def add(self, reason: str, image_ids: pa.ChunkedArray) -> None:
        """Count images, perhaps none; none of them has another reason."""
        known = self._drops.get(reason, Drop(reason, 0, ()))
        examples = [*known.examples, *image_ids[:MAX_EXAMPLES].to_pylist()][:MAX_EXAMPLES]
        self._drops[reason] = Drop(reason, known.num_images + len(image_ids), tuple(examples))

    def as_tuple(self) -> tuple[Drop, ...]:
        """Each reason that some images have."""
        return tuple(drop for drop in self._drops.values() if drop.num_images)


@dataclass(frozen=True)
class Candidates:
    """The images that meet the condition and have what is needed to rank and compare them."""

    table: pa.Table
    """image_id, sha256; `score`, `per` and `balance` if they are asked for; `perceptual_hash` and
    `pixels` to find duplicates; see `_pixels`."""
    num_committed: int
    commits: dict[int, str]
    """Shard -> SHA-256 of its commit."""
    late: dict[int, str]
    """Shard -> path of the part with its late scores, if it has some."""


def read_candidates(run: Run, request: SelectionRequest, drops: Drops) -> Candidates:
    """Read every commit once, and keep the images that may be chosen.

    Args:
        drops: the images that may not are added here.

    Raises:
        SpecError: the condition or a column cannot be used.
        Damaged: a commit is not what was written.
        StoreError: the metadata cannot be read.
    """
    with run.reading():
        schema = run.metadata.schema
    reader = _PartReader(request, schema, drops)
    tables, num_committed = [reader.none()], 0
    commits, late = dict[int, str](), dict[int, str]()
    for part in committed_parts(run, schema):
        commits[part.shard] = part.sha256
        if part.late is not None:
            late[part.shard] = part.late
        num_committed += len(part.rows)
        tables.append(reader.candidates(part.rows))
    return Candidates(pa.concat_tables(tables).combine_chunks(), num_committed, commits, late)


class _PartReader:
    """Takes from a commit what the request needs, and sorts out what cannot be chosen."""

    def __init__(self, request: SelectionRequest, schema: pa.Schema, drops: Drops) -> None:
        self._request, self._schema, self._drops = request, schema, drops
        self._condition_scores: tuple[str, ...] = ()
        self._columns = {
            "image_id": ds.field("image_id"),
            "sha256": ds.field("sha256"),
            "status": ds.field("status"),
        }
        if request.where is not None:
            self._condition_scores = scores_in_condition(request.where, schema)
            self._columns["met"] = parse_condition(request.where, schema)
        if request.score is not None:
            self._columns["score"] = score_field(request.score)
        for option in ("per", "balance"):
            if (column := getattr(request, option)) is not None:
                self._columns[option] = _group_column(schema, column, option)
        if request.dedup is not None:
            self._columns |= {
                name: ds.field(name) for name in ("perceptual_hash", "width", "height")
            }
        measured = MEASUREMENTS if request.dedup is not None else ()
        for name in dict.fromkeys([*self._condition_scores, *measured]):
            self._columns[f"scores.{name}"] = score_field(name)

    def none(self) -> pa.Table:
        """The columns of `candidates`, without a row."""
        return self._kept(self._taken(self._schema.empty_table()))

    def candidates(self, rows: pa.Table) -> pa.Table:
        """The rows of a commit that may be chosen."""
        table = self._taken(rows)
        dropped = np.zeros(len(table), bool)
        for reason, holds in self._reasons(table):
            new = holds & ~dropped
            self._drops.add(reason, table.column("image_id").filter(pa.array(new)))
            dropped |= new
        return self._kept(table.filter(pa.array(~dropped)))

    def _taken(self, rows: pa.Table) -> pa.Table:
        return ds.dataset(rows).to_table(columns=self._columns)

    def _kept(self, table: pa.Table) -> pa.Table:
        if self._request.dedup is not None:
            table = table.append_column("pixels", _pixels(table))
        names = ("image_id", "sha256", "score", "per", "balance", "perceptual_hash", "pixels")
        return table.select([name for name in names if name in table.column_names])

    def _reasons(self, table: pa.Table) -> Iterator[tuple[str, Mask]]:
        """Why images cannot be chosen, the first reason first, and for which rows each holds."""
        yield FAILED, _mask(pc.not_equal(table.column("status"), "ok"))
        if self._request.where is not None:
            is_unknown = _mask(pc.is_null(table.column("met")))
            for name in self._condition_scores:
                is_missing = _mask(pc.is_null(table.column(f"scores.{name}")))
                yield no_score(name), is_unknown & is_missing
            yield NOT_MET, ~_mask(pc.fill_null(table.column("met"), False))
        if self._request.score is not None:
            is_missing = pc.is_null(table.column("score"), nan_is_null=True)
            yield no_score(self._request.score), _mask(is_missing)
        if self._request.dedup in ("near", "embeddings"):
            yield NO_HASH, _mask(pc.is_null(table.column("perceptual_hash")))


def _mask(values: pa.ChunkedArray) -> Mask:
    mask: Mask = values.to_numpy().astype(bool)
    return mask


def _pixels(table: pa.Table) -> pa.Array:
    """(n,) binary(16): equal for images whose pixels are equal; null if that is not known.

    It is a hash of the size, the perceptual hash and the measurements, which are exact sums over
    all pixels.
    """
    facts = ["perceptual_hash", "width", "height", *(f"scores.{name}" for name in MEASUREMENTS)]
    texts = [pc.cast(table.column(name), pa.string()) for name in facts]
    joined = pc.binary_join_element_wise(*texts, " ").combine_chunks()
    filled = pc.fill_null(joined, "")
    keys = np.stack([hash64(filled, seed) for seed in range(2)], axis=1)
    whole = pa.Array.from_buffers(pa.binary(16), len(keys), [None, pa.py_buffer(keys.tobytes())])
    return pc.if_else(pc.is_valid(joined), whole, pa.scalar(None, pa.binary(16)))


def _group_column(schema: pa.Schema, column: str, option: str) -> ds.Expression:
    """A column whose values group images.

    Raises:
        SpecError: there is no such column, or its values cannot be compared.
    """
    if column not in schema.names:
        near = get_close_matches(column, schema.names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SpecError(
            f"{option}: there is no column {column!r}; {hint}the columns are: "
            f"{', '.join(schema.names)}"
        )
    if pa.types.is_nested(schema.field(column).type):
        raise SpecError(
            f"{option}: the column {column} is {schema.field(column).type}, which groups no images"
        )
    return ds.field(column)
