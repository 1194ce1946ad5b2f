"""Seeds of draws, and which draw takes a place."""

import random
from collections.abc import Mapping

import pytest

from nightpress.pipelines.scoring.draws import (
    Decision,
    DrawRule,
    decide,
    draw_of_seed,
    draw_seed,
    needed_draws,
    why_none_passed,
)
from nightpress.pipelines.scoring.verdicts import ENDS, NO_RANK, Miss, Verdict

PASSES = Verdict()


def blurred(value: float, rank: float = NO_RANK) -> Verdict:
    """A draw whose sharpness is too low."""
    return Verdict((Miss("sharpness > 40", f"sharpness {value:g} < 40", 40 - value),), rank)


BLANK = Verdict((Miss("Blank", "Blank"),), is_image=False)


def by_the_definition(verdicts: Mapping[int, Verdict], rule: DrawRule) -> Decision:
    """The decision as the manual words it, for a place whose draws are all known."""
    prefixes = (range(n + 1) for n in range(rule.max_draws))
    considered = next(
        (
            list(prefix)
            for prefix in prefixes
            if sum(verdicts[n].passes for n in prefix) == rule.best_of
        ),
        list(range(rule.max_draws)),
    )
    end = next((n for n in considered if verdicts[n].ends), None)
    if end is not None:
        return Decision(None, end + 1)
    passing = [n for n in considered if verdicts[n].passes]
    if passing:
        highest = max(verdicts[n].rank for n in passing)
        winner = next(n for n in passing if verdicts[n].rank == highest)
        return Decision(winner, len(considered))
    images = [n for n in considered if verdicts[n].is_image]
    if rule.exhausted == "fail" or not images:
        return Decision(None, len(considered))
    fewest = min(len(verdicts[n].failed) for n in images)
    nearest = [n for n in images if len(verdicts[n].failed) == fewest]
    highest = max(verdicts[n].rank for n in nearest)
    winner = next(n for n in nearest if verdicts[n].rank == highest)
    return Decision(winner, len(considered), verdicts[winner].text)


def any_verdict(chance: random.Random, may_end: bool = True) -> Verdict:
    rank = float(chance.randrange(4))
    if chance.random() < 0.5:
        return Verdict(rank=rank)
    if chance.random() < 0.2:
        return ENDS if may_end and chance.random() < 0.2 else BLANK
    failed = [Miss(f"score > {n}", f"score {n} < 9", 1.0) for n in range(chance.randint(1, 3))]
    return Verdict(tuple(failed), rank)


def any_rule(chance: random.Random) -> DrawRule:
    most = chance.randint(1, 9)
    exhausted = chance.choice(["fail", "keep"])
    return DrawRule(chance.randint(1, most), most, exhausted)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(50))
def test_the_decision_is_that_of_the_definition_and_needs_no_draw_beyond_it(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        rule = any_rule(chance)
        verdicts = {n: any_verdict(chance) for n in range(rule.max_draws)}
        expected = by_the_definition(verdicts, rule)
        assert decide(verdicts, rule) == expected
        early = {n: verdicts[n] for n in range(expected.num_draws)}
        assert decide(early, rule) == expected


@pytest.mark.parametrize("seed", range(50))
def test_in_whichever_order_draws_become_known_the_decision_is_the_same(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        rule = any_rule(chance)
        all_verdicts = {n: any_verdict(chance) for n in range(rule.max_draws)}
        order = list(range(rule.max_draws))
        chance.shuffle(order)
        known: dict[int, Verdict] = {}
        decisions = set()
        for draw in order:
            assert bool(needed_draws(known, rule)) == (decide(known, rule) is None)
            if (decision := decide(known, rule)) is not None:
                decisions.add(decision)
            known[draw] = all_verdicts[draw]
        assert decisions <= {decide(all_verdicts, rule)}


@pytest.mark.parametrize("seed", range(50))
def test_every_needed_draw_is_considered_whatever_its_verdict_is(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        rule = any_rule(chance)
        all_verdicts = {n: any_verdict(chance, may_end=False) for n in range(rule.max_draws)}
        known = {n: v for n, v in all_verdicts.items() if chance.random() < 0.5}
        needed = needed_draws(known, rule)
        for _ in range(5):
            ends = known | {
                n: any_verdict(chance, may_end=False) for n in all_verdicts if n not in known
            }
            decision = decide(ends, rule)
            assert decision is not None
            assert all(draw < decision.num_draws for draw in needed)


def test_draw_0_has_the_planned_seed_and_the_others_unrelated_ones_below_2_to_53() -> None:
    seeds = [draw_seed(7, "poster", 0, draw) for draw in range(1000)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert max(seeds) > 2**52
    others = {draw_seed(7, "poster", 1, 5), draw_seed(8, "poster", 0, 5), draw_seed(7, "p", 0, 5)}
    assert len(others | {seeds[5]}) == 4


def test_the_seeds_of_draws_are_part_of_the_contract() -> None:
    assert draw_seed(7, "poster", 0, 1) == 2991754103643005
    assert draw_seed(2**53 - 1, "Zürich", 12, 15) == 7846580928742083


def test_a_seed_tells_its_draw() -> None:
    for draw in range(16):
        assert draw_of_seed(draw_seed(7, "poster", 3, draw), 7, "poster", 3, 16) == draw
    assert draw_of_seed(draw_seed(7, "poster", 3, 16), 7, "poster", 3, 16) is None


def test_a_rejected_image_names_the_condition_that_failed_most_with_its_nearest_value() -> None:
    low = Miss("nsfw < 0.2", "nsfw 0.3 > 0.2", 0.1)
    verdicts = {0: blurred(12), 1: blurred(31), 2: Verdict((low,)), 3: BLANK, 4: PASSES}
    assert why_none_passed(verdicts, 4) == "sharpness 31 < 40 in 2 of 4 draws"


def test_of_conditions_that_failed_equally_often_the_first_is_named() -> None:
    assert why_none_passed({0: BLANK, 1: blurred(31)}, 2) == "Blank in 1 of 2 draws"


def test_draws_without_an_image_are_never_kept() -> None:
    rule = DrawRule(1, 2, "keep")
    assert decide({0: BLANK, 1: BLANK}, rule) == Decision(None, 2)
    assert decide({0: BLANK, 1: blurred(31)}, rule) == Decision(1, 2, "sharpness 31 < 40")
