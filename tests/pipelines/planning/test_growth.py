"""What came, went and changed in a manifest, image by image."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.growing_runs import begin, cats, extend, grow
from support.plans import images_by_id, write

from nightpress.pipelines.errors import ManifestError, ManifestGrown
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import Growth, read_shard
from nightpress.pipelines.run_directory.record import RunRecord, require_record
from nightpress.pipelines.storage import Store


def images_of(spec: RunSpec) -> dict[str, dict[str, Any]]:
    store = Store(spec.url)
    layout = require_record(store).layout
    shards = [read_shard(store, layout, shard) for shard in range(layout.num_shards)]
    return images_by_id(pa.concat_tables(shards, promote_options="default"))


def counts(growth: Growth) -> tuple[int, int, int, int]:
    return len(growth.came), len(growth.went), len(growth.changed), growth.num_same


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.parquet", "m.tsv"])
def test_rows_that_came_went_and_changed_are_told_apart(tmp_path: Path, name: str) -> None:
    spec = begin(tmp_path, cats(1, 2, 3), name)
    growth = grow(spec, [{"id": "r3", "prompt": "dog"}, *cats(5, 1, 4)])
    assert counts(growth) == (2, 1, 1, 1)
    summary = growth.summary
    assert summary.came.first == ("r5_00", "r4_00")
    assert summary.went.first == ("r2_00",)
    assert summary.examples == ("r3_00: prompt 'cat 3' -> 'dog'",)


def test_the_same_rows_in_another_order_and_format_of_numbers_are_the_same(tmp_path: Path) -> None:
    rows = cats(1, 2, width=64, note="x")
    spec = begin(tmp_path, rows)
    growth = grow(spec, [row | {"width": 64.0} for row in reversed(rows)])
    assert counts(growth) == (0, 0, 0, 2)
    assert growth.summary.is_empty


def test_an_extended_run_is_read_as_one_plan(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2, 3))
    before = images_of(spec)
    extend(spec, cats(1, 2, 3, 4, 5))
    after = images_of(spec)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"r4_00", "r5_00"}
    fresh = begin(tmp_path / "fresh", cats(1, 2, 3, 4, 5))
    without = {"shard"}
    assert {k: {n: v for n, v in row.items() if n not in without} for k, row in after.items()} == {
        k: {n: v for n, v in row.items() if n not in without} for k, row in images_of(fresh).items()
    }


def test_rows_without_ids_go_on_with_their_numbers(tmp_path: Path) -> None:
    rows = [{"prompt": f"cat {n}"} for n in range(5)]
    spec = begin(tmp_path, rows[:3])
    extend(spec, rows)
    fresh = begin(tmp_path / "fresh", rows)
    names = ("prompt", "seed", "file")
    mine, other = images_of(spec), images_of(fresh)
    assert {k: [v[n] for n in names] for k, v in mine.items()} == {
        k: [v[n] for n in names] for k, v in other.items()
    }


def test_more_images_of_a_row_go_on_with_its_variants(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2, num_images=2, seed=7))
    extend(spec, [*cats(1, num_images=4, seed=7), *cats(2, num_images=2, seed=7)])
    images = images_of(spec)
    assert sorted(images) == ["r1_00", "r1_01", "r1_02", "r1_03", "r2_00", "r2_01"]
    assert [images[f"r1_0{n}"]["seed"] for n in range(4)] == [7, 8, 9, 10]


def test_changed_images_are_refused_or_made_again_once(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2))
    rows = [*cats(1, 3), {"id": "r2", "prompt": "dog"}]
    with pytest.raises(ManifestGrown, match=r"1 image changed: r2_00\n.*'cat 2' -> 'dog'"):
        extend(spec, rows)
    extend(spec, rows, "new-variant")
    images = images_of(spec)
    assert sorted(images) == ["r1_00", "r2_00", "r2_01", "r3_00"]
    assert (images["r2_00"]["prompt"], images["r2_01"]["prompt"]) == ("cat 2", "dog")
    assert counts(grow(spec, rows)) == (0, 0, 0, 3)
    extend(spec, [*rows, *cats(4)])
    assert sorted(images_of(spec)) == ["r1_00", "r2_00", "r2_01", "r3_00", "r4_00"]


def test_a_row_that_changes_and_changes_back_has_a_variant_for_each(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1))
    for prompt in ("dog", "cat 1", "bird"):
        extend(spec, [{"id": "r1", "prompt": prompt}], "new-variant")
    images = images_of(spec)
    assert [images[f"r1_0{n}"]["prompt"] for n in range(4)] == ["cat 1", "dog", "cat 1", "bird"]
    growth = grow(spec, [{"id": "r1", "prompt": "bird"}])
    assert counts(growth) == (0, 0, 0, 1)


def test_a_variant_that_stands_for_another_is_not_taken_for_its_own(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1))
    extend(spec, [{"id": "r1", "prompt": "dog"}], "new-variant")
    extend(spec, [{"id": "r1", "prompt": "dog", "num_images": 3}])
    images = images_of(spec)
    assert sorted(images) == ["r1_00", "r1_01", "r1_03", "r1_04"]
    assert [images[name]["prompt"] for name in sorted(images)] == ["cat 1", "dog", "dog", "dog"]
    assert counts(grow(spec, [{"id": "r1", "prompt": "dog", "num_images": 3}])) == (0, 0, 0, 3)


def test_rows_that_went_and_came_back_are_the_same(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2))
    record = extend(spec, cats(1))
    assert record.editions[-1].summary.went.first == ("r2_00",)
    assert record.editions[-1].layout is None
    growth = grow(spec, cats(1, 2))
    assert counts(growth) == (0, 0, 0, 2)
    assert growth.summary.lines() == ["1 image came back: r2_00"]


def test_an_image_that_went_is_told_once_and_is_counted_until_it_comes_back(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2))
    extend(spec, cats(1))
    record = extend(spec, cats(1, 3))
    assert record.editions[-1].summary.lines() == ["1 image came: r3_00"]
    assert record.num_gone == 1
    record = extend(spec, [{"id": "r1", "prompt": "dog"}, *cats(2)], "new-variant")
    lines = record.editions[-1].summary.lines()
    assert lines[:2] == ["1 image came back: r2_00", "1 image went: r3_00"]
    assert record.num_gone == 2  # r3_00, and r1_00 as it was
    record = extend(spec, cats(2, 3))
    assert record.editions[-1].summary.went.first == ("r1_01",)
    assert record.editions[-1].summary.back.first == ("r3_00",)
    assert record.num_gone == 2


def test_an_image_with_the_same_draw_key_keeps_what_was_drawn(tmp_path: Path) -> None:
    spec = begin(tmp_path, [*cats(1, draw_key="k1"), *cats(2, draw_key="k2")])
    rows = [
        {"id": "r1", "prompt": "dog", "draw_key": "k1"},
        {"id": "r2", "prompt": "dog", "draw_key": "k3"},
    ]
    growth = grow(spec, rows)
    assert (len(growth.kept), len(growth.changed)) == (1, 1)
    assert growth.summary.kept.first == ("r1_00",)
    assert "1 image kept what was drawn: r1_00" in growth.summary.lines()


def test_a_carried_column_may_come_and_go_as_long_as_old_rows_have_no_value(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2))
    extend(spec, [*cats(1, 2, mood=None), *cats(3, mood="glad")])
    images = images_of(spec)
    assert images["r3_00"]["mood"] == "glad"
    growth = grow(spec, [*cats(1, 2, mood="sad"), *cats(3, mood="glad")])
    assert growth.summary.examples[0] == "r1_00: mood None -> 'sad'"


def test_a_carried_column_keeps_its_type(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, year=1990))
    with pytest.raises(ManifestError, match="its type is int64 in the run"):
        extend(spec, [*cats(1, year=1990), *cats(2, year=1990.5)])
    assert not list(Path(spec.url).glob("editions/*"))


def test_a_name_that_another_image_has_is_refused(tmp_path: Path) -> None:
    named = {"images": {"file_name": "{prompt}.png"}}
    spec = begin(tmp_path, cats(1), **named)
    with pytest.raises(ManifestError, match=r"image r2_00 would be the file 'images/cat 1\.png'"):
        extend(spec, [*cats(1), {"id": "r2", "prompt": "cat 1"}])
    with pytest.raises(ManifestError, match="is already used"):
        extend(spec, [*cats(1), {"id": "r2", "prompt": "x"}, {"id": "r3", "prompt": "x"}])


def test_a_bad_row_among_the_new_ones_is_named_where_it_stands(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1))
    with pytest.raises(
        ManifestError, match=r"m\.jsonl, line 2, column prompt: the prompt is empty"
    ):
        extend(spec, [*cats(1), {"id": "r2", "prompt": ""}])
    with pytest.raises(ManifestError, match="id 'r1' is already used"):
        extend(spec, [*cats(1), *cats(1)])


def test_ids_and_numbers_of_images_may_have_columns_of_their_own_names(tmp_path: Path) -> None:
    rows = [{"sku": n, "prompt": f"cat {n}", "n": 2} for n in range(3)]
    mapped = {"columns": {"id": "sku", "num_images": "n"}}
    spec = begin(tmp_path, rows[:1], **mapped)
    extend(spec, rows)
    assert sorted(images_of(spec)) == ["0_00", "0_01", "1_00", "1_01", "2_00", "2_01"]


def test_a_fingerprint_changes_with_each_edition_and_comes_from_the_store(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1))
    records = [require_record(Store(spec.url)), extend(spec, cats(1, 2)), extend(spec, cats(1))]
    assert len({record.fingerprint for record in records}) == 3
    read: RunRecord = require_record(Store(spec.url))
    assert read.fingerprint == records[-1].fingerprint
    assert read.layout == records[-1].layout


def test_new_files_of_other_columns_and_formats_are_added(tmp_path: Path) -> None:
    spec = begin(tmp_path, cats(1, 2, width=64), "a.csv")
    files = [
        write(tmp_path / "a.csv", cats(1, 2, 3, width=64)),
        write(tmp_path / "b.jsonl", cats(4, 5, mood="glad", seed=5)),
    ]
    record = extend(spec.model_copy(update={"manifest": list(map(str, files))}))
    images = images_of(spec)
    assert sorted(images) == [f"r{n}_00" for n in range(1, 6)]
    assert [images[f"r{n}_00"]["width"] for n in (2, 3, 4)] == [64, 64, 128]
    assert [images[f"r{n}_00"]["mood"] for n in (2, 3, 4)] == [None, None, "glad"]
    assert images["r4_00"]["seed"] == 5
    assert len(record.layout.sections[1].files) == 2
    assert len(record.manifest) == 2


def test_a_manifest_may_not_use_the_names_of_an_edition_s_columns(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"column nightpress\.id: nightpress keeps this name"):
        begin(tmp_path, [{"nightpress.id": "a", "prompt": "a cat"}])
