"""Near-duplicates among many embeddings of images, found exactly with bounded memory."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from nightpress.pipelines.scoring.near_duplicates import Positions

DEFAULT_SIMILARITY = 0.95
"""The cosine from which two images are near-duplicates, unless another is asked for."""

DECIMALS = 6
"""Cosines are rounded to so many decimals before they are compared, so that the order in which a
machine adds numbers up decides nothing."""

ROWS_AT_ONCE = 2_048
"""Embeddings that are compared at once."""

OTHERS_AT_ONCE = 8_192
"""With how many others they are compared at once."""

PAIRS_AT_ONCE = 4_096
"""Pairs whose cosine is computed in full at once, which bounds the memory."""

SLACK = 1e-4
"""More than the rounding error of a bound in float32."""

WIDTHS = (16, 32, 64, 128, 256, 512)
"""Numbers of a sketch; the one that costs least on a sample is taken."""

SAMPLE, PAIRED = 8_192, 1_024
"""So many embeddings give the axes of sketches, and so many of these are compared each with each
to choose the width."""

PAIR_COST = 1e5
"""What a cosine in full costs, in multiplications of a sketch."""

Vectors = NDArray[np.float16]
"""(n, d) embeddings, one a row; no row is all zeros."""


@dataclass(frozen=True)
class VectorRows:
    """Some rows of embeddings in an order of their own, without a copy of the embeddings."""

    vectors: Vectors
    rows: Positions

    @classmethod
    def all_of(cls, vectors: Vectors) -> Self:
        """All rows in their order."""
        return cls(vectors, np.arange(len(vectors)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: Positions | slice) -> Vectors:
        return self.vectors[self.rows[places]]


Similarities = NDArray[np.float64]
"""(n,) cosines; NaN for none."""

Sketches = NDArray[np.float32]


@dataclass(frozen=True)
class NearEmbeddings:
    """For each embedding, which one it is a near-duplicate of."""

    positions: Positions
    """(n,)"""
    similarities: Similarities
    """(n,) the cosine to that one."""


Steps = Generator[int, None, NearEmbeddings]
"""Numbers of embeddings that are compared so far, and then the result."""


def ignore(number: int) -> None:
    """Do nothing: the default of `told`."""


def cosines(a: Vectors, b: Vectors) -> Similarities:
    """The cosine of each row of `a` with the same row of `b`, rounded; (n,)."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    lengths = np.einsum("nd,nd->n", x, x) * np.einsum("nd,nd->n", y, y)
    rounded: Similarities = np.round(np.einsum("nd,nd->n", x, y) / np.sqrt(lengths), DECIMALS)
    return rounded


def first_near_embedding(
    vectors: VectorRows, others: VectorRows, similarity: float
) -> NearEmbeddings:
    """For each embedding the first of `others` whose cosine with it is at least `similarity`.

    Every embedding is compared with every other; see `Sketch` for how most pairs are ruled out.

    Returns:
        -1 and NaN for those without one.
    """
    return _finished(first_near_steps(vectors, others, similarity), ignore)


def first_near_steps(vectors: VectorRows, others: VectorRows, similarity: float) -> Steps:
    """As `first_near_embedding`; yields how many embeddings are compared, now and then."""
    found = NearEmbeddings(np.full(len(vectors), -1), np.full(len(vectors), np.nan))
    if not len(vectors) or not len(others):
        return found
    sketch = Sketch.of(others, similarity)
    chunks = [
        _Chunk(others, np.arange(start, min(start + OTHERS_AT_ONCE, len(others))), sketch)
        for start in range(0, len(others), OTHERS_AT_ONCE)
    ]
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(vectors)))
        _find(vectors, rows, sketch.of_rows(vectors[rows]), chunks, similarity, found)
        yield start + len(rows)
    return found


