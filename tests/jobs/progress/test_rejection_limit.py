"""A run whose gates reject too many draws is stopped early."""

import pytest

from nightpress.jobs.progress.events import Message
from nightpress.jobs.progress.rejection_limit import MIN_DRAWS, RejectionLimit
from nightpress.pipelines.shards.events import DrawsJudged


def judged(num_draws: int, num_passed: int, **failed: int) -> DrawsJudged:
    names = tuple((f"{name} > 40", count) for name, count in failed.items())
    return DrawsJudged(0, num_draws, failed=names, rows=(("a", num_draws, num_passed),))


def test_too_many_rejected_draws_are_told_with_the_conditions_that_reject_most() -> None:
    limit = RejectionLimit("70%")
    limit.add(Message("hello"))
    limit.add(judged(100, 30, sharpness=70, clip=3))
    assert limit.exceeded is None
    limit.add(judged(100, 20, sharpness=75, clip=9))
    assert limit.exceeded == (
        "150 of 200 draws were rejected, 145 by sharpness > 40 and 12 by clip > 40, and "
        "gates.max_rejected is 70%"
    )


def test_a_few_draws_say_nothing_yet() -> None:
    limit = RejectionLimit("70%")
    limit.add(judged(MIN_DRAWS - 1, 0, sharpness=MIN_DRAWS - 1))
    assert limit.exceeded is None
    limit.add(judged(1, 0, sharpness=1))
    assert limit.exceeded is not None


@pytest.mark.parametrize("num_passed", [0, 100])
def test_without_a_limit_nothing_is_too_much(num_passed: int) -> None:
    limit = RejectionLimit(None)
    limit.add(judged(100, num_passed))
    assert limit.exceeded is None
