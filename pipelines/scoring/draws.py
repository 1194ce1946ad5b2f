"""Draws: the images that are tried for one place in a run, and which of them takes it.

A place is an image id. Its draws are numbered from 0 and differ in their seeds alone. Which of them
is taken follows from their scores in this order, and from nothing else.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from nightpress.pipelines.scoring.verdicts import Verdict

SEED_BITS = 53
"""Seeds are below 2^53, so that JSON readers and spreadsheets keep them exact."""

Exhausted = Literal["fail", "keep"]


def draw_seed(seed: int, row_id: str, variant: int, draw: int) -> int:
    """The seed of a draw, below 2^53.

    Draw 0 has the planned seed. That of a later draw is the start of a SHA-256, so it is the same
    on every machine.

    Args:
        seed: the planned seed of the image.
        row_id: the id of its row.
        variant: its number within the row.
        draw: the number of the draw, from 0.
    """
    if draw == 0:
        return seed
    text = f"nightpress draw\0{seed}\0{row_id}\0{variant}\0{draw}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> (64 - SEED_BITS)


@lru_cache(maxsize=4096)
def _draws_by_seed(seed: int, row_id: str, variant: int, max_draws: int) -> Mapping[int, int]:
    draws = reversed(range(max_draws))
    return {draw_seed(seed, row_id, variant, draw): draw for draw in draws}


def draw_of_seed(found: int, seed: int, row_id: str, variant: int, max_draws: int) -> int | None:
    """The draw that has the seed `found`; None if none of the first `max_draws` has."""
    if found == seed:
        return 0
    return _draws_by_seed(seed, row_id, variant, max_draws).get(found)


@dataclass(frozen=True)
class DrawRule:
    """How many draws a place may take, and which of them wins."""

    best_of: int = 1
    """How many draws must pass before the best of them is taken."""
    max_draws: int = 16
    """How many draws are made at most."""
    exhausted: Exhausted = "fail"
    """What happens if none of them passes: the image fails, or the best of them is kept."""


@dataclass(frozen=True)
class Decision:
    """How a place was decided."""

    winner: int | None
    """The draw that takes the place; None if the image fails."""
    num_draws: int
    """How many draws were considered: the first `num_draws` of them."""
    gate: str | None = None
    """What the winner does not pass; None if it passes."""


def needed_draws(verdicts: Mapping[int, Verdict], rule: DrawRule) -> Sequence[int]:
    """The draws that a place needs for certain, whatever their verdicts will be; none if decided.

    Args:
        verdicts: draw -> its verdict, as far as they are known.
    """
    num_passed, missing = 0, list[int]()
    for draw in range(rule.max_draws):
        verdict = verdicts.get(draw)
        if num_passed + len(missing) == rule.best_of or (verdict and verdict.ends):
            break
        if verdict is None:
            missing.append(draw)
        elif verdict.passes:
            num_passed += 1
    return missing


def decide(verdicts: Mapping[int, Verdict], rule: DrawRule) -> Decision | None:
    """Decide a place by the verdicts on its draws; None if further draws are needed.

    It is decided at the first draw at which `best_of` draws have passed, or else at the last one
    that is allowed. The passing draw of the highest rank wins, the earliest of equals. Verdicts on
    draws beyond that are ignored. A draw that `ends` the place before makes the image fail.
    """
    if needed_draws(verdicts, rule):
        return None
    passed, num_draws = list[int](), 0
    while num_draws < rule.max_draws and len(passed) < rule.best_of:
        verdict, num_draws = verdicts[num_draws], num_draws + 1
        if verdict.ends:
            return Decision(None, num_draws)
        if verdict.passes:
            passed.append(num_draws - 1)
    if passed:
        return Decision(best(passed, verdicts), num_draws)
    if rule.exhausted == "keep":
        images = [draw for draw in range(num_draws) if verdicts[draw].is_image]
        winner = best(images, verdicts)
        if winner is not None:
            return Decision(winner, num_draws, verdicts[winner].text)
    return Decision(None, num_draws)


def best(draws: Sequence[int], verdicts: Mapping[int, Verdict]) -> int | None:
    """The best of some draws: it fails the fewest conditions, has the highest rank, and is first.

    None of no draws.
    """
    return min(draws, key=lambda draw: (*verdicts[draw].order, draw), default=None)


def why_none_passed(verdicts: Mapping[int, Verdict], num_draws: int) -> str:
    """Why none of a place's draws passed: `sharpness 31 < 40 in 16 of 16 draws`.

    Names the condition that failed most often, the first of equals, with the value that came
    closest to it.

    Args:
        verdicts: draw -> its verdict, of at least the first `num_draws` draws.
    """
    failed = [each for draw in range(num_draws) for each in verdicts[draw].failed]
    counts = Counter(each.condition for each in failed)
    condition, count = counts.most_common(1)[0]
    nearest = min(
        (each for each in failed if each.condition == condition),
        key=lambda each: math.inf if each.distance is None else each.distance,
    )
    return f"{nearest.text} in {count:,} of {num_draws:,} draws"
