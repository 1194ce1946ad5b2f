"""Which columns are settings, which are carried, and what is reported about the others."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.plans import MODEL, images_by_id, job, planned, problems_of, problems_of_rows, write

from nightpress.pipelines.errors import SpecError

DIFFUSIONDB = {"guidance_scale": "cfg", "num_inference_steps": "step"} | {
    "scheduler": {"column": "sampler", "values": {1: "ddim", 3: "euler"}}
}


def test_columns_of_a_diffusiondb_table_are_mapped(tmp_path: Path) -> None:
    table = pa.table(
        {
            "image_name": ["a.png", "b.png"],
            "prompt": ["a cat", "a dog"],
            "part_id": pa.array([1, 2], pa.uint16()),
            "seed": pa.array([2615452719, 7], pa.uint32()),
            "step": pa.array([50, 30], pa.uint16()),
            "cfg": pa.array([7.0, 12.5], pa.float32()),
            "sampler": pa.array([3, 1], pa.uint8()),
            "width": pa.array([512, 768], pa.uint16()),
            "height": pa.array([512, 512], pa.uint16()),
            "timestamp": pa.array([0, 1], pa.timestamp("us", tz="UTC")),
        }
    )
    pq.write_table(table, tmp_path / "metadata.parquet")
    spec = job(tmp_path, tmp_path / "metadata.parquet", columns=DIFFUSIONDB)
    images = images_by_id(planned(spec)[1])
    first = images["00000000_00"]
    assert (first["scheduler"], first["guidance_scale"], first["num_inference_steps"]) == (
        "euler",
        7.0,
        50,
    )
    assert first["seed"] == 2615452719
    assert {"image_name", "part_id", "timestamp"} <= first.keys()
    assert not {"cfg", "step", "sampler"} & first.keys()
    assert images["00000001_00"]["scheduler"] == "ddim"


def test_an_unknown_code_is_reported(tmp_path: Path) -> None:
    row = {"prompt": "p", "sampler": 8, "cfg": 1, "step": 1}
    assert problems_of_rows(tmp_path, row, columns=DIFFUSIONDB) == [
        "m.jsonl, line 1, column sampler: '8' is not one of the codes in the job file's "
        "`columns`: 1, 3"
    ]


def test_codes_may_stand_for_numbers_and_may_be_missing(tmp_path: Path) -> None:
    columns = {"width": {"column": "size", "values": {"S": 64, "L": 256}}}
    rows = [{"prompt": "a", "size": "L"}, {"prompt": "b"}, {"prompt": "c", "size": "S"}]
    _, plan = planned(job(tmp_path, write(tmp_path / "m.csv", rows), columns=columns))
    assert {row["id"][-1]: row["width"] for row in plan.to_pylist()} == {
        "0": 256,
        "1": MODEL.width,
        "2": 64,
    }


@pytest.mark.parametrize(
    ("codes", "shown"),
    [
        (pa.array([1.0, float("inf")]), "inf"),
        (pa.array([1.0, 1e300]), "1e+300"),
        (pa.array([1.0, -(2.0**62)]), "-4611686018427387904"),
        (pa.array([1.0, 0.5]), "0.5"),
        (pa.array([1.0, float("nan")]), "nan"),
        (pa.array([1.0, 70_000.0], pa.float32()), "70000"),
        (pa.array([1.0, 0.5], pa.float16()), "0.5"),
        (pa.array([Decimal("1.00"), Decimal("1.50")]), "1.50"),
        (pa.array([1, 2**64 - 1], pa.uint64()), "18446744073709551615"),
    ],
)
def test_a_number_that_is_no_code_is_reported_with_its_row(
    tmp_path: Path, codes: pa.Array, shown: str
) -> None:
    pq.write_table(pa.table({"prompt": ["a", "b"], "c": codes}), tmp_path / "m.parquet")
    columns = {"width": {"column": "c", "values": {1: 64}}}
    assert problems_of(job(tmp_path, tmp_path / "m.parquet", columns=columns)) == [
        f"m.parquet, row 1 (counted from 0), column c: {shown!r} is not one of the codes in the "
        "job file's `columns`: 1"
    ]


@pytest.mark.parametrize("code", ["1.50", "1.5"])
def test_codes_for_decimals_may_leave_out_zeros_at_the_end(tmp_path: Path, code: str) -> None:
    table = pa.table({"prompt": ["a", "b"], "c": [Decimal("1.50"), None]})
    pq.write_table(table, tmp_path / "m.parquet")
    columns = {"guidance_scale": {"column": "c", "values": {code: 7.5}}}
    images = images_by_id(planned(job(tmp_path, tmp_path / "m.parquet", columns=columns))[1])
    scales = [images[f"0000000{row}_00"]["guidance_scale"] for row in range(2)]
    assert scales == [7.5, MODEL.guidance_scale]


def test_blanks_around_codes_do_not_count_in_cells_or_in_the_job(tmp_path: Path) -> None:
    columns = {"negative_prompt": {"column": "c", "values": {"x ": "w", " y": "v"}}}
    rows = [{"prompt": "a", "c": "x "}, {"prompt": "b", "c": " y"}, {"prompt": "c", "c": "x"}]
    manifest = write(tmp_path / "m.csv", rows)
    images = images_by_id(planned(job(tmp_path, manifest, columns=columns))[1])
    prompts = [images[f"0000000{row}_00"]["negative_prompt"] for row in range(3)]
    assert prompts == ["w", "v", "w"]


@pytest.mark.parametrize("values", [{"x": 1, "x ": 2}, {1: 64, "1": 128}])
def test_a_code_cannot_be_given_twice(tmp_path: Path, values: dict[Any, Any]) -> None:
    with pytest.raises(SpecError, match="is given twice; blanks around it do not count"):
        job(tmp_path, tmp_path / "m.csv", columns={"width": {"column": "c", "values": values}})


@pytest.mark.parametrize("value", [{"a": 1}, [1], True, False, 1.5, [], {}])
def test_an_id_beside_text_is_text_or_a_whole_number(tmp_path: Path, value: object) -> None:
    rows = [{"prompt": "a", "id": "x"}, {"prompt": "b", "id": 2**64}, {"prompt": "c", "id": value}]
    assert problems_of_rows(tmp_path, *rows) == [
        f"m.jsonl, line 3, column id: {json.dumps(value)!r} is neither text nor a whole number; "
        "ids that are text must be in quotes in every row"
    ]


def test_text_and_whole_numbers_may_be_ids_of_one_file(tmp_path: Path) -> None:
    ids = ["x", 7, 2**64, -3, "[draft]", "{", "1.2.3", "trueish", "1e", "café"]
    rows = [{"prompt": "a", "id": each} for each in ids]
    _, plan = planned(job(tmp_path, write(tmp_path / "m.jsonl", rows)))
    assert sorted(plan["id"].to_pylist()) == sorted(map(str, ids))


def test_a_missing_mapped_column_is_reported(tmp_path: Path) -> None:
    assert problems_of_rows(tmp_path, {"Prompt": "a", "n": 1}, columns={"prompt": "caption"}) == [
        "m.jsonl, column caption: columns.prompt names it, but the columns are: Prompt, n"
    ]


def test_a_file_without_prompts_is_reported_with_its_columns(tmp_path: Path) -> None:
    (problem,) = problems_of_rows(tmp_path, {"Prompt": "a", "n": 1})
    assert problem.startswith(
        "m.jsonl, column prompt: every file needs this column, but this one has: Prompt, n"
    )


def test_a_column_can_be_kept_from_being_a_setting(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "width": 33, "height": 77}]
    manifest = write(tmp_path / "m.jsonl", rows)
    _, plan = planned(job(tmp_path, manifest, columns={"width": None, "height": None}))
    (row,) = plan.to_pylist()
    assert (row["width"], row["height"]) == (MODEL.width, MODEL.height)
    assert (row["manifest_width"], row["manifest_height"]) == (33, 77)


def test_carried_columns_keep_their_values_and_are_renamed_if_necessary(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "zip": "007", "image_id": "x", "file": "y", "sha256": "z"}]
    _, plan = planned(job(tmp_path, write(tmp_path / "m.csv", rows)))
    (row,) = plan.to_pylist()
    assert row["zip"] == "007"
    assert (row["manifest_image_id"], row["manifest_file"], row["manifest_sha256"]) == tuple("xyz")


def test_a_carried_name_that_is_taken_is_reported(tmp_path: Path) -> None:
    (problem,) = problems_of_rows(tmp_path, {"prompt": "a", "file": "x", "manifest_file": "y"})
    assert problem.startswith("m.jsonl, column file: it would be stored as manifest_file")


def test_files_with_different_columns_share_one_plan(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", [{"prompt": "a", "n": 1, "only_a": [1]}])
    two = write(tmp_path / "b.csv", [{"only_b": "x", "n": "07", "prompt": "b"}])
    three = write(tmp_path / "c.txt", [{"prompt": "c"}])
    _, plan = planned(job(tmp_path, [one, two, three]))
    carried = plan.select(["prompt", "n", "only_a", "only_b"])
    assert carried.to_pylist() == [
        {"prompt": "a", "n": "1", "only_a": [1], "only_b": None},
        {"prompt": "b", "n": "07", "only_a": None, "only_b": "x"},
        {"prompt": "c", "n": None, "only_a": None, "only_b": None},
    ]


def test_either_all_files_have_ids_or_none(tmp_path: Path) -> None:
    one = write(tmp_path / "a.csv", [{"prompt": "a", "id": "x"}])
    two = write(tmp_path / "b.csv", [{"prompt": "b"}])
    (problem,) = problems_of(job(tmp_path, [one, two]))
    assert problem.startswith("b.csv, column id: ")
    assert "give ids to all files or none" in problem


@pytest.mark.parametrize(
    ("name", "type_", "wanted"),
    [
        ("prompt", pa.int64(), "prompt must be text"),
        ("width", pa.bool_(), "width must be a number"),
        ("seed", pa.struct([("a", pa.int64())]), "seed must be a number"),
        ("scheduler", pa.int8(), "scheduler must be text"),
        ("id", pa.timestamp("ms"), "id must be text or whole numbers"),
    ],
)
def test_a_column_of_the_wrong_type_is_reported_once(
    tmp_path: Path, name: str, type_: pa.DataType, wanted: str
) -> None:
    columns = {"prompt": pa.array(["a"] * 30)} | {name: pa.nulls(30, type_)}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    assert problems_of(job(tmp_path, tmp_path / "m.parquet")) == [
        f"m.parquet, column {name}: its type is {type_}, but {wanted}"
    ]


@pytest.mark.parametrize("other", [5, True, ["a dog"], {"text": "a dog"}])
@pytest.mark.parametrize("setting", ["prompt", "negative_prompt"])
def test_json_values_beside_text_are_no_prompts(
    tmp_path: Path, setting: str, other: object
) -> None:
    rows = [{"prompt": "a cat", "negative_prompt": "red"}] * 2
    assert problems_of_rows(tmp_path, *rows, rows[0] | {setting: other}) == [
        f"m.jsonl, column {setting}: some of its values are not text, but {setting} must be text"
    ]


def test_text_in_any_arrow_encoding_is_text(tmp_path: Path) -> None:
    prompts = pa.array(["a", "b", "a"])
    for name, column in {
        "large": prompts.cast(pa.large_string()),
        "category": prompts.dictionary_encode(),
    }.items():
        pq.write_table(pa.table({"prompt": column, "note": column}), tmp_path / f"{name}.parquet")
        _, plan = planned(job(tmp_path / name, tmp_path / f"{name}.parquet"))
        assert plan["prompt"].to_pylist() == ["a", "b", "a"]
        assert plan.schema.field("note").type == pa.string()


def test_columns_of_every_type_are_carried_and_expanded(tmp_path: Path) -> None:
    carried = {
        "tags": [["x", "y"], None],
        "meta": [{"a": 1}, None],
        "raw": [b"x", None],
        "nothing": pa.nulls(2),
        "flag": [True, None],
    }
    table = pa.table({"prompt": ["a", "b"], "num_images": [2, 1], "": ["i", "j"]} | carried)
    pq.write_table(table, tmp_path / "m.parquet")
    images = images_by_id(planned(job(tmp_path, tmp_path / "m.parquet"))[1])
    for name in carried:
        given = table[name].to_pylist()
        assert [row[name] for row in images.values()] == [given[0], given[0], given[1]]
    assert [row["unnamed"] for row in images.values()] == ["i", "i", "j"]
