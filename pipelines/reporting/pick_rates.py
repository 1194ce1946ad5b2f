"""How many images reviewers picked, and what a picked one costs, by setting and by column.

`review/pick_rates.parquet` is derived from the marks and the metadata, and replaced each time.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightpress.pipelines.job.cost_section import Cost
from nightpress.pipelines.records import DRAW_KEY, METADATA_SCHEMA
from nightpress.pipelines.run_directory.log import cost_of, read_starts
from nightpress.pipelines.run_directory.marks_merge import MergedMarks, Policy, decisions
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import Store

PICK_RATES_FILE = "review/pick_rates.parquet"

MOST_VALUES = 50
"""Columns with more different values are left out, and those with fewer than two images for each
on average: too few images have each value."""

ALL = "all"
"""What stands for a column in the row of all images."""

SIZE = "size"
"""What width and height are counted as, together."""

ROWS_AT_ONCE = 65_536

Z_95 = 1.959964
"""The 97.5% quantile of the normal distribution."""

SETTINGS = ("scheduler", "num_inference_steps", "guidance_scale", "mode", "strength", "model")
ADAPTERS = ("loras", "controlnets", "references")
COUNTS = ("num_images", "num_marked", "num_picked", "num_rejected", "sampling_s")

RATES_SCHEMA = pa.schema(
    [
        pa.field("column", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        *(pa.field(name, pa.int64(), nullable=False) for name in COUNTS[:4]),
        *(pa.field(name, pa.float64()) for name in ("rate", "rate_low", "rate_high")),
        pa.field("cost_per_picked", pa.float64()),
        pa.field("currency", pa.string()),
    ]
)
"""One row for each value of a column; `column` is `all` in the first one.

`rate` is picked of all images that are ok, with its 95% interval. The cost of all starts is shared
out by sampling time.
"""


@dataclass(frozen=True)
class PickRate:
    """The images with one value of a column; its fields are the columns of RATES_SCHEMA."""

    column: str
    value: str | None
    num_images: int
    num_marked: int
    """Images that anybody has marked, whatever the policy makes of it."""
    num_picked: int
    num_rejected: int
    rate: float | None
    rate_low: float | None
    rate_high: float | None
    cost_per_picked: float | None
    """None without a pick, or without the job's key `cost`."""
    currency: str | None


@dataclass(frozen=True)
class PickRates:
    """The rates of a run."""

    policy: str
    """As a person reads it: `majority`, or `lead: anna`."""
    rows: tuple[PickRate, ...]
    """That of all images first; then column by column, in each the highest rate first."""
    left_out: tuple[str, ...]
    """Columns with too many values; see `MOST_VALUES`."""
    ignored: tuple[str, ...] = ()
    """Objects with marks that are not counted, each with what is wrong with it."""

    def to_parquet(self) -> bytes:
        """The rows as RATES_SCHEMA."""
        table = pa.Table.from_pylist([asdict(row) for row in self.rows], RATES_SCHEMA)
        sink = pa.BufferOutputStream()
        table = table.replace_schema_metadata({b"nightpress.policy": self.policy.encode()})
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        data: bytes = sink.getvalue().to_pybytes()
        return data


def pick_rates(run: Run, policy: Policy | None = None) -> PickRates | None:
    """The rates of a run by what its marks come to; None if nobody has marked anything.

    Args:
        run: the run, finished or not.
        policy: how the marks of several reviewers become one; `any` by default.

    Raises:
        MarksError: the lead has marked nothing.
        StoreError: the marks, the metadata or the log cannot be read.
    """
    policy = policy or Policy()
    merged = MergedMarks(run.store, run.record.fingerprint_at_first)
    merged.refresh()
    if not merged.counted:
        return None
    said = decisions(merged.table(run.hashes()), policy)
    sums = _Sums(said, {_shown(each.name) for each in _carried(run) if not _is_countable(each)})
    for table in _tables(run):
        sums.add(table)
    sums.leave_out_sparse()
    cost = cost_of(read_starts(run.store), 0)
    name = policy.name if policy.lead is None else f"lead: {policy.lead}"
    ignored = tuple(f"{path}: {problem}" for path, problem in merged.problems.items())
    return PickRates(name, tuple(sums.rows(cost)), tuple(sorted(sums.left_out)), ignored)


def write_pick_rates(store: Store, rates: PickRates) -> None:
    """Write `review/pick_rates.parquet`, replacing an older one.

    Raises:
        StoreError: the store failed.
    """
    store.put(PICK_RATES_FILE, rates.to_parquet())


def wilson(num_picked: int, num_images: int, z: float = Z_95) -> tuple[float, float]:
    """The interval of a rate at 95%, from 0 to 1.

    Reference: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference",
    1927; it also holds for few images and for rates near 0.

    Args:
        num_picked, num_images: of which there is at least one.
    """
    rate, square = num_picked / num_images, z * z / num_images
    middle = rate + square / 2
    half = z * math.sqrt(rate * (1 - rate) / num_images + square / (4 * num_images))
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    return max(0.0, low), min(1.0, high)


def _tables(run: Run) -> Iterator[pa.Table]:
    """The metadata that is counted, some rows at a time."""
    metadata, carried = run.metadata, {each.name for each in _carried(run) if _is_countable(each)}
    own = {*SETTINGS, *ADAPTERS, "width", "height", "image_id", "sha256", "status", "sampling_s"}
    names = [each.name for each in metadata.schema if each.name in own or each.name in carried]
    with run.reading():
        for batch in metadata.to_batches(columns=names, batch_size=ROWS_AT_ONCE):
            yield pa.Table.from_batches([batch])


