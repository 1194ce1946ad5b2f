"""Statistics: adding up those of shards gives those of the whole."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightpress.pipelines.export.statistics import (
    MOST_IN_SHARD,
    MOST_VALUES,
    ColumnStatistics,
    Moments,
    ShardStatistics,
)
from nightpress.pipelines.export.tables import Balance, balances

NUMBERS = st.floats(-1e6, 1e6)


@settings(max_examples=60)
@given(st.lists(NUMBERS), st.lists(NUMBERS))
def test_moments_of_parts_add_up_to_those_of_all(a: list[float], b: list[float]) -> None:
    parts = Moments.of(np.array(a, np.float64)).plus(Moments.of(np.array(b, np.float64)))
    whole = Moments.of(np.array([*a, *b], np.float64))
    assert (parts.num, parts.min, parts.max) == (whole.num, whole.min, whole.max)
    assert parts.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-6)
    assert parts.m2 == pytest.approx(whole.m2, rel=1e-6, abs=1e-3)
    if len(a) + len(b) > 1:
        assert parts.std == pytest.approx(np.std([*a, *b], ddof=1), rel=1e-6, abs=1e-3)


def column(*values: object) -> ColumnStatistics:
    return ColumnStatistics.of(pa.chunked_array([pa.array(values)]))


def test_columns_are_described_by_their_kind() -> None:
    texts = column("oak", "ash", "oak", None)
    assert (texts.num_values, texts.num_nulls) == (3, 1)
    assert texts.values == {"oak": 2, "ash": 1}
    assert texts.moments is not None
    assert (texts.moments.min, texts.moments.max) == (3, 3)
    numbers = column(1.5, float("nan"), math.inf)
    assert numbers.values is None
    assert numbers.moments is not None
    assert (numbers.moments.num, numbers.moments.mean) == (1, 1.5)
    assert column([1], [2]).moments is None
    assert column(True, False).values == {"true": 1, "false": 1}


def test_too_many_values_are_not_counted() -> None:
    many = column(*[f"{n}" for n in range(MOST_IN_SHARD + 1)])
    assert many.values is None
    some = [column(*[f"{k} {n}" for n in range(MOST_IN_SHARD)]) for k in range(6)]
    total = some[0]
    for each in some[1:]:
        total = total.plus(each)
    assert len(some) * MOST_IN_SHARD > MOST_VALUES
    assert total.values is None
    assert total.num_values == 6 * MOST_IN_SHARD


def test_statistics_are_read_back_as_they_were_written() -> None:
    table = pa.table({"mood": ["calm", None], "x": [1.0, 2.0], "y": [math.nan, math.inf]})
    statistics = ShardStatistics.of({"train": table, "test": table.slice(0, 0)})
    assert ShardStatistics.from_dict(statistics.as_dict()) == statistics


def test_columns_that_tell_images_apart_are_not_counted() -> None:
    table = pa.table({"image_id": ["a", "b"], "mood": ["calm", "loud"]})
    columns = ShardStatistics.of({"train": table}).columns["train"]
    assert columns["image_id"].values is None
    assert columns["mood"].values == {"calm": 1, "loud": 1}


def test_balance_counts_values_by_split_and_tells_how_even_they_are() -> None:
    tables = {
        "train": pa.table({"mood": ["calm"] * 3 + ["loud"], "one": [1] * 4}),
        "test": pa.table({"mood": ["loud"] * 2, "one": [1] * 2}),
    }
    (balance,) = balances(ShardStatistics.of(tables))
    assert balance.column == "mood"
    assert balance.counts == {"calm": {"train": 3, "test": 0}, "loud": {"train": 1, "test": 2}}
    assert balance.evenness == pytest.approx(1.0)
    uneven = Balance.of("mood", {"train": {"calm": 99, "loud": 1}})
    assert uneven.evenness == pytest.approx(0.0808, abs=1e-4)
    assert list(uneven.totals) == ["calm", "loud"]
