"""The objects in `draws/`."""

from dataclasses import replace
from pathlib import Path

import pytest

from nightpress.pipelines.run_directory.draws import (
    DRAWS_SCHEMA,
    LostDraw,
    draws_dataset,
    read_draws,
    store_draws,
)
from nightpress.pipelines.storage import Store

BLURRED = LostDraw(
    image_id="a_00",
    draw=0,
    seed=2**53 - 1,
    batch_size=4,
    passed=False,
    reason="sharpness 31 < 40",
    scores={"sharpness": 31.0, "clip": 0.25},
    perceptual_hash="00ff",
    thumbnail=b"jpeg",
)
BLANK = LostDraw("a_00", 1, 17, 4, passed=False, reason="Blank", fault="Blank")
BEATEN = LostDraw("b_00", 0, 18, 4, passed=True, scores={"sharpness": 50.0})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "run"))


def test_what_is_stored_is_read_back_by_shard(store: Store) -> None:
    store_draws(store, 12, [BLURRED, BLANK])
    store_draws(store, 12, [BEATEN])
    store_draws(store, 13, [BEATEN])
    found = read_draws(store, 12)
    assert {(each.image_id, each.draw): each for each in found.draws} == {
        ("a_00", 0): replace(BLURRED, thumbnail=None),
        ("a_00", 1): BLANK,
        ("b_00", 0): BEATEN,
    }
    assert list(read_draws(store, 13).draws) == [BEATEN]
    assert read_draws(store, 14).draws == []


def test_an_object_is_created_once_under_the_name_of_its_content(store: Store) -> None:
    path = store_draws(store, 12, [BLURRED])
    assert store_draws(store, 12, [BLURRED]) == path
    assert list(store.list("draws")) == [path]
    assert path.startswith("draws/shard-00012/")


def test_a_damaged_object_is_named_and_its_draws_do_not_count(store: Store) -> None:
    path = store_draws(store, 12, [BLURRED])
    store_draws(store, 12, [BEATEN])
    store.put(path, store.read(path)[:-7])
    found = read_draws(store, 12)
    assert found.damaged == [path]
    assert found.draws == [BEATEN]


def test_all_draws_of_a_run_are_a_dataset(store: Store) -> None:
    assert draws_dataset(store).to_table().schema == DRAWS_SCHEMA
    store_draws(store, 12, [BLURRED, BLANK])
    store_draws(store, 13, [BEATEN])
    table = draws_dataset(store).to_table()
    assert table.schema.names == DRAWS_SCHEMA.names
    assert sorted(table.column("image_id").to_pylist()) == ["a_00", "a_00", "b_00"]
    assert table.column("thumbnail").drop_null().to_pylist() == [b"jpeg"]