def _carried(run: Run) -> list[pa.Field]:
    """The columns of the user's manifest."""
    own = {*METADATA_SCHEMA.names, DRAW_KEY}
    return [each for each in run.metadata.schema if each.name not in own]


def _is_countable(column: pa.Field) -> bool:
    """Whether a carried column has plain values."""
    types = pa.types
    plain = (types.is_string, types.is_large_string, types.is_integer, types.is_floating)
    others = (types.is_boolean, types.is_decimal, types.is_date, types.is_timestamp)
    return any(check(column.type) for check in (*plain, *others))


def _shown(name: str) -> str:
    """The name of a carried column; one that is called as what is counted here is renamed."""
    return f"manifest_{name}" if name in (ALL, SIZE) else name


@dataclass
class _Sums:
    """Sums over images, by each value of each column."""

    said: pa.Table
    """DECISIONS_SCHEMA."""
    left_out: set[str] = field(default_factory=set)
    _groups: dict[str, pa.Table] = field(default_factory=dict)

    def add(self, table: pa.Table) -> None:
        """Add metadata rows."""
        counts = self._counts(table)
        for name, values in _columns(table):
            if name in self.left_out:
                continue
            group = pa.table({"value": values, **counts})
            known = [self._groups[name]] if name in self._groups else []
            self._groups[name] = _summed([*known, _summed([group])])
            if len(self._groups[name]) > MOST_VALUES:
                self.left_out.add(name)
                del self._groups[name]

    def _counts(self, table: pa.Table) -> dict[str, pa.Array]:
        """`COUNTS` of each row."""
        places = pc.index_in(
            table.column("image_id"), value_set=self.said.column("image_id").combine_chunks()
        )
        flags = self.said.column("flag").take(places)
        picked, rejected = (_ones(pc.equal(flags, flag)) for flag in ("pick", "reject"))
        return {
            "num_images": _ones(pc.equal(table.column("status"), "ok")),
            "num_marked": _ones(pc.is_valid(places)),
            "num_picked": picked,
            "num_rejected": rejected,
            "sampling_s": pc.fill_null(table.column("sampling_s"), 0.0),
        }

    def leave_out_sparse(self) -> None:
        """Leave out columns of whose values most are those of one image."""
        for name, group in list(self._groups.items()):
            num_images = pc.sum(group.column("num_images")).as_py()
            if len(group) > max(2, num_images // 2):
                self.left_out.add(name)
                del self._groups[name]

    def rows(self, cost: Cost | None) -> Iterator[PickRate]:
        """The rates; of columns with one value only that of all images."""
        (whole,) = self._groups[ALL].to_pylist() if ALL in self._groups else ({},)
        if not whole:
            return
        per_s = None
        if cost is not None and whole["sampling_s"] > 0:
            per_s = cost.amount / whole["sampling_s"]
        currency = None if cost is None else cost.currency
        for name, group in self._groups.items():
            if name != ALL and len(group) < 2:
                continue
            rates = [_rate(name, row, per_s, currency) for row in group.to_pylist()]
            yield from sorted(rates, key=lambda each: (-(each.rate or 0), each.value or ""))


def _rate(name: str, row: dict[str, Any], per_s: float | None, currency: str | None) -> PickRate:
    images, picked = row["num_images"], row["num_picked"]
    low, high = wilson(picked, images) if images else (None, None)
    return PickRate(
        column=name,
        value=value_text(row["value"]),
        num_images=images,
        num_marked=row["num_marked"],
        num_picked=picked,
        num_rejected=row["num_rejected"],
        rate=picked / images if images else None,
        rate_low=low,
        rate_high=high,
        cost_per_picked=None if per_s is None or not picked else per_s * row["sampling_s"] / picked,
        currency=currency,
    )


def value_text(value: object) -> str | None:
    """A value as text: `yes`, `7.5`; None for none."""
    match value:
        case None:
            return None
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _columns(table: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The columns by which images are counted, and all of them as one."""
    yield ALL, pa.chunked_array([pa.repeat("", len(table))])
    sizes = (pc.cast(table.column(name), pa.string()) for name in ("width", "height"))
    yield SIZE, pc.binary_join_element_wise(*sizes, " x ")
    for name in table.column_names:
        if name in SETTINGS or name not in METADATA_SCHEMA.names:
            yield _shown(name), table.column(name)
        elif name in ADAPTERS:
            yield name, pa.chunked_array([_adapters(table.column(name).to_pylist())])


def _adapters(rows: Sequence[list[dict[str, Any]] | None]) -> pa.Array:
    """`brand at 0.8, ink at 1` of each row, or `none`; (n,) string."""
    texts = (
        ", ".join(f"{each['name']} at {each['scale']:g}" for each in row or ()) for row in rows
    )
    return pa.array([text or "none" for text in texts], pa.string())


def _ones(mask: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(pc.fill_null(mask, False), pa.int64())


def _summed(tables: Iterable[pa.Table]) -> pa.Table:
    grouped = pa.concat_tables(tables).group_by("value", use_threads=False)
    return grouped.aggregate([(name, "sum") for name in COUNTS]).rename_columns(["value", *COUNTS])
