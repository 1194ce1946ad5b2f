"""The page gets every image that is there, its columns, and a sentence for what is not."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.fakes.fake_runs import finished_run
from support.made_runs import begin, commit, failed, finish, made

from nightpress.pipelines.review.columns import page_columns
from nightpress.pipelines.review.rows import PageContext, read_rows, rows_json
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import Thumbs, read_thumbs

CONTEXT = PageContext("anna")


def page(run: Run, thumbs: Thumbs | None = None, context: PageContext = CONTEXT) -> dict[str, Any]:
    rows = read_rows(run)
    found: dict[str, Any] = json.loads(b"".join(rows_json(rows, thumbs or Thumbs(), context)))
    return found


@pytest.fixture
def run(tmp_path: Path) -> Run:
    opened = begin(str(tmp_path))
    finish(opened)
    return opened


def test_the_images_that_are_ok_come_in_plan_order_with_their_columns(run: Run) -> None:
    found = page(run)
    assert (found["format"], found["length"]) == (1, 9)
    assert found["image_id"] == [f"{n}_00" for n in range(10) if n != 5]
    assert found["sha256"] == [run.hashes()[each] for each in found["image_id"]]
    assert (found["width"], found["height"]) == ([16] * 9, [16] * 9)
    assert found["prompt"] == {"values": ["a cat"], "codes": [0] * 9}
    assert found["media_type"] == {"values": ["image/png"], "codes": [0] * 9}
    [topic] = [each for each in found["columns"] if each["name"] == "topic"]
    assert topic["kind"] == "category"
    assert [topic["values"][code] for code in topic["codes"]] == [
        f"topic {n}" for n in range(10) if n != 5
    ]
    assert found["constants"]["scheduler"] == "euler"
    assert found["constants"]["num_inference_steps"] == 20


def test_the_page_is_told_about_the_run(run: Run) -> None:
    about = page(run, context=PageContext("anna", read_only=True, notes=("Mind the step.",)))["run"]
    assert about["name"] == "run"
    assert about["url"] == run.url
    assert about["id"] == run.record.fingerprint_at_first
    assert (about["num_images"], about["num_ok"], about["num_failed"]) == (10, 9, 1)
    assert (about["complete"], about["read_only"], about["reviewer"]) == (True, True, "anna")
    assert about["notes"] == [
        "Mind the step.",
        "1 image failed; nightpress retry makes them again.",
        "9 images without a thumbnail yet.",
    ]


def test_failed_rows_are_listed_with_their_reasons(run: Run) -> None:
    assert page(run)["failed"] == [
        {"image_id": "5_00", "prompt": "a cat", "error_type": "NonFinite", "error": "not finite"}
    ]


def test_images_that_were_removed_are_counted_and_not_shown(run: Run) -> None:
    run.store.delete("images/3_00.png")
    found = page(run)
    assert "3_00" not in found["image_id"]
    assert (found["run"]["num_removed"], found["run"]["num_ok"]) == (1, 9)
    assert (
        "1 image removed from the store since; nightpress verify --repair makes them again."
        in (found["run"]["notes"])
    )


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    run = begin(str(tmp_path))
    commit(run, 1, [made(run, n) for n in range(4, 8)])
    found = page(run)
    assert found["length"] == 4
    assert not found["run"]["complete"]
    assert "The run is not finished: 2 of 3 shards not committed yet." in found["run"]["notes"]


def test_a_run_without_images_is_an_empty_page(tmp_path: Path) -> None:
    run = begin(str(tmp_path))
    found = page(run)
    assert (found["length"], found["columns"], found["image_id"]) == (0, [], [])
    commit(run, 0, [failed(run, n) for n in range(4)])
    found = page(run)
    assert (found["length"], len(found["failed"])) == (0, 4)


@pytest.mark.parametrize("packing", ["none", "webdataset", "parquet"])
def test_thumbnails_are_found_for_files_and_packs(tmp_path: Path, packing: str) -> None:
    prompts = [f"picture {n}" for n in range(6)]
    asked = {"packing": packing, "review": {"thumbs": True}}
    run = Run(*finished_run(tmp_path, prompts, **asked))
    thumbs = read_thumbs(run.store)
    found = page(run, thumbs)["thumbs"]
    assert found["atlas"] == [0, 0, 0, 0, 1, 1]
    assert found["cell"] == [0, 1, 2, 3, 0, 1]
    assert [f"thumbs/{each.removeprefix('atlas/')}" for each in found["atlases"]] == sorted(
        thumbs.named
    )
    without = page(run)["thumbs"]
    assert (without["atlases"], without["atlas"]) == ([], [-1] * 6)


def test_images_are_stacked_by_a_column_that_there_is(tmp_path: Path) -> None:
    run = Run(*finished_run(tmp_path, ["a", "b"], review={"group_by": "id"}))
    assert page(run)["run"]["group_by"] == "id"
    other = page(run, context=PageContext("anna", group_by="product"))["run"]
    assert other["group_by"] is None
    assert any(
        note.startswith("group_by: there is no column 'product' with different values; the columns")
        for note in other["notes"]
    )


def test_texts_are_as_they_are_in_the_metadata(tmp_path: Path) -> None:
    prompts = ["<img src=x onerror=alert(1)>", "שלום עולם", "x" * 4_000, 'say "hi" \\ \u2028']
    run = begin(str(tmp_path))
    commit(run, 0, [made(run, n, prompt) for n, prompt in enumerate(prompts)])
    found = page(run)["prompt"]
    assert [found["values"][code] for code in found["codes"]] == prompts


def columns_of(**columns: Any) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    found = list(page_columns(pa.table(columns)))
    constants = {each.name: each.constant for each in found if each.constant is not None}
    return {each.name: each.as_dict() for each in found if each.constant is None}, constants


def test_numbers_have_ranges_and_all_else_has_categories() -> None:
    columns, constants = columns_of(
        price=pa.array([1.5, None, float("nan")]),
        stock=pa.array([1, 2, None], pa.int64()),
        big=pa.array([2**60, 1, None], pa.int64()),
        cost=pa.array(["1.10", "2.20", None]).cast(pa.decimal128(10, 2)),
        mood=pa.array(["calm", "", None]),
        is_new=pa.array([True, False, None]),
        day=pa.array([1, 2, None], pa.date32()),
        tags=pa.array([["a", "b"], [], None]),
        same=pa.array(["x"] * 3),
        none=pa.nulls(3, pa.string()),
        kind=pa.array(["a", "b", "a"]).dictionary_encode(),
    )
    assert columns["price"] == {
        "name": "price",
        "label": "price",
        "kind": "number",
        "values": [1.5, None, None],
    }
    assert columns["stock"]["values"] == [1, 2, None]
    assert columns["big"]["values"] == ["1152921504606846976", "1"]
    assert columns["cost"]["values"] == [1.1, 2.2, None]
    assert columns["mood"]["codes"] == [0, -1, -1]
    assert columns["is_new"]["values"] == ["yes", "no"]
    assert (columns["is_new"]["label"], columns["is_new"]["codes"]) == ("is new", [0, 1, -1])
    assert columns["day"]["values"] == ["1970-01-02", "1970-01-03"]
    assert columns["tags"]["values"] == ['["a", "b"]', "[]"]
    assert columns["kind"]["codes"] == [0, 1, 0]
    assert constants == {"same": "x"}
    assert "none" not in columns


def test_scores_and_adapters_are_columns_of_their_own() -> None:
    scores = pa.map_(pa.string(), pa.float64())
    loras = pa.list_(pa.struct([("name", pa.string())]))
    columns, _ = columns_of(
        scores=pa.array([[("clip", 0.25), ("nsfw", None)], [("clip", 0.5)], None], scores),
        loras=pa.array([[{"name": "ink"}, {"name": "wash"}], [], [{"name": "ink"}]], loras),
    )
    assert columns["score.clip"]["values"] == [0.25, 0.5, None]
    assert columns["score.clip"]["label"] == "clip"
    assert "score.nsfw" not in columns
    assert columns["loras"]["values"] == ["ink, wash", "ink"]
    assert columns["loras"]["codes"] == [0, -1, 1]


def test_a_column_of_bytes_is_left_out_and_said(tmp_path: Path) -> None:
    run = begin(str(tmp_path))
    rows = [made(run, n) for n in range(4)]
    commit(run, 0, rows, blob=pa.array([b"\x00"] * 4), mood=pa.array(list("abab")))
    found = page(run)
    assert [each["name"] for each in found["columns"] if each["name"] in ("blob", "mood")] == [
        "mood"
    ]
    assert "The column blob holds bytes and is not shown." in found["run"]["notes"]


def test_a_run_of_one_image_has_its_columns(tmp_path: Path) -> None:
    run = begin(str(tmp_path))
    commit(run, 0, [made(run, 0)], mood=pa.array(["calm"]))
    found = page(run)
    assert (found["length"], found["constants"]) == (1, {})
    [mood] = [each for each in found["columns"] if each["name"] == "mood"]
    assert (mood["values"], mood["codes"]) == (["calm"], [0])


def test_a_category_may_have_thousands_of_values() -> None:
    columns, _ = columns_of(name=pa.array([f"name {n}" for n in range(2_000)] * 2))
    assert len(columns["name"]["values"]) == 2_000
    assert columns["name"]["codes"] == [*range(2_000)] * 2