def near_embedding_groups(
    vectors: VectorRows, similarity: float, told: Callable[[int], None] = ignore
) -> NearEmbeddings:
    """For each embedding the position of the one that stands for it; its own if it is kept.

    As `near_groups` of perceptual hashes: in their order, an embedding is kept unless its cosine
    with one that is kept already is at least `similarity`, and then the first of these stands for
    it. The result does not depend on the machine or on how embeddings are batched.

    Time grows with the square of the number of kept ones, memory with the number: beside
    the embeddings, a sketch of at most 4 d bytes of each kept one.

    Args:
        vectors: the embeddings, in their order.
        similarity: the least cosine of near-duplicates.
        told: called now and then with how many are compared.
    """
    return _finished(grouping_steps(vectors, similarity), told)


def grouping_steps(vectors: VectorRows, similarity: float) -> Steps:
    """As `near_embedding_groups`; yields how many embeddings are compared, now and then."""
    found = NearEmbeddings(np.full(len(vectors), -1), np.full(len(vectors), np.nan))
    if len(vectors):
        sketch = Sketch.of(vectors, similarity)
        kept = list[_Chunk]()
        for start in range(0, len(vectors), ROWS_AT_ONCE):
            rows = np.arange(start, min(start + ROWS_AT_ONCE, len(vectors)))
            sketches = sketch.of_rows(vectors[rows])
            _find(vectors, rows, sketches, kept, similarity, found)
            left = found.positions[rows] < 0
            _group_few(vectors, rows[left], sketches[left], similarity, found)
            new = rows[found.positions[rows] == rows]
            _append(kept, _Chunk(vectors, new, sketch))
            yield start + len(rows)
    return found


def _finished(steps: Steps, told: Callable[[int], None]) -> NearEmbeddings:
    """The result of some steps, once they are done."""
    while True:
        try:
            told(next(steps))
        except StopIteration as end:
            return cast("NearEmbeddings", end.value)


