"""Tables in memory as manifests: which rows and columns they become, and what is refused."""

import io
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.polars_like import PolarsLike

from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.manifest.frames import rewritten, table_of, to_parquet
from nightpress.pipelines.manifest.parquet import scan_parquet

ROWS = {"prompt": ["a cat", "a dog", "a cow"], "seed": [3, None, 5], "mood": ["x", "y", "x"]}


FRAMES = {
    "pyarrow": pa.table(ROWS),
    "pyarrow in chunks": pa.concat_tables([pa.table(ROWS).slice(0, 1), pa.table(ROWS).slice(1)]),
    "pyarrow batch": pa.table(ROWS).to_batches()[0],
    "pandas": pd.DataFrame(ROWS).astype({"seed": "Int64"}),
    "pandas categories": pd.DataFrame(ROWS).astype({"seed": "Int64", "mood": "category"}),
    "polars": PolarsLike(pa.table(ROWS)),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_equal_tables_of_every_library_are_the_same_file(frame: Any) -> None:
    table = table_of(frame)
    assert table.to_pydict() == ROWS
    assert table.schema.metadata is None
    assert to_parquet(table) == to_parquet(table_of(pa.table(ROWS)))


def test_a_rewritten_file_has_the_same_rows_and_rewriting_it_again_changes_nothing() -> None:
    table = pa.table(
        {
            "prompt": [f"picture {n}" for n in range(70_000)],
            "score": pa.array([n / 7 if n % 3 else float("nan") for n in range(70_000)]),
            "tags": [[str(n)] if n % 2 else None for n in range(70_000)],
            "at": pa.array(range(70_000), pa.timestamp("ns", "UTC")),
            "nothing": pa.nulls(70_000),
        }
    )
    data = to_parquet(table_of(table))
    again = rewritten(data)
    assert rewritten(again) == again
    kept = pq.read_table(io.BytesIO(again))
    for name in table.column_names:
        assert repr(kept.column(name).to_pylist()) == repr(table.column(name).to_pylist())
    assert pq.ParquetFile(io.BytesIO(data)).num_row_groups == 3


def test_missing_values_of_pandas_are_null() -> None:
    frame = pd.DataFrame({"prompt": ["a cat", None], "seed": [np.nan, 3.0]})
    assert table_of(frame).to_pydict() == {"prompt": ["a cat", None], "seed": [None, 3.0]}


def test_the_row_numbers_that_filtering_leaves_behind_are_dropped() -> None:
    frame = pd.DataFrame(ROWS)
    assert table_of(frame[frame.mood == "x"]).column_names == list(ROWS)
    assert table_of(frame.sample(frac=1, random_state=1)).column_names == list(ROWS)
    assert frame.index.tolist() == [0, 1, 2]


@pytest.mark.parametrize("keys", ["mood", ["mood", "prompt"]])
def test_an_index_with_a_name_is_refused_with_the_remedy(keys: Any) -> None:
    with pytest.raises(ManifestError) as caught:
        table_of(pd.DataFrame(ROWS).set_index(keys))
    assert str(caught.value) == (
        "table, column mood: is the index of the pandas frame, which is not read; make it a column "
        "with reset_index(), or drop it with reset_index(drop=True)"
    )


@pytest.mark.parametrize("frame", ["prompts.csv", ["a cat"], {"prompt": ["a cat"]}, None])
def test_what_is_no_table_is_refused_by_type(frame: Any) -> None:
    with pytest.raises(TypeError, match=rf"not a {type(frame).__name__}; to read files"):
        table_of(frame)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"prompt": ["a cat", 3]}), "Conversion failed for column prompt"),
        (pd.DataFrame([["a", "b"]], columns=["prompt", "prompt"]), "Duplicate column names found"),
        (pd.Series(["a cat"]), "non-struct type"),
        (
            pa.table(
                {"prompt": ["a"], "span": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}
            ),
            "interval",
        ),
    ],
)
def test_what_cannot_be_converted_is_said_in_one_line(frame: Any, words: str) -> None:
    with pytest.raises(ManifestError, match=rf"^table.*: cannot be .*{words}") as caught:
        to_parquet(table_of(frame))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([2**70, 1], "cannot be read as an Arrow table: a number is too large for a column"),
        ([{"k": 2**70}, None], "cannot be read as an Arrow table: a number is too large"),
        ([[2**70], None], "cannot be read as an Arrow table: a number is too large"),
        ([1, "x"], "cannot be read as an Arrow table: Could not convert 'x'"),
        ([object(), 1], "cannot be read as an Arrow table: Could not convert <object"),
        ([{"k": "b\ud800"}, None], "cannot be read as an Arrow table: its text has half a char"),
        (pd.arrays.SparseArray([1.0, 2.0]), "cannot be read as an Arrow table: Sparse pandas"),
        (pd.period_range("2020-01-01", periods=2), "it holds periods of pandas, which Arrow"),
        (pd.interval_range(0, 2), "it holds intervals of pandas, which Arrow does not store"),
    ],
    ids=(
        *("huge", "huge in a dict", "huge in a list", "text beside numbers", "an object"),
        *("half a character", "sparse", "periods", "intervals"),
    ),
)
def test_a_column_that_arrow_cannot_hold_is_named(values: Any, words: str) -> None:
    with pytest.raises(ManifestError) as caught:
        table_of(pd.DataFrame({"prompt": ["a", "b"], "x": values}))
    (problem,) = caught.value.problems
    assert (problem.file, problem.column) == ("table", "x")
    assert problem.message.startswith(words)
    assert len(str(caught.value).encode().splitlines()) == 1


def test_pandas_periods_in_a_parquet_file_are_refused() -> None:
    frame = pd.DataFrame({"prompt": ["a"], "x": pd.period_range("2020-01-01", periods=1)})
    sink = io.BytesIO()
    pq.write_table(pa.table(frame), sink)
    with pytest.raises(pa.ArrowInvalid, match=r"^column 'x': it holds periods of pandas"):
        scan_parquet(sink)


def test_lists_that_hold_only_null_are_kept() -> None:
    values = [[None], [None, None]]
    frame = pd.DataFrame({"prompt": ["a", "b"], "x": values})
    assert pq.read_table(io.BytesIO(to_parquet(table_of(frame))))["x"].to_pylist() == values
