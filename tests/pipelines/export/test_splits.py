"""Splits: groups stay together, shares are met, and no image ever moves."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.export.spec import SplitSpec
from nightpress.pipelines.export.splits import SPLITS, require_split_column, splits_of

HALF = SplitSpec(by="id", validation="25%", test="25%")


def rows(ids: list[str], **columns: list[object]) -> pa.Table:
    return pa.table({"id": ids, **columns})


def test_without_a_split_all_are_in_train() -> None:
    assert splits_of(rows(["a", "b"]), None, 0).tolist() == [0, 0]
    whole = SplitSpec(validation="0%", test="0%")
    assert splits_of(rows(["a", "b"]), whole, 0).tolist() == [0, 0]


@given(st.lists(st.text(), min_size=1), st.randoms(use_true_random=False))
def test_a_split_depends_on_the_group_alone(ids: list[str], random: object) -> None:
    alone = [int(splits_of(rows([each]), HALF, 3)[0]) for each in ids]
    assert splits_of(rows(ids), HALF, 3).tolist() == alone


@given(st.lists(st.text(), min_size=1), st.lists(st.text()))
def test_a_set_that_grows_moves_none_of_its_images(ids: list[str], more: list[str]) -> None:
    before = splits_of(rows(ids), HALF, 0)
    assert splits_of(rows([*ids, *more]), HALF, 0)[: len(ids)].tolist() == before.tolist()


def test_the_shares_are_met() -> None:
    split = SplitSpec(by="id", validation="5%", test="10%")
    found = splits_of(rows([f"row {n}" for n in range(40_000)]), split, 7)
    shares = {SPLITS[k]: n / 40_000 for k, n in Counter(found.tolist()).items()}
    assert shares == pytest.approx({"train": 0.85, "validation": 0.05, "test": 0.10}, abs=0.005)


def test_all_may_be_in_one_split() -> None:
    split = SplitSpec(by="id", validation="0%", test="100%")
    assert set(splits_of(rows([f"{n}" for n in range(100)]), split, 0).tolist()) == {2}
    split = SplitSpec(by="id", validation="40%", test="60%")
    assert set(splits_of(rows([f"{n}" for n in range(100)]), split, 0).tolist()) == {1, 2}


def test_another_seed_gives_another_split() -> None:
    ids = rows([f"{n}" for n in range(200)])
    assert splits_of(ids, HALF, 0).tolist() != splits_of(ids, HALF, 1).tolist()


def test_images_without_a_group_are_split_by_their_id() -> None:
    ids = [f"{n}" for n in range(200)]
    by_scene = HALF.model_copy(update={"by": "scene"})
    none = splits_of(rows(ids, scene=[None] * 200), by_scene, 0)
    assert none.tolist() == splits_of(rows(ids), HALF, 0).tolist()
    same = splits_of(rows(ids, scene=["oak"] * 200), by_scene, 0)
    assert len(set(same.tolist())) == 1


def test_groups_may_be_numbers_and_dictionaries() -> None:
    by_number = HALF.model_copy(update={"by": "scene"})
    numbers = rows(["a", "b"], scene=[1, 1])
    texts = pa.table({"id": ["a", "b"], "scene": pa.array(["1", "1"]).dictionary_encode()})
    assert np.array_equal(splits_of(numbers, by_number, 0), splits_of(texts, by_number, 0))


@pytest.mark.parametrize(
    ("by", "said"),
    [("scen", "did you mean scene?"), ("canvas", "which has no text form")],
)
def test_a_column_that_cannot_split_is_refused(by: str, said: str) -> None:
    schema = pa.schema([("scene", pa.string()), ("canvas", pa.list_(pa.int32()))])
    with pytest.raises(SpecError, match=said.replace("?", r"\?")):
        require_split_column(HALF.model_copy(update={"by": by}), schema)
