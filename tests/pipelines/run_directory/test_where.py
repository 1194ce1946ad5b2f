"""Conditions on the metadata, written as in SQL."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.run_directory.where import parse_condition, scores_in_condition

ROWS = pa.table(
    {
        "name": ["a", "b", "c", "d"],
        "priority": pa.array([1, 2, None, 4]),
        "score": [0.5, 1.5, 2.5, -3.0],
        "prompt": ["a cat", "a 'dog'", None, "A CAT_1"],
        "good": [True, False, None, True],
        "made": pa.array([datetime(2027, 1, n, tzinfo=UTC) for n in (1, 2, 3, 4)]),
        "tags": [["x"], [], None, ["y"]],
        "odd name": [1, 2, 3, 4],
        "price": pa.array([1, 2, 3, 4], pa.decimal128(8, 2)),
        "kind": pa.array(["oak", "ash", "oak", None]),
    }
)


def met(condition: str) -> str:
    expression = parse_condition(condition, ROWS.schema)
    found = ds.dataset(ROWS).to_table(columns=["name"], filter=expression)
    return "".join(found.column("name").to_pylist())


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("priority = 2", "b"),
        ("priority==2", "b"),
        ("priority != 2", "ad"),
        ("priority <> 2", "ad"),
        ("not priority = 2", "ad"),
        ("priority > 1.5", "bd"),
        ("score <= -3", "d"),
        ("score >= +1.5e0", "bc"),
        ("price < 2.5", "ab"),
        ("price = 2", "b"),
        ("name = 'a' or name = 'c' and priority is null", "ac"),
        ("(name = 'a' or name = 'c') and priority is null", "c"),
        ("NOT (name = 'a' OR name = 'b')", "cd"),
        ("name in ('a', 'd')", "ad"),
        ("kind not in ('oak')", "b"),
        ("priority between 2 and 4", "bd"),
        ("priority not between 2 and 4", "a"),
        ("prompt like 'a %'", "ab"),
        ("prompt ilike '%cat%'", "ad"),
        ("prompt not like '%cat%'", "bd"),
        ("prompt = 'a ''dog'''", "b"),
        ("prompt is not null and good = true", "ad"),
        ("good = false", "b"),
        ("made >= '2027-01-03T00:00:00Z'", "cd"),
        ('"odd name" > 3', "d"),
    ],
)
def test_a_condition_chooses_rows_as_sql_does(condition: str, names: str) -> None:
    assert met(condition) == names


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("", "expected a column at character 1, found nothing"),
        ("priority", "expected a comparison such as =, in, between, like or is null at character"),
        ("priority = ", "expected a number, a text in single quotes, true or false"),
        ("priority = 1 name = 'a'", "expected and, or or the end at character 14, found 'name'"),
        ("priorty = 1", "no column 'priorty'; did you mean 'priority'? the columns are: name, pri"),
        ('name = "a"', "expected a number, a text in single quotes, true or false"),
        ("name = 1", "name is string and cannot be compared with 1"),
        ("priority = '1'", "priority is int64 and cannot be compared with '1'"),
        ("good = 1", "good is bool and cannot be compared with 1"),
        ("made > 'tomorrow'", "made is timestamp[us, tz=UTC] and cannot be compared with 'tomorr"),
        ("tags = 'x'", "tags is list<"),
        ("priority like '1'", "cannot be compared with '1'"),
        ("priority like 1", "like needs a column of texts, and priority is int64"),
        ("not priority ilike 1", "ilike needs a column of texts, and priority is int64"),
        ("(priority = 1", "expected ) at character"),
        ("priority in 1", "expected ( at character"),
        ("priority is 1", "expected null at character"),
        ("priority = 1; drop", "cannot read '; drop' at character 13"),
        ("priority = 12abc", "cannot read '12abc' at character 12"),
    ],
)
def test_what_is_no_condition_is_refused_by_place_and_what_is_allowed(
    condition: str, said: str
) -> None:
    with pytest.raises(SpecError) as caught:
        parse_condition(condition, ROWS.schema)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


SCORES = pa.map_(pa.string(), pa.float64())
SCORED = pa.table(
    {
        "name": ["a", "b", "c", "d"],
        "scores": pa.array(
            [
                {"clip": 0.5, "sharpness": 31.0},
                None,
                {"clip": 0.1, "kind.tabby, tabby cat": 0.75},
                {"clip": None, "sharpness": 80.0},
            ],
            SCORES,
        ),
        "perceptual_hash": pa.array(["ff00", None, "0f0f", "ff0f"]),
    }
)


@pytest.mark.parametrize("stored", ["in memory", "in two files, one of an older version"])
@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("scores.clip > 0.3", "a"),
        ("scores.clip <= 0.5", "ac"),
        ("not scores.clip > 0.3", "c"),
        ("scores.clip is null", "bd"),
        ("scores.clip is not null and scores.sharpness < 40", "a"),
        ("scores.sharpness between 30 and 40 or scores.clip = 0.1", "ac"),
        ("scores.sharpness in (80, 31)", "ad"),
        ('"scores.kind.tabby, tabby cat" >= 0.75', "c"),
        ("scores.never_made > 0", ""),
        ("scores is null", "b"),
        ("perceptual_hash like 'ff%'", "ad"),
        ("perceptual_hash is null", "b"),
    ],
)
def test_each_score_is_a_column_of_its_own_that_may_be_null(
    condition: str, names: str, stored: str, tmp_path: Path
) -> None:
    dataset = ds.dataset(SCORED)
    if stored != "in memory":
        pq.write_table(SCORED, tmp_path / "0.parquet")
        pq.write_table(SCORED.select(["name"]).slice(1, 1), tmp_path / "1.parquet")
        dataset = ds.dataset(sorted(map(str, tmp_path.iterdir())), schema=SCORED.schema)
    expression = parse_condition(condition, SCORED.schema)
    found = dataset.to_table(columns=["name"], filter=expression).column("name").to_pylist()
    assert list(dict.fromkeys(found)) == list(names)


def test_the_scores_of_a_condition_are_named_once_in_order() -> None:
    condition = "scores.clip > 1 or (name = 'x' and scores.kind.a < 2 and scores.clip < 0)"
    assert scores_in_condition(condition, SCORED.schema) == ("clip", "kind.a")
    assert scores_in_condition("name = 'scores.clip'", SCORED.schema) == ()


def test_a_carried_column_with_the_name_of_a_score_is_that_column() -> None:
    schema = SCORED.schema.append(pa.field("scores.clip", pa.string()))
    assert scores_in_condition("scores.clip = 'high'", schema) == ()


@pytest.mark.parametrize(
    ("condition", "complaint"),
    [
        ("scores.clip = 'high'", "scores.clip is double and cannot be compared with 'high'"),
        ("scores.clip like 'h%'", "cannot be compared with 'h%'"),
        ("scores > 3", "compare one of its entries, such as scores.clip"),
        ("scores. > 3", "there is no column 'scores.'"),
        ("score.clip > 3", "there is no column 'score.clip'"),
    ],
)
def test_scores_are_compared_with_numbers_only(condition: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        parse_condition(condition, SCORED.schema)


def test_without_a_column_of_scores_there_are_none() -> None:
    with pytest.raises(SpecError, match=r"there is no column 'scores\.clip'"):
        parse_condition("scores.clip > 3", ROWS.schema)
