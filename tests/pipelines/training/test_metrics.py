"""A restart neither loses nor repeats a row of metrics."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from nightpress.pipelines.errors import CheckpointError
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.metrics import (
    COLUMNS,
    METRICS_FILE,
    MetricsLog,
    StepMetrics,
    TensorBoardWriter,
    metrics_rows,
    metrics_table,
    read_metrics,
)


def row(step: int, **terms: float) -> StepMetrics:
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=step)
    return StepMetrics(step, step * 16, 1 / step, terms, 1e-4, 0.5, 16.0, float(step), at)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def write(store: Store, rows: list[StepMetrics], after_step: int = 0) -> None:
    log = MetricsLog(store, after_step)
    for new in rows:
        log.add(new)
    log.flush()


def test_rows_are_read_as_they_were_written(store: Store) -> None:
    rows = [row(10, mse=0.5, kl=0.25), row(20, mse=0.125, kl=2.0)]
    write(store, rows)
    assert list(metrics_rows(read_metrics(store))) == rows


def test_a_resumed_training_drops_the_rows_of_steps_that_it_repeats(store: Store) -> None:
    write(store, [row(step) for step in (10, 20, 30)])
    write(store, [row(30), row(40)], after_step=20)
    assert read_metrics(store).column("step").to_pylist() == [10, 20, 30, 40]


def test_resuming_and_flushing_without_a_new_row_changes_nothing(store: Store) -> None:
    write(store, [row(10, mse=1.0), row(20, mse=0.5)])
    before = store.read(METRICS_FILE)
    write(store, [], after_step=20)
    assert store.read(METRICS_FILE) == before


def test_a_training_without_checkpoint_drops_all_earlier_rows(store: Store) -> None:
    write(store, [row(10), row(20)])
    write(store, [row(5)])
    assert read_metrics(store).column("step").to_pylist() == [5]


def test_a_new_term_is_null_in_older_rows(store: Store) -> None:
    write(store, [row(10, mse=1.0)])
    write(store, [row(20, mse=0.5, kl=0.1)], after_step=10)
    table = read_metrics(store)
    assert table.column("loss_mse").to_pylist() == [1.0, 0.5]
    assert table.column("loss_kl").to_pylist() == [None, 0.1]


def test_a_run_without_metrics_has_an_empty_table_with_the_same_columns(store: Store) -> None:
    assert read_metrics(store).schema == COLUMNS
    assert read_metrics(store).num_rows == 0


def test_rows_are_stored_by_a_flush(store: Store) -> None:
    log = MetricsLog(store, 0)
    log.add(row(10))
    assert store.size(METRICS_FILE) is None
    log.flush()
    log.add(row(20))
    log.flush()
    assert read_metrics(store).column("step").to_pylist() == [10, 20]


def test_infinite_and_nan_values_are_stored(store: Store) -> None:
    write(store, [replace(row(10), grad_norm=float("inf"), loss=float("nan"))])
    (read,) = metrics_rows(read_metrics(store))
    assert read.grad_norm == float("inf")
    assert read.loss != read.loss


def test_a_damaged_table_is_named(store: Store) -> None:
    store.put(METRICS_FILE, b"PAR1 this is no Parquet")
    with pytest.raises(CheckpointError, match=r"metrics\.parquet: damaged"):
        MetricsLog(store, 0)


def test_a_table_without_the_columns_of_metrics_is_refused(store: Store) -> None:
    import io

    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a cat"]}), buffer)
    store.put(METRICS_FILE, buffer.getvalue())
    with pytest.raises(CheckpointError, match="it has no column step"):
        read_metrics(store)


def test_terms_are_ordered_by_first_appearance() -> None:
    names = metrics_table([row(1, b=1.0), row(2, a=1.0, b=1.0)]).column_names
    assert names == [*COLUMNS.names, "loss_b", "loss_a"]


def test_tensorboard_gets_every_value(tmp_path: Path) -> None:
    with TensorBoardWriter(str(tmp_path)) as writer:
        writer.add(row(10, mse=0.5))
    (events,) = tmp_path.iterdir()
    data = events.read_bytes()
    for name in (b"train/loss", b"train/learning_rate", b"train/images_per_s", b"terms/mse"):
        assert name in data
