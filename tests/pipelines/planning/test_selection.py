"""The few images that a preview shows: they cover the values of the manifest's columns."""

import itertools
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.plans import MODEL, job, write

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.modes import modes_of
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import check, select_images
from nightpress.pipelines.planning.coverage import covering_rows

SCENES, PRODUCTS, WIDTHS = ("beach", "city", "forest"), 16, (64, 128)


def grid(*, by_product: bool) -> list[dict[str, Any]]:
    """Every product in every scene and width, sorted by product or by scene."""
    rows = [
        {"prompt": f"{p} {s} {w}", "product": f"product {p:02d}", "scene": s, "width": w}
        for s, w, p in itertools.product(SCENES, WIDTHS, range(PRODUCTS))
    ]
    return sorted(rows, key=lambda row: row["product"]) if by_product else rows


WITH_PICTURES = replace(MODEL, modes=modes_of("StableDiffusionPipeline"))


def selected(
    spec: RunSpec, count: int, by: list[str] | None = None, info: ModelInfo = MODEL
) -> pa.Table:
    return select_images(spec, info, check(spec, info), count, by)


@pytest.mark.parametrize("by_product", [True, False])
@pytest.mark.parametrize("count", [3, 4, 8, 16, 32])
def test_a_grid_is_shown_with_all_its_scenes_in_equal_number(
    tmp_path: Path, by_product: bool, count: int
) -> None:
    spec = job(tmp_path, write(tmp_path / "m.csv", grid(by_product=by_product)))
    chosen = selected(spec, count)
    assert chosen.num_rows == count
    for column, values in (("scene", SCENES), ("width", WIDTHS), ("product", range(PRODUCTS))):
        shown = Counter(chosen[column].to_pylist())
        assert len(shown) == min(count, len(values))
        if column != "product":
            assert max(shown.values()) - min(shown.values()) <= 1


def test_named_columns_are_covered_before_all_others(tmp_path: Path) -> None:
    spec = job(tmp_path, write(tmp_path / "m.csv", grid(by_product=False)))
    chosen = selected(spec, PRODUCTS, ["product"])
    assert len(set(chosen["product"].to_pylist())) == PRODUCTS
    by_prompt = selected(spec, 5, ["prompt", "scene"])
    assert set(by_prompt["scene"].to_pylist()) == set(SCENES)


def test_every_mode_is_shown_although_each_row_has_a_picture_of_its_own(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "p", "init_image": f"{n}.png"} for n in range(400)]
    rows[100] = {"prompt": "text"}
    rows[200] |= {"mask_image": "m.png"}
    rows[300] |= {"canvas": [8, 0, 0, 0]}
    rows[350] |= {"strength": 0.25}
    spec = job(tmp_path, write(tmp_path / "m.jsonl", rows))
    shown = selected(spec, 5, info=WITH_PICTURES)
    assert len(set(shown["conditioning"].to_pylist())) == 5
    for names in (["strength"], ["canvas"], ["init_image", "mask_image"]):
        assert selected(spec, 4, names, WITH_PICTURES).num_rows == 4
    by_canvas = selected(spec, 2, ["canvas"], WITH_PICTURES)["conditioning"].to_pylist()
    assert any("canvas" in (text or "") for text in by_canvas)


def test_pictures_whose_bytes_the_manifest_holds_can_be_spread_over(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["p"] * 3, "init_image": [b"a", b"a", b"bc"]})
    pq.write_table(table, tmp_path / "m.parquet")
    spec = job(tmp_path, tmp_path / "m.parquet")
    shown = selected(spec, 2, ["init_image"], WITH_PICTURES)
    assert {each[0]["data"] for each in shown["inputs"].to_pylist()} == {b"a", b"bc"}


