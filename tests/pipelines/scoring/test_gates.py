"""Gates judge a draw by its scores."""

import math
from typing import Any

import pytest

from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.scoring.gates import Gates
from nightpress.pipelines.scoring.verdicts import NO_RANK


def gates(**values: Any) -> Gates:
    return Gates(GatesSpec.model_validate({"require": ["sharpness > 40", "nsfw < 0.2"]} | values))


def test_an_image_that_meets_every_condition_passes() -> None:
    verdict = gates().judge({"sharpness": 41.0, "nsfw": 0.1})
    assert verdict.passes
    assert verdict.text is None


def test_a_verdict_names_the_conditions_that_are_not_met_with_their_scores() -> None:
    verdict = gates().judge({"sharpness": 31.0, "nsfw": 0.31})
    assert verdict.text == "sharpness 31 < 40, nsfw 0.31 > 0.2"
    assert [each.condition for each in verdict.failed] == ["sharpness > 40", "nsfw < 0.2"]
    assert [each.distance for each in verdict.failed] == pytest.approx([9.0, 0.11])


@pytest.mark.parametrize("missing", [{}, {"nsfw": None}, {"nsfw": math.nan}])
def test_an_image_without_a_score_does_not_meet_a_condition_on_it(missing: Any) -> None:
    verdict = gates().judge({"sharpness": 41.0} | missing)
    assert verdict.text == "nsfw is missing"
    assert verdict.failed[0].distance is None


def test_the_rank_is_the_score_that_is_ranked_by_and_without_it_the_lowest_of_all() -> None:
    judge = gates(best_of=2, rank_by="clip").judge
    assert judge({"clip": 0.3}).rank == 0.3
    assert judge({"clip": None}).rank == judge({"clip": math.nan}).rank == judge({}).rank == NO_RANK


def test_a_minus_before_the_score_ranks_the_lowest_value_highest() -> None:
    judge = gates(best_of=2, rank_by="-clipping").judge
    assert judge({"clipping": 0.1}).rank > judge({"clipping": 0.2}).rank > judge({}).rank


def test_a_draw_without_an_image_fails_by_what_is_wrong_with_it() -> None:
    verdict = gates().faulty("Blank")
    assert (verdict.passes, verdict.is_image, verdict.text) == (False, False, "Blank")
