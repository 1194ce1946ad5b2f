"""How far a run gets by a deadline, and what it leaves out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.plans import MODEL, job, write

from nightpress.pipelines.planning import PlanLayout, check, units, write_plan
from nightpress.pipelines.run_directory.estimate import Rate, RateKey
from nightpress.pipelines.run_directory.reach import (
    Reach,
    UnreachedLevel,
    reach,
    work_of_manifest,
    work_of_plan,
)
from nightpress.pipelines.storage import Store

RATES = {
    RateKey(64, 96, 20, True): Rate(1.0, 1e3),
    RateKey(128, 96, 20, True): Rate(3.0, 1e3),
}
"""An image of 64 pixels takes a second, one of 128 takes three."""


def work(folder: Path, rows: list[dict[str, Any]], **batch: Any) -> tuple[Any, PlanLayout]:
    folder.mkdir(parents=True, exist_ok=True)
    spec = job(folder, write(folder / "m.jsonl", rows), batch={"size": 2, "shard_size": 4} | batch)
    layout = check(spec, MODEL, 2)
    return work_of_manifest(spec, MODEL, layout), layout


def rows_of(*counts: tuple[int | None, int, int]) -> list[dict[str, Any]]:
    """Rows by priority, width and number."""
    return [
        {"prompt": "p", "priority": priority, "width": width}
        for priority, width, number in counts
        for _ in range(number)
    ]


def test_the_time_goes_to_the_important_images_first(tmp_path: Path) -> None:
    counted, layout = work(tmp_path, rows_of((None, 64, 6), (2, 128, 2), (1, 64, 4)))
    assert reach(counted, layout, RATES, 100) == Reach(12, 12, (), 0)
    assert reach(counted, layout, RATES, 8.5) == Reach(
        12, 4, (UnreachedLevel({"priority": 1}, 2, 4), UnreachedLevel({"priority": 0}, 6, 6)), 2
    )
    assert reach(counted, layout, RATES, 10) == Reach(
        12, 6, (UnreachedLevel({"priority": 0}, 6, 6),), 1
    )
    none = reach(counted, layout, RATES, 0)
    assert none is not None
    assert (none.num_reached, none.num_missed, none.num_levels) == (0, 12, 3)


def test_scoring_that_is_slower_than_sampling_counts(tmp_path: Path) -> None:
    counted, layout = work(tmp_path, rows_of((None, 64, 10)))
    (key, rate), *_ = RATES.items()
    slow, unknown = replace(rate, scoring_s=4.0), replace(rate, scoring_s=None)
    reached = [reach(counted, layout, {key: each}, 8.0) for each in (rate, slow, unknown)]
    told = [None if each is None else (each.num_reached, each.scoring) for each in reached]
    assert told == [(8, "none"), (2, "measured"), (8, "unknown")]


def test_an_order_of_several_columns_is_told_by_all_of_them(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "width": 64, "surface": name, "score": score}
        for name, score in (("oak", 1), ("ash", 1), ("oak", 2), (None, 2))
    ]
    counted, layout = work(tmp_path, rows, order=["-score", "surface"])
    assert reach(counted, layout, RATES, 2) == Reach(
        4,
        2,
        (
            UnreachedLevel({"score": 1, "surface": "ash"}, 1, 1),
            UnreachedLevel({"score": 1, "surface": "oak"}, 1, 1),
        ),
        2,
    )


def test_without_an_order_only_the_number_is_told(tmp_path: Path) -> None:
    counted, layout = work(tmp_path, [{"prompt": "p", "width": 64}] * 10)
    assert reach(counted, layout, RATES, 4) == Reach(10, 4, (UnreachedLevel({}, 6, 10),), 1)


def test_nothing_is_told_of_settings_that_were_never_measured(tmp_path: Path) -> None:
    counted, layout = work(tmp_path, rows_of((1, 64, 2), (0, 72, 1)))
    assert reach(counted, layout, RATES, 100) is None


def test_a_run_that_was_begun_counts_what_it_has_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 8)
    rows = rows_of((0, 64, 7), (1, 128, 9))
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows), batch={"size": 2, "shard_size": 4})
    layout, store = check(spec, MODEL, 2), Store(spec.url)
    list(write_plan(spec, MODEL, layout, store))
    plan, manifest = work_of_plan(store, layout, set()), work_of_manifest(spec, MODEL, layout)
    assert plan.to_pylist() == manifest.to_pylist()
    left = work_of_plan(store, layout, {2, 3})  # the second part, whose images are all urgent
    assert reach(left, layout, RATES, 1000) == Reach(8, 8, (), 0)
    assert sorted(left["num_images"].to_pylist()) == [1, 7]
    assert len(work_of_plan(store, layout, set(range(layout.num_shards)))) == 0
    assert reach(work_of_plan(store, layout, {0, 1, 2, 3}), layout, RATES, 0) == Reach(0, 0, (), 0)


@given(
    st.lists(st.tuples(st.sampled_from([None, 0, 1, 2]), st.sampled_from([64, 128])), min_size=1),
    st.floats(0, 200),
)
def test_what_is_reached_and_what_is_not_add_up(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int | None, int]], actor_s: float
) -> None:
    folder = tmp_path_factory.mktemp("reach")
    counted, layout = work(folder, rows_of(*((priority, width, 1) for priority, width in rows)))
    reached = reach(counted, layout, RATES, actor_s)
    assert reached is not None
    assert reached.num_images == len(rows)
    assert sum(level.num_missed for level in reached.unreached) == reached.num_missed
    assert all(level.num_missed == level.num_images for level in reached.unreached[1:])
    priorities = [level.values["priority"] for level in reached.unreached]
    assert priorities == sorted(priorities, reverse=True)
