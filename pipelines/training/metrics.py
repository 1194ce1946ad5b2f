"""`metrics.parquet`: what was measured while a network was trained, one row now and then.

Owns the table's columns and how it goes on after a restart. Knows nothing of how it is drawn.
"""

import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightpress.pipelines.errors import CheckpointError, SpecError
from nightpress.pipelines.storage import Store

METRICS_FILE = "metrics.parquet"

TERM = "loss_"
"""Columns of loss terms begin with it."""

COLUMNS = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("num_images", pa.int64(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("grad_norm", pa.float64(), nullable=False),
        pa.field("images_per_s", pa.float64(), nullable=False),
        pa.field("elapsed_s", pa.float64(), nullable=False),
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""The columns of every training. After them comes `loss_<term>`, float64, for each loss term.

A column a term rather than a map, so that `SELECT step, loss_kl` and a plot of it just work; it is
null in rows that were written before the recipe had the term.
"""


@dataclass(frozen=True)
class StepMetrics:
    """A row: means over the steps since the row before."""

    step: int
    """Steps done, this one included."""
    num_images: int
    """Pictures seen so far, over all workers and starts."""
    loss: float
    """What is minimised."""
    terms: Mapping[str, float]
    """What the loss is made of, by name."""
    learning_rate: float
    grad_norm: float
    """Of this very step, before clipping."""
    images_per_s: float
    elapsed_s: float
    """Since this start of the training."""
    at: datetime
    """UTC."""


class Meter:
    """Means over the steps since the last row of metrics."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.began = self.since = time.monotonic()
        self.sums: dict[str, float] = {}
        self.num = 0

    def add(self, terms: Mapping[str, float]) -> None:
        """The terms of one step."""
        self.num += 1
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def metrics(self, step: int, rate: float, norm: float) -> StepMetrics:
        """The row of this step; the sums start anew."""
        now = time.monotonic()
        means = {name: total / self.num for name, total in self.sums.items()}
        loss = means.pop("loss")
        row = StepMetrics(
            step=step,
            num_images=step * self.batch_size,
            loss=loss,
            terms=means,
            learning_rate=rate,
            grad_norm=norm,
            images_per_s=self.num * self.batch_size / max(now - self.since, 1e-9),
            elapsed_s=now - self.began,
            at=datetime.now(UTC),
        )
        self.sums, self.num, self.since = {}, 0, now
        return row


class MetricsLog:
    """The rows of a training, those of earlier starts included.

    Args:
        store: of the run.
        after_step: the checkpoint that training goes on from; rows of later steps are dropped,
            for these steps are done again.

    Raises:
        CheckpointError: the table in the store is damaged.
        StoreError: the store refused.
    """

    def __init__(self, store: Store, after_step: int = 0) -> None:
        self._store = store
        before = read_metrics(store)
        self._before = before.filter(pc.less_equal(before.column("step"), after_step))
        self._rows: list[StepMetrics] = []

    def add(self, row: StepMetrics) -> None:
        """Take a row; it is in the store after the next `flush`."""
        self._rows.append(row)

    def table(self) -> pa.Table:
        """All rows, in order of steps."""
        return pa.concat_tables([self._before, as_table(self._rows)], promote_options="default")

    def flush(self) -> None:
        """Replace the table in the store by one with all rows."""
        buffer = io.BytesIO()
        pq.write_table(self.table(), buffer, compression="zstd")
        self._store.put(METRICS_FILE, buffer.getvalue())


def as_table(rows: list[StepMetrics]) -> pa.Table:
    """The rows as a table of `COLUMNS` and their terms, terms in the order of first use."""
    terms = list(dict.fromkeys(name for row in rows for name in row.terms))
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows] for name in COLUMNS.names
    }
    columns |= {TERM + name: [row.terms.get(name) for row in rows] for name in terms}
    schema = pa.schema([*COLUMNS, *(pa.field(TERM + name, pa.float64()) for name in terms)])
    return pa.table(columns, schema=schema)


def read_metrics(store: Store) -> pa.Table:
    """The table of a run; without rows where none was written yet.

    Raises:
        CheckpointError: it is damaged, or no table of metrics.
    """
    data = store.read_if_any(METRICS_FILE)
    if data is None:
        return as_table([])
    where = f"{store.url}/{METRICS_FILE}"
    try:
        table = pq.read_table(io.BytesIO(data))
    except pa.ArrowException as error:
        raise CheckpointError(f"{where}: damaged ({error}); delete it to go on without") from error
    missing = [name for name in COLUMNS.names if name not in table.column_names]
    if missing:
        raise CheckpointError(f"{where}: no table of metrics: it has no column {missing[0]}")
    return table


def rows_of(table: pa.Table) -> Iterator[StepMetrics]:
    """The inverse of `as_table`."""
    for values in table.to_pylist():
        terms = {
            name.removeprefix(TERM): value
            for name, value in values.items()
            if name.startswith(TERM) and value is not None
        }
        yield StepMetrics(**{name: values[name] for name in COLUMNS.names}, terms=terms)


def require_tensorboard(folder: str) -> None:
    """See that TensorBoard's files can be written there.

    Raises:
        SpecError: tensorboardX is missing, or the folder cannot be made.
    """
    if find_spec("tensorboardX") is None:
        raise SpecError(
            "training.tensorboard needs tensorboardX: "
            "pip install -c infra/constraints.txt tensorboardX"
        )
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"training.tensorboard: {folder}: {error.strerror or error}") from error


class TensorBoard:
    """The same figures for TensorBoard, in a folder of this machine; needs tensorboardX.

    Args:
        folder: of the training; TensorBoard shows the folders beside it as others.
        after_step: the checkpoint that training goes on from; later steps are shown as they are
            when they are done again.
    """

    def __init__(self, folder: str, after_step: int = 0) -> None:
        from tensorboardX import SummaryWriter

        # Its files are told apart by whole seconds alone; starts from other steps may be closer.
        self._writer = SummaryWriter(
            folder, purge_step=after_step + 1, filename_suffix=f".from-{after_step + 1:08d}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    def add(self, row: StepMetrics) -> None:
        """Write a row as scalars `train/<name>` and `terms/<name>`."""
        for name in ("loss", "learning_rate", "grad_norm", "images_per_s"):
            self._scalar(f"train/{name}", getattr(row, name), row)
        for name, value in row.terms.items():
            self._scalar(f"terms/{name}", value, row)

    def _scalar(self, name: str, value: float, row: StepMetrics) -> None:
        self._writer.add_scalar(name, value, row.step, walltime=row.at.timestamp())
