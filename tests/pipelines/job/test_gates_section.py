"""The section `gates` of a job file."""

from typing import Any

import pytest
from pydantic import ValidationError

from nightpress.pipelines.job.gates_section import GatesSpec


def spec(**values: Any) -> GatesSpec:
    return GatesSpec.model_validate(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "nothing is judged"),
        ({"require": []}, "nothing is judged"),
        ({"require": ["sharpness"]}, "compares nothing"),
        ({"require": ["sharpness > 4", "sharpness>4"]}, "is given twice"),
        ({"best_of": 4}, "best_of: 4 needs rank_by"),
        ({"require": ["a > 1"], "exhausted": "keep"}, "exhausted: keep needs rank_by"),
        ({"require": ["a > 1"], "rank_by": "clip"}, "rank_by has no effect"),
        ({"best_of": 4, "rank_by": "clip", "max_draws": 3}, "max_draws allows 3 draws only"),
        ({"require": ["a > 1"], "max_draws": 0}, "greater than or equal to 1"),
        ({"require": ["a > 1"], "max_draws": 1001}, "less than or equal to 1000"),
        ({"require": ["a > 1"], "max_rejected": "100%"}, "a share of the draws below 100%"),
        ({"require": ["a > 1"], "max_rejected": 0.7}, "a share of the draws below 100%"),
        ({"require": "a > 1"}, r"a list of conditions, such as \['a > 1'\]"),
        ({"require": ["a > 1"], "keep_rejected": "all"}, "'none' or 'thumbnails'"),
        ({"require": ["a > 1"], "retries": 3}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(**values)


def test_the_identity_is_what_decides_which_draw_is_taken() -> None:
    first = spec(require=["sharpness>40"], keep_rejected="thumbnails", max_rejected="70%")
    assert first.identity() == spec(require=[" sharpness > 40.0"]).identity()
    for other in (
        spec(require=["sharpness > 41"]),
        spec(require=["sharpness > 40"], max_draws=17),
        spec(require=["sharpness > 40"], best_of=2, rank_by="clip"),
        spec(require=["sharpness > 40"], exhausted="keep", rank_by="clip"),
    ):
        assert other.identity() != first.identity()


def test_the_scores_that_gates_need_are_those_of_their_conditions_and_of_the_ranking() -> None:
    gates = spec(require=["clip > 0.2", "nsfw < 0.2", "clip < 0.9"], best_of=2, rank_by="-clipping")
    assert gates.scores == ("clip", "nsfw", "clipping")