def test_a_column_may_be_named_as_a_setting_or_as_in_the_manifest(tmp_path: Path) -> None:
    rows = [{"caption": f"p{n}", "w": 64 + 64 * (n > 90)} for n in range(99)]
    spec = job(
        tmp_path,
        write(tmp_path / "m.csv", rows),
        columns={"prompt": "caption", "width": "w"},
    )
    for name in ("w", "width"):
        assert sorted(selected(spec, 2, [name])["width"].to_pylist()) == [64, 128]
    with pytest.raises(SpecError) as caught:
        selected(spec, 2, ["captoin"])
    assert str(caught.value) == (
        "by: the manifest has no column 'captoin'; did you mean 'caption'? "
        "its columns are: caption, w"
    )


def test_the_same_images_whatever_the_files_and_shards(tmp_path: Path) -> None:
    rows = grid(by_product=True)
    one = job(tmp_path, write(tmp_path / "m.jsonl", rows))
    parts = [
        write(tmp_path / f"{index}.jsonl", rows[index * 30 : index * 30 + 30]) for index in range(4)
    ]
    several = job(tmp_path, parts, batch={"shard_size": 5})
    names = ["image_id", "prompt", "seed", "file"]
    assert selected(one, 7).select(names) == selected(several, 7).select(names)


def test_a_job_with_fewer_images_is_shown_whole(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "num_images": 3}, {"prompt": "b", "num_images": 1}]
    chosen = selected(job(tmp_path, write(tmp_path / "m.jsonl", rows)), 400)
    assert chosen["image_id"].to_pylist() == [
        "00000000_00",
        "00000000_01",
        "00000000_02",
        "00000001_00",
    ]


def test_every_row_is_shown_once_before_one_is_shown_again(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}", "num_images": 4} for n in range(5)]
    chosen = selected(job(tmp_path, write(tmp_path / "m.jsonl", rows)), 7)
    assert sorted(Counter(chosen["prompt"].to_pylist()).values()) == [1, 1, 1, 2, 2]


def test_rows_that_differ_in_nothing_but_their_prompt_are_spread_evenly(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n}"} for n in range(101)]
    chosen = selected(job(tmp_path, write(tmp_path / "m.txt", rows)), 5)
    assert chosen["prompt"].to_pylist() == ["p0", "p25", "p50", "p75", "p100"]


def test_the_rarest_value_is_shown_however_large_the_manifest(tmp_path: Path) -> None:
    num_rows = 300_000
    rare = np.where(np.arange(num_rows) == 123_456, "rare", "common")
    kinds = np.arange(num_rows) % 3
    table = pa.table({"prompt": [f"p{n}" for n in range(num_rows)], "kind": kinds, "rare": rare})
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=50_000)
    spec = job(tmp_path, tmp_path / "m.parquet")
    layout = check(spec, MODEL)
    began = time.process_time()
    chosen = select_images(spec, MODEL, layout, 4)
    assert time.process_time() - began < 10
    assert set(chosen["rare"].to_pylist()) == {"rare", "common"}
    assert set(chosen["kind"].to_pylist()) == {0, 1, 2}


@pytest.mark.parametrize(
    "values",
    [
        [None, "a", "a", "b"],
        [None, 1, 1, 2**60],
        [None, 0.0, 0.0, 1.5],
        [None, True, True, False],
        [[1], [1, 2], [1], None],
        [{"a": 1}, {"a": 1}, {"a": 2}, None],
        [b"\xff", b"\xff", b"", None],
    ],
)
def test_values_of_any_type_are_told_apart(tmp_path: Path, values: list[Any]) -> None:
    pq.write_table(pa.table({"prompt": list("abcd"), "x": values}), tmp_path / "m.parquet")
    chosen = selected(job(tmp_path, tmp_path / "m.parquet"), 3, ["x"])
    assert len(set(map(str, chosen["x"].to_pylist()))) == 3


def test_columns_with_few_values_come_first() -> None:
    codes = np.array([[0, n] for n in range(50)] + [[1, 0]])
    rows = list(covering_rows(codes, np.arange(51), np.ones(51, np.int64), 2))
    assert rows == [0, 50]