@dataclass(frozen=True)
class Sketch:
    """A few numbers for each embedding whose products are no less than the cosines.

    A sketch is the coordinates p of the unit vector x along the strongest directions of a sample,
    and the length r of the rest of x. By the inequality of Cauchy and Schwarz,
    x . y <= p_x . p_y + r_x r_y, so that a pair whose sketches' product is below the wanted cosine
    need not be looked at.
    """

    axes: NDArray[np.float32]
    """(d, width - 1), orthonormal."""

    @classmethod
    def of(cls, vectors: VectorRows, similarity: float) -> Self:
        """The sketch that costs least on a sample of some embeddings."""
        sample = _unit(vectors[:: max(1, len(vectors) // SAMPLE)])
        _, directions = np.linalg.eigh(sample.T @ sample)
        axes = np.ascontiguousarray(directions[:, ::-1], np.float32)
        some = sample[:: max(1, len(sample) // PAIRED)]
        costs = {}
        for width in (*(each for each in WIDTHS if each <= axes.shape[0]), axes.shape[0] + 1):
            sketches = cls(axes[:, : width - 1])._of_units(some)
            looked_at = np.count_nonzero(sketches @ sketches.T >= similarity - SLACK) - len(some)
            costs[width] = width + PAIR_COST * looked_at / len(some) ** 2
        return cls(np.ascontiguousarray(axes[:, : min(costs, key=costs.__getitem__) - 1]))

    def of_rows(self, vectors: Vectors) -> Sketches:
        """The sketches of embeddings; (n, width)."""
        return self._of_units(_unit(vectors))

    def _of_units(self, units: Sketches) -> Sketches:
        along = units @ self.axes
        rest = np.sqrt(np.maximum(0, 1 - np.einsum("nk,nk->n", along, along)))
        return np.column_stack([along, rest]).astype(np.float32)


class _Chunk:
    """Embeddings that others are compared with, and their sketches.

    Args:
        vectors: all embeddings.
        positions: which of them are in the chunk, in order.
        sketch: makes the sketches.
    """

    def __init__(self, vectors: VectorRows, positions: Positions, sketch: Sketch) -> None:
        self.vectors, self.positions = vectors, positions
        self.sketches = sketch.of_rows(vectors[positions])

    def joined(self, other: "_Chunk") -> "_Chunk":
        """This one and one that follows it."""
        joined = object.__new__(_Chunk)
        joined.vectors = self.vectors
        joined.positions = np.concatenate([self.positions, other.positions])
        joined.sketches = np.concatenate([self.sketches, other.sketches])
        return joined


def _append(kept: list[_Chunk], new: _Chunk) -> None:
    """Put a chunk at the end of others, together with the last one if that is small."""
    if kept and len(kept[-1].positions) + len(new.positions) <= OTHERS_AT_ONCE:
        kept[-1] = kept[-1].joined(new)
    elif len(new.positions):
        kept.append(new)


def _find(
    vectors: VectorRows,
    rows: Positions,
    sketches: Sketches,
    chunks: list[_Chunk],
    similarity: float,
    found: NearEmbeddings,
) -> None:
    """Note for each of some rows the first embedding of the chunks that is near it, if any is."""
    open_ = np.arange(len(rows))
    for chunk in chunks:
        if not len(open_):
            return
        bounds = sketches[open_] @ chunk.sketches.T
        for number, place in _pairs(bounds, similarity):
            fresh = found.positions[rows[open_[number]]] < 0
            left, right = rows[open_[number[fresh]]], chunk.positions[place[fresh]]
            _note_first(vectors, left, chunk.vectors, right, similarity, found)
        open_ = open_[found.positions[rows[open_]] < 0]


def _note_first(
    a: VectorRows,
    left: Positions,
    b: VectorRows,
    right: Positions,
    similarity: float,
    found: NearEmbeddings,
) -> None:
    """Note for each row the first of its pairs that is near.

    Args:
        left, right: the pairs, sorted by row, then by the other.
    """
    values = cosines(a[left], b[right])
    near = np.flatnonzero(values >= similarity)
    firsts, index = np.unique(left[near], return_index=True)
    found.positions[firsts] = right[near[index]]
    found.similarities[firsts] = values[near[index]]


def _group_few(
    vectors: VectorRows,
    rows: Positions,
    sketches: Sketches,
    similarity: float,
    found: NearEmbeddings,
) -> None:
    """Group some rows, of which none is near one that was kept before."""
    found.positions[rows], found.similarities[rows] = rows, 1.0
    for left, right in _pairs(np.triu(sketches @ sketches.T, 1), similarity):
        free = (found.positions[rows] == rows)[left] & (found.positions[rows] == rows)[right]
        left, right = left[free], right[free]
        values = cosines(vectors[rows[left]], vectors[rows[right]])
        near = np.flatnonzero(values >= similarity)
        for one in np.unique(left[near]).tolist():  # in order; it may just have been dropped
            if found.positions[rows[one]] != rows[one]:
                continue
            pairs = near[left[near] == one]
            pairs = pairs[found.positions[rows[right[pairs]]] == rows[right[pairs]]]
            found.positions[rows[right[pairs]]] = rows[one]
            found.similarities[rows[right[pairs]]] = values[pairs]


def _pairs(bounds: Sketches, similarity: float) -> Iterator[tuple[Positions, Positions]]:
    """The pairs whose bound is high enough, sorted by row and column, some at a time."""
    lowest = np.float32(similarity - SLACK)
    rows = np.flatnonzero(bounds.max(axis=1, initial=-1) >= lowest)
    left, right = np.nonzero(bounds[rows] >= lowest)
    for start in range(0, len(left), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        yield rows[left[some]], right[some]


def _unit(vectors: Vectors) -> Sketches:
    """Vectors of length 1 in the same directions, in float32."""
    whole = vectors.astype(np.float32)
    return np.asarray(whole / np.linalg.norm(whole, axis=1, keepdims=True), np.float32)
