"""`metrics.parquet`: its columns, how rows are measured, and how a restart continues the table."""

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

TERM_PREFIX = "loss_"
"""Prefix of the columns of loss terms."""

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
"""The columns of every training run. A column `loss_<term>`, float64, follows for each loss term.

Each term has its own column rather than a key in a map column, so that `SELECT step, loss_kl` just
works. The value is null in rows from before the recipe had the term.
"""


@dataclass(frozen=True)
class StepMetrics:
    """A row of metrics: means over the steps since the previous row."""

    step: int
    """Number of steps done, including this one."""
    num_images: int
    """Images seen so far, over all workers and restarts."""
    loss: float
    """The minimized loss."""
    terms: Mapping[str, float]
    """The terms of the loss, by name."""
    learning_rate: float
    grad_norm: float
    """Gradient norm of this step alone, before clipping."""
    images_per_s: float
    elapsed_s: float
    """Seconds since the training run was started or last restarted."""
    at: datetime
    """UTC."""


class AverageMeter:
    """Averages loss terms over the steps since the last row of metrics."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.started_at = self.row_started_at = time.monotonic()
        self.sums: dict[str, float] = {}
        self.num = 0

    def add(self, terms: Mapping[str, float]) -> None:
        """Add the loss terms of one step."""
        self.num += 1
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def metrics(self, step: int, rate: float, norm: float) -> StepMetrics:
        """Return the row of this step, and start the next one."""
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
            images_per_s=self.num * self.batch_size / max(now - self.row_started_at, 1e-9),
            elapsed_s=now - self.started_at,
            at=datetime.now(UTC),
        )
        self.sums, self.num, self.row_started_at = {}, 0, now
        return row


class MetricsLog:
    """All rows of a training run, including those from before a restart.

    Args:
        store: the run directory.
        after_step: the checkpoint from which training resumes; rows of later steps are dropped,
            because these steps are repeated.

    Raises:
        CheckpointError: the table in the store is damaged.
        StoreError: the store refuses or fails.
    """

    def __init__(self, store: Store, after_step: int = 0) -> None:
        self._store = store
        table = read_metrics(store)
        self._earlier = table.filter(pc.less_equal(table.column("step"), after_step))
        self._rows: list[StepMetrics] = []

    def add(self, row: StepMetrics) -> None:
        """Add a row; the next `flush` writes it."""
        self._rows.append(row)

    def table(self) -> pa.Table:
        """All rows, ordered by step."""
        return pa.concat_tables(
            [self._earlier, metrics_table(self._rows)], promote_options="default"
        )

    def flush(self) -> None:
        """Write all rows to the store, replacing the table there."""
        buffer = io.BytesIO()
        pq.write_table(self.table(), buffer, compression="zstd")
        self._store.put(METRICS_FILE, buffer.getvalue())


def metrics_table(rows: list[StepMetrics]) -> pa.Table:
    """Convert rows to a table of `COLUMNS` and their terms, in order of first appearance."""
    terms = list(dict.fromkeys(name for row in rows for name in row.terms))
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows] for name in COLUMNS.names
    }
    columns |= {TERM_PREFIX + name: [row.terms.get(name) for row in rows] for name in terms}
    schema = pa.schema([*COLUMNS, *(pa.field(TERM_PREFIX + name, pa.float64()) for name in terms)])
    return pa.table(columns, schema=schema)


def read_metrics(store: Store) -> pa.Table:
    """Read the metrics table of a training run; it is empty if none was written yet.

    Raises:
        CheckpointError: the file is damaged or not a metrics table.
    """
    data = store.read_if_any(METRICS_FILE)
    if data is None:
        return metrics_table([])
    where = f"{store.url}/{METRICS_FILE}"
    try:
        table = pq.read_table(io.BytesIO(data))
    except pa.ArrowException as error:
        raise CheckpointError(
            f"{where}: damaged ({error}); delete it to resume without its rows"
        ) from error
    missing = [name for name in COLUMNS.names if name not in table.column_names]
    if missing:
        raise CheckpointError(f"{where}: not a metrics table: it has no column {missing[0]}")
    return table


def metrics_rows(table: pa.Table) -> Iterator[StepMetrics]:
    """Convert a table to rows; the inverse of `metrics_table`."""
    for values in table.to_pylist():
        terms = {
            name.removeprefix(TERM_PREFIX): value
            for name, value in values.items()
            if name.startswith(TERM_PREFIX) and value is not None
        }
        yield StepMetrics(**{name: values[name] for name in COLUMNS.names}, terms=terms)


def require_tensorboard(folder: str) -> None:
    """Check that TensorBoard files can be written to a folder.

    Raises:
        SpecError: tensorboardX is missing, or the folder cannot be created.
    """
    if find_spec("tensorboardX") is None:
        raise SpecError(
            "training.tensorboard requires tensorboardX: "
            "pip install -c infra/constraints.txt tensorboardX"
        )
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"training.tensorboard: {folder}: {error.strerror or error}") from error


class TensorBoardWriter:
    """Writes the same metrics to a local folder for TensorBoard; requires tensorboardX.

    Args:
        folder: one per training run; TensorBoard shows sibling folders as separate runs.
        after_step: the checkpoint from which training resumes; TensorBoard replaces the values of
            later steps as they are repeated.
    """

    def __init__(self, folder: str, after_step: int = 0) -> None:
        from tensorboardX import SummaryWriter

        # The default file name has a resolution of one second, and a restart may be faster.
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
