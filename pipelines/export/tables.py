"""The tables beside an export: `stats.parquet`, `balance.parquet` and `dropped.parquet`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightpress.pipelines.export.index import ShardIndex
from nightpress.pipelines.export.statistics import ColumnStatistics, ShardStatistics

STATS_FILE, BALANCE_FILE = "stats.parquet", "balance.parquet"
DROPPED_STEM = "dropped"

STATS = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("num_values", pa.int64(), nullable=False),
        pa.field("num_nulls", pa.int64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in ("min", "max", "mean", "std")),
        pa.field("num_distinct", pa.int64()),
    ]
)
"""One row for each column of each split. The numbers of a text are its lengths in characters.
`num_distinct` is null where the values of a column were not counted."""

DROPPED = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
    ]
)
"""One row for each image of the runs that is not in the export."""


@dataclass(frozen=True)
class Balance:
    """How often each value of a column occurs in each split."""

    column: str
    counts: Mapping[str, Mapping[str, int]]
    """Value -> split -> images; the most frequent value first."""

    @classmethod
    def of(cls, column: str, splits: Mapping[str, Mapping[str, int]]) -> Self:
        """From the counts of each split."""
        totals: dict[str, int] = {}
        for counts in splits.values():
            for value, number in counts.items():
                totals[value] = totals.get(value, 0) + number
        ordered = sorted(totals, key=lambda value: (-totals[value], value))
        return cls(
            column,
            {
                value: {split: counts.get(value, 0) for split, counts in splits.items()}
                for value in ordered
            },
        )

    @property
    def totals(self) -> dict[str, int]:
        """Value -> images in all splits."""
        return {value: sum(splits.values()) for value, splits in self.counts.items()}

    @property
    def evenness(self) -> float:
        """1 if all values are equally frequent, towards 0 if one has nearly all images.

        Reference: Pielou, The measurement of diversity in different types of biological
        collections, 1966: the entropy as a share of the largest that is possible.
        """
        numbers = list(self.totals.values())
        total = sum(numbers)
        if len(numbers) < 2:
            return 1.0
        entropy = -sum(n / total * math.log(n / total) for n in numbers if n)
        return entropy / math.log(len(numbers))


def balances(statistics: ShardStatistics) -> list[Balance]:
    """The columns whose values were counted in every split, and that have more than one value."""
    splits = statistics.columns
    names = dict.fromkeys(name for columns in splits.values() for name in columns)
    found = []
    for name in names:
        counts = {
            split: columns[name].values for split, columns in splits.items() if name in columns
        }
        known = {split: each for split, each in counts.items() if each is not None}
        balance = Balance.of(name, known)
        if len(known) == len(counts) and len(balance.counts) > 1:
            found.append(balance)
    return found


def stats_table(statistics: ShardStatistics) -> bytes:
    """`stats.parquet`."""
    rows = [
        {"split": split, "column": name, **_numbers(one)}
        for split, columns in statistics.columns.items()
        for name, one in columns.items()
    ]
    return parquet_bytes(pa.Table.from_pylist(rows, schema=STATS))


def _numbers(one: ColumnStatistics) -> dict[str, Any]:
    moments = one.moments
    has_numbers = moments is not None and moments.num > 0
    return {
        "num_values": one.num_values,
        "num_nulls": one.num_nulls,
        "min": moments.min if moments and has_numbers else None,
        "max": moments.max if moments and has_numbers else None,
        "mean": moments.mean if moments and has_numbers else None,
        "std": moments.std if moments and has_numbers else None,
        "num_distinct": None if one.values is None else len(one.values),
    }


def balance_table(found: list[Balance], splits: tuple[str, ...]) -> bytes:
    """`balance.parquet`: one row for each value of each column, with its images in each split."""
    counts = [pa.field(split, pa.int64(), nullable=False) for split in splits]
    head = [pa.field(name, pa.string(), nullable=False) for name in ("column", "value")]
    rows = [
        {"column": each.column, "value": value} | {split: of.get(split, 0) for split in splits}
        for each in found
        for value, of in each.counts.items()
    ]
    return parquet_bytes(pa.Table.from_pylist(rows, schema=pa.schema([*head, *counts])))


def dropped_rows(index: ShardIndex, runs: Sequence[str]) -> pa.Table:
    """What an index says of images that were dropped, in DROPPED.

    Args:
        runs: the names of the runs, in order.
    """
    dropped = index.rows.filter(pc.is_valid(index.rows.column("reason")))
    run = pa.array([runs[index.source]] * len(dropped), pa.string())
    return pa.table([run, *(dropped.column(name) for name in DROPPED.names[1:])], schema=DROPPED)


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as Parquet."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data: bytes = sink.getvalue().to_pybytes()
    return data
