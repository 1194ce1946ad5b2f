"""The key review of a job."""

from typing import Any

import pytest

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.schema import json_schema
from nightpress.pipelines.job.spec import RunSpec


def job(**values: Any) -> RunSpec:
    return RunSpec.from_dict({"name": "n", "manifest": "m.csv", "output": "press"} | values)


def test_how_images_are_looked_at_does_not_decide_what_a_run_makes() -> None:
    reviewed = job(review={"thumbs": True, "group_by": "id"})
    assert job().changes(reviewed) == []
    assert RunSpec.from_record(reviewed.as_dict(), "run.json") == reviewed
    without = reviewed.as_dict()
    del without["review"]
    assert not RunSpec.from_record(without, "run.json").review.thumbs, "as older versions wrote it"


@pytest.mark.parametrize(
    ("review", "said"),
    [
        ({"thumbs": "yes"}, "review.thumbs"),
        ({"thumbs": 1}, "review.thumbs"),
        ({"group_by": ""}, "review.group_by"),
        ({"group_by": ["id"]}, "review.group_by"),
        ({"thumb": True}, "review.thumb: no such key; allowed here: thumbs, group_by"),
        (True, "review"),
    ],
)
def test_a_wrong_value_is_named(review: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        job(review=review)


def test_the_schema_knows_the_key() -> None:
    schema = json_schema()
    assert set(schema["$defs"]["ReviewSpec"]["properties"]) == {"thumbs", "group_by"}
    assert "review" in schema["properties"]
