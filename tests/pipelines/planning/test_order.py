"""The order of work: which images come sooner, in a part of the plan and over the whole run."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.plans import (
    MODEL,
    images_by_id,
    job,
    planned,
    problems_of,
    problems_of_rows,
    write,
)

from nightpress.pipelines.errors import PlanDamaged, SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import (
    PlanLayout,
    check,
    read_shard,
    shards_in_order,
    units,
    write_plan,
)
from nightpress.pipelines.planning.images import full_batches_first
from nightpress.pipelines.planning.order import OrderKey, by_importance, importance_ranks
from nightpress.pipelines.storage import Store

SMALL = {"size": 2, "shard_size": 4}


def handed_out(spec: RunSpec, batch_size: int = 2) -> tuple[PlanLayout, pa.Table]:
    """The images of a job in the order in which they are handed out."""
    layout = check(spec, MODEL, batch_size)
    store = Store(spec.url)
    list(write_plan(spec, MODEL, layout, store))
    shards = [read_shard(store, layout, shard) for shard in shards_in_order(store, layout)]
    return layout, pa.concat_tables(shards)


def rows_of(priorities: list[int | None], widths: int = 1) -> list[dict[str, Any]]:
    return [
        {"prompt": f"p{n}", "id": f"r{n}", "width": 64 + 8 * (n % widths), "priority": value}
        for n, value in enumerate(priorities)
    ]


priorities = st.lists(st.sampled_from([None, 0, 1, 5, -3]), min_size=1, max_size=40)


@settings(max_examples=20)
@given(priorities, st.integers(1, 4))
def test_within_equal_settings_no_image_is_handed_out_before_a_more_important_one(
    tmp_path_factory: pytest.TempPathFactory, values: list[int | None], widths: int
) -> None:
    folder = tmp_path_factory.mktemp("order")
    spec = job(folder, write(folder / "m.jsonl", rows_of(values, widths)), batch=SMALL)
    _, images = handed_out(spec)
    for width in set(images["width"].to_pylist()):
        same = images.filter(pa.array([w == width for w in images["width"].to_pylist()]))
        found = [value or 0 for value in same["priority"].to_pylist()]
        assert found == sorted(found, reverse=True)


@settings(max_examples=20)
@given(priorities, st.integers(1, 4), st.integers(3, 9))
def test_over_several_parts_shards_are_handed_out_by_their_most_important_image(
    tmp_path_factory: pytest.TempPathFactory, values: list[int | None], widths: int, part: int
) -> None:
    folder = tmp_path_factory.mktemp("order")
    spec = job(folder, write(folder / "m.jsonl", rows_of(values, widths)), batch=SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "MAX_PART_IMAGES", part)
        layout, images = handed_out(spec)
    assert sorted(set(images["shard"].to_pylist())) == list(range(layout.num_shards))
    best: dict[int, int] = {}
    for shard, value in zip(
        *images.select(["shard", "priority"]).to_pydict().values(), strict=True
    ):
        best[shard] = max(best.get(shard, -99), value or 0)
    found = list(best.values())  # in the order of their first images
    assert found == sorted(found, reverse=True)


def test_over_several_parts_every_important_row_is_dispatched_before_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 12)
    rows = rows_of([n % 3 == 2 for n in range(60)], 1)  # four of each part, at its end
    path = write(tmp_path / "m.jsonl", [row | {"priority": int(row["priority"])} for row in rows])
    layout, images = handed_out(job(tmp_path, path, batch=SMALL))
    assert len(layout.parts) == 5
    assert images["priority"].to_pylist() == [1] * 20 + [0] * 40


def test_order_decides_neither_names_nor_seeds_nor_anything_else_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "MAX_PART_IMAGES", 12)
    path = write(tmp_path / "m.jsonl", rows_of([n % 4 for n in range(40)], 3))
    ordered = images_by_id(planned(job(tmp_path, path, name="a", batch=SMALL))[1], "shard")
    plain = job(tmp_path, path, name="b", batch=SMALL, columns={"priority": None})
    assert images_by_id(planned(plain)[1], "shard") == ordered
    by_text = job(tmp_path, path, name="c", batch=SMALL | {"order": ["-id"]})
    assert images_by_id(planned(by_text)[1], "shard") == ordered


def test_without_priority_and_order_the_plan_is_what_it_was(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.jsonl", [{"prompt": f"p{n}", "width": 64 + 8 * (n % 3)} for n in range(20)]
    )
    layout, images = handed_out(job(tmp_path, path, batch=SMALL))
    assert layout.order == ()
    assert "order" not in layout.as_dict()
    assert images["shard"].to_pylist() == sorted(images["shard"].to_pylist())
    assert "order" not in job(tmp_path, path).identity()["batch"]


def order_of(
    folder: Path, rows: list[dict[str, Any]], *order: str, suffix: str = "jsonl"
) -> list[str]:
    """The ids in the order in which they are handed out, one an image."""
    folder.mkdir(exist_ok=True)
    path = write(folder / f"m.{suffix}", rows)
    batch = {"size": 1, "shard_size": 1, "order": list(order)}
    return list(handed_out(job(folder, path, batch=batch), 1)[1]["id"].to_pylist())


SURFACES = [
    {"prompt": "p", "id": "a", "surface": "oak", "score": 2},
    {"prompt": "p", "id": "b", "surface": None, "score": 10},
    {"prompt": "p", "id": "c", "surface": "ash", "score": None},
    {"prompt": "p", "id": "d", "surface": "oak", "score": 10},
]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (["surface"], "cadb"),
        (["+surface"], "cadb"),
        (["-surface"], "adcb"),
        (["score"], "abdc"),
        (["-score"], "bdac"),
        (["-score", "surface"], "dbac"),
        (["surface", "-score"], "cdab"),
        (["-id"], "dcba"),
    ],
)
def test_texts_sort_as_text_and_numbers_as_numbers_with_nulls_last(
    tmp_path: Path, order: list[str], expected: str
) -> None:
    for suffix in ("jsonl", "parquet"):
        assert "".join(order_of(tmp_path / suffix, SURFACES, *order, suffix=suffix)) == expected


def test_priority_comes_before_the_columns_of_the_order_unless_they_name_it(tmp_path: Path) -> None:
    rows = [row | {"priority": n % 2} for n, row in enumerate(SURFACES)]  # b and d are urgent
    assert "".join(order_of(tmp_path / "1", rows, "surface")) == "dbca"
    assert "".join(order_of(tmp_path / "2", rows, "surface", "-priority")) == "cdab"
    assert "".join(order_of(tmp_path / "3", rows, "priority")) == "acbd"


def test_a_priority_may_be_a_code_or_a_text_and_is_carried_as_a_number(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "id": name, "urgency": name} for name in ("low", "high", "none")]
    path = write(tmp_path / "m.csv", rows)
    codes = {"column": "urgency", "values": {"high": 2, "low": -1, "none": 0}}
    _, images = handed_out(job(tmp_path, path, columns={"priority": codes}, batch=SMALL))
    assert images["id"].to_pylist() == ["high", "none", "low"]
    assert images["priority"].to_pylist() == [2, 0, -1]
    assert images["priority"].type == pa.int64()
    assert "urgency" not in images.column_names
    again = write(tmp_path / "n.csv", [{"prompt": "p", "priority": v} for v in ("1", "", "7.0")])
    assert planned(job(tmp_path, again, name="b"))[1]["priority"].to_pylist() == [7, 1, None]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("high", "'high' is not a number"),
        ("1.5", "'1.5' is not a whole number"),
        (0.5, "0.5 is not a whole number"),
        (1e30, "1e+30 is out of range"),
    ],
)
def test_a_priority_that_is_no_whole_number_is_refused_by_file_row_and_column(
    tmp_path: Path, value: object, said: str
) -> None:
    found = problems_of_rows(tmp_path, {"prompt": "a", "priority": value})
    assert found == [f"m.jsonl, line 1, column priority: {said}"]


def test_a_priority_that_is_true_or_a_list_is_refused(tmp_path: Path) -> None:
    for value in (True, [1]):
        (found,) = problems_of_rows(tmp_path, {"prompt": "a", "priority": value})
        assert "priority must be a number" in found


def test_two_columns_cannot_both_be_stored_as_priority(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [{"prompt": "a", "urgency": 1, "priority": "x"}])
    (found,) = problems_of(job(tmp_path, path, columns={"priority": "urgency"}))
    assert "columns.priority names urgency, whose values are stored under this name" in found


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (["scor"], "the manifest has no column 'scor'; did you mean 'score'? its columns are: "),
        (["-nothing"], "the manifest has no column 'nothing'; its columns are: prompt, id"),
        (["num_images"], "cannot order by 'num_images'; of the settings it may name: id, prompt"),
        (["tags"], "cannot order by 'tags', whose values are list<"),
    ],
)
def test_an_order_by_what_has_none_is_refused_in_one_line(
    tmp_path: Path, order: list[str], said: str
) -> None:
    row = {"prompt": "p", "id": "a", "score": 1, "num_images": 1, "tags": ["x"]}
    spec = job(tmp_path, write(tmp_path / "m.jsonl", [row]), batch={"order": order})
    with pytest.raises(SpecError) as caught:
        check(spec, MODEL)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("batch.order: ")


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [{"prompt": "p", "w": 64}])
    with pytest.raises(SpecError, match="the column 'w' is named twice"):
        job(tmp_path, path, batch={"order": ["w", "-w"]})
    mapped = job(tmp_path, path, columns={"width": "w"}, batch={"order": ["w", "width"]})
    with pytest.raises(SpecError, match="two of its names mean the column 'width'"):
        check(mapped, MODEL)


def test_another_order_is_another_job_as_another_shard_size_is(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [{"prompt": "p", "score": 1}])
    plain, ordered = job(tmp_path, path), job(tmp_path, path, batch={"order": ["-score"]})
    (change,) = plain.changes(ordered)
    assert (change.field, change.new) == ("batch.order", ["-score"])
    assert RunSpec.from_record(ordered.as_dict(), "again") == ordered


def test_a_run_that_began_before_there_was_an_order_keeps_its_plan(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows_of([0, 1, 2, 3])), batch=SMALL)
    layout = check(spec, MODEL, 2)
    old = PlanLayout.from_dict({k: v for k, v in layout.as_dict().items() if k != "order"})
    assert PlanLayout.from_dict(json.loads(json.dumps(layout.as_dict()))).order == ("-priority",)
    store = Store(spec.url)
    list(write_plan(spec, MODEL, old, store))
    assert read_shard(store, old, 0)["id"].to_pylist() == ["r0", "r1", "r2", "r3"]
    assert shards_in_order(store, old) == [0]


def test_a_damaged_part_of_the_plan_is_said_to_be_damaged(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows_of([0, 1])), batch=SMALL)
    layout, _ = handed_out(spec)
    store = Store(spec.url)
    store.put(layout.parts[0].path, b"PAR1 nothing PAR1")
    with pytest.raises(PlanDamaged, match="this part of the plan is damaged"):
        shards_in_order(store, layout)


def test_every_kind_of_value_has_an_order() -> None:
    day = date(2027, 1, 1)
    for values in (
        pa.array([True, None, False]),
        pa.array([day.replace(day=2), None, day]),
        pa.array([2, None, 1], pa.decimal128(5, 2)),
        pa.array([2, None, 1], pa.timestamp("ns", "UTC")),
        pa.array([2, None, 1], pa.time64("us")),
        pa.array([2, None, 1], pa.duration("s")),
        pa.array([2, None, 1], pa.float32()),
        pa.array([2, None, 1], pa.float16()),
        pa.array([2, None, 1], pa.uint8()),
        pa.array([b"b", None, b"a"]),
        pa.array(["b", None, "a"]).dictionary_encode(),
        pa.array(["é", None, "z"]),
    ):
        assert importance_ranks([values], [OrderKey("x", False)]).tolist() == [1, 2, 0], values.type
        assert importance_ranks([values], [OrderKey("x", True)]).tolist() == [0, 2, 1], values.type
    nothing = pa.nulls(2)
    assert importance_ranks([nothing], [OrderKey("x", False)]).tolist() == [0, 0]
    nan = pa.array([float("nan"), 1.0, None])
    assert importance_ranks([nan], [OrderKey("x", True)]).tolist()[1] == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1), st.integers(1, 5))
def test_an_order_leaves_as_many_full_batches_as_there_were(
    images: list[tuple[int, int]], batch_size: int
) -> None:
    groups = np.unique([group for group, _ in images], return_inverse=True)[1].astype(np.int64)
    ranks = np.array([rank for _, rank in images])
    order = by_importance(groups, ranks, batch_size)
    assert sorted(order.tolist()) == list(range(len(images)))
    num_full = int((np.bincount(groups) // batch_size).sum()) * batch_size
    for start in range(0, num_full, batch_size):
        assert len(set(groups[order[start : start + batch_size]].tolist())) == 1
    equal = by_importance(np.sort(groups), np.zeros_like(ranks), batch_size)
    plain = full_batches_first(np.sort(groups), batch_size)
    assert equal[:num_full].tolist() == plain[:num_full].tolist()


def test_the_plan_keeps_the_order_with_it(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows_of([0, 2, 1])), batch=SMALL)
    layout, _ = handed_out(spec)
    stored = pq.read_table(f"{spec.url}/{layout.parts[0].path}")
    assert stored["id"].to_pylist() == ["r1", "r2", "r0"]
