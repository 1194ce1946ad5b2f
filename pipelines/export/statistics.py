"""Statistics of the columns of an export, of each shard and added up over all of them."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MOST_VALUES, MOST_IN_SHARD = 1_000, 200
"""A column with more distinct values than this, in all shards or in one, has no counts of them."""

TELLS_APART = frozenset(
    ("image_id", "id", "sha256", "seed", "commit", "caption", "draw_key", "perceptual_hash")
)
"""Columns that differ from image to image, so that nobody counts their values."""

MOST_CHARS = 200
"""A column with a longer text than this has no counts of its values."""


@dataclass(frozen=True)
class Moments:
    """Count, range, mean and spread of numbers."""

    num: int = 0
    min: float = math.inf
    max: float = -math.inf
    mean: float = 0.0
    m2: float = 0.0
    """Sum of the squared distances from the mean."""

    @classmethod
    def of(cls, values: np.ndarray[Any, np.dtype[np.float64]]) -> Self:
        """Those of an array; NaN and infinity are left out."""
        finite = values[np.isfinite(values)]
        if not len(finite):
            return cls()
        mean = float(finite.mean())
        m2 = float(np.square(finite - mean).sum())
        return cls(len(finite), float(finite.min()), float(finite.max()), mean, m2)

    def plus(self, other: "Moments") -> "Moments":
        """Those of both together.

        Reference: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing
        sample variances, 1979, eq. 2.1.
        """
        if not self.num or not other.num:
            return other if other.num else self
        num, delta = self.num + other.num, other.mean - self.mean
        mean = self.mean + delta * other.num / num
        m2 = self.m2 + other.m2 + delta * delta * self.num * other.num / num
        return Moments(num, min(self.min, other.min), max(self.max, other.max), mean, m2)

    @property
    def std(self) -> float | None:
        """The standard deviation; None of fewer than two numbers."""
        return math.sqrt(self.m2 / (self.num - 1)) if self.num > 1 else None


@dataclass(frozen=True)
class ColumnStatistics:
    """What is known about one column in one split."""

    num_values: int
    num_nulls: int
    moments: Moments | None
    """Moments of numbers, or of the lengths of texts in characters; None for other types."""
    values: Mapping[str, int] | None
    """Value -> how often it occurs; None of numbers with a fraction, and of too many values."""

    @classmethod
    def of(cls, column: pa.ChunkedArray, tells_apart: bool = False) -> Self:
        """Those of a column; the values of one that tells images apart are not counted."""
        nulls = column.null_count
        counts = None if tells_apart else _counts(column)
        return cls(len(column) - nulls, nulls, _moments(column), counts)

    def plus(self, other: "ColumnStatistics") -> "ColumnStatistics":
        """Those of both together."""
        values: dict[str, int] | None = None
        if self.values is not None and other.values is not None:
            values = dict(Counter(self.values) + Counter(other.values))
            values = values if len(values) <= MOST_VALUES else None
        moments = None
        if self.moments is not None and other.moments is not None:
            moments = self.moments.plus(other.moments)
        return ColumnStatistics(
            self.num_values + other.num_values, self.num_nulls + other.num_nulls, moments, values
        )


@dataclass(frozen=True)
class ShardStatistics:
    """Those of every column, by split and name."""

    columns: Mapping[str, Mapping[str, ColumnStatistics]]

    @classmethod
    def of(cls, tables: Mapping[str, pa.Table]) -> Self:
        """Those of the exported columns of each split."""
        return cls(
            {
                split: {
                    name: ColumnStatistics.of(table.column(name), name in TELLS_APART)
                    for name in table.column_names
                }
                for split, table in tables.items()
            }
        )

    @classmethod
    def total(cls, each: Iterable["ShardStatistics"]) -> Self:
        """Those of many shards together."""
        found: dict[str, dict[str, ColumnStatistics]] = {}
        for statistics in each:
            for split, columns in statistics.columns.items():
                into = found.setdefault(split, {})
                for name, one in columns.items():
                    into[name] = into[name].plus(one) if name in into else one
        return cls(found)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            split: {name: _as_dict(one) for name, one in columns.items()}
            for split, columns in self.columns.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        return cls(
            {
                split: {name: _from_dict(one) for name, one in columns.items()}
                for split, columns in values.items()
            }
        )


def _as_dict(one: ColumnStatistics) -> dict[str, Any]:
    values = asdict(one)
    if one.moments is not None and not one.moments.num:
        values["moments"] = {}  # JSON has no infinity
    return values


def _from_dict(values: Mapping[str, Any]) -> ColumnStatistics:
    moments = None if values["moments"] is None else Moments(**values["moments"])
    return ColumnStatistics(values["num_values"], values["num_nulls"], moments, values["values"])


def _moments(column: pa.ChunkedArray) -> Moments | None:
    type_ = column.type
    if pa.types.is_string(type_):
        column = pc.utf8_length(column)
    elif not (pa.types.is_integer(type_) or pa.types.is_floating(type_)):
        return None
    numbers = column.drop_null().cast(pa.float64(), safe=False)
    return Moments.of(numbers.to_numpy())


def _counts(column: pa.ChunkedArray) -> dict[str, int] | None:
    type_ = column.type
    is_text = pa.types.is_string(type_)
    if not (is_text or pa.types.is_boolean(type_) or pa.types.is_integer(type_)):
        return None
    if is_text and (pc.max(pc.utf8_length(column)).as_py() or 0) > MOST_CHARS:
        return None
    counts = pc.value_counts(column.drop_null())
    if len(counts) > MOST_IN_SHARD:
        return None
    values = counts.field("values").cast(pa.string()).to_pylist()
    return dict(zip(values, counts.field("counts").to_pylist(), strict=True))
