"""Conditions on the metadata, written as in SQL."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.run_directory.where import parse_condition

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
