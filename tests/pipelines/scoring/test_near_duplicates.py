"""Near-duplicates among many hashes: exactly those that comparing each with each would find."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.slow_cases import slow_except

from nightpress.pipelines.scoring import near_duplicates
from nightpress.pipelines.scoring.near_duplicates import (
    MOST_BITS,
    MOST_LEVELS,
    HashArray,
    are_near,
    first_near,
    near_groups,
)
from nightpress.pipelines.scoring.perceptual_hash import HASH_DIGITS

ORIGINALS = ("0123456789abcdef" * 4, "8" * HASH_DIGITS, "f0" * 32)


def changed(text: str, bits: Sequence[int], levels: Sequence[int]) -> str:
    """A hash with some bits flipped, and steps added to the levels of the first cells."""
    number = int(text[:16], 16)
    for bit in bits:
        number ^= 1 << bit
    colours = [int(digit, 16) for digit in text[16:]]
    for cell, step in enumerate(levels):
        colours[cell] = min(max(colours[cell] + step, 0), 15)
    return f"{number:016x}" + "".join(f"{each:x}" for each in colours)


HASHES = st.lists(
    st.builds(
        changed,
        st.sampled_from(ORIGINALS),
        st.lists(st.integers(0, 63), max_size=12),
        st.lists(st.integers(-2, 2), max_size=3),
    ),
    min_size=1,
    max_size=30,
)


def greedy(hashes: Sequence[str]) -> list[int]:
    """What `near_groups` promises, as plainly as it can be said."""
    kept: list[int] = []
    groups = []
    for place, each in enumerate(hashes):
        owner = next((k for k in kept if are_near(hashes[k], each)), place)
        if owner == place:
            kept.append(place)
        groups.append(owner)
    return groups


@pytest.fixture(
    params=slow_except(
        ["each with each", "by bands", "by bands and a level"], "by bands and a level"
    )
)
def _lookup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by bands and a level":
        monkeypatch.setattr(near_duplicates, "MANY", 0)
    if request.param != "each with each":
        monkeypatch.setattr(near_duplicates, "ALL_PAIRS", 0)
        monkeypatch.setattr(near_duplicates, "PAIRS_AT_ONCE", 7)
        monkeypatch.setattr(near_duplicates, "LEAF", 2)


@pytest.mark.usefixtures("_lookup")
def test_groups_are_those_of_comparing_each_with_each() -> None:
    @given(HASHES)
    def holds(hashes: list[str]) -> None:
        assert near_groups(HashArray.of(hashes)).tolist() == greedy(hashes)

    holds()


@pytest.mark.usefixtures("_lookup")
def test_the_first_near_one_is_that_of_comparing_each_with_each() -> None:
    @given(HASHES, HASHES)
    def holds(hashes: list[str], others: list[str]) -> None:
        expected = [
            next((place for place, other in enumerate(others) if are_near(each, other)), -1)
            for each in hashes
        ]
        assert first_near(HashArray.of(hashes), HashArray.of(others)).tolist() == expected

    holds()


@pytest.mark.parametrize("start", range(0, 64, 9))
def test_as_many_bits_as_allowed_are_found_wherever_they_are(start: int) -> None:
    rng = np.random.default_rng(start)
    many = HashArray(rng.integers(0, 2**64, 3_000, np.uint64), np.zeros((3_000, 24), np.uint8))
    flipped = sum(1 << int(bit) for bit in rng.permutation(64)[:MOST_BITS])
    one = HashArray(many.bits[[1_234]] ^ np.uint64(flipped), many.levels[[1_234]])
    both = HashArray(np.concatenate([many.bits, one.bits]), np.zeros((3_001, 24), np.uint8))
    assert first_near(one, many).tolist() == [1_234]
    assert near_groups(both)[-1] == 1_234


def test_one_bit_or_level_more_is_another_picture() -> None:
    known = ORIGINALS[1]
    assert are_near(known, changed(known, range(MOST_BITS), [MOST_LEVELS]))
    assert not are_near(known, changed(known, range(MOST_BITS + 1), []))
    assert not are_near(known, changed(known, [], [0, -MOST_LEVELS - 1]))


def test_planted_copies_are_found_among_many_and_nothing_else_is() -> None:
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2**64, 20_000, np.uint64)
    levels = rng.integers(0, 256, (20_000, 24), np.uint8)
    copies = rng.choice(20_000, 500, replace=False)
    flips = np.array([sum(1 << int(b) for b in rng.permutation(64)[:5]) for _ in copies], np.uint64)
    hashes = HashArray(
        np.concatenate([bits, bits[copies] ^ flips]), np.concatenate([levels, levels[copies]])
    )
    assert near_groups(hashes).tolist() == [*range(20_000), *copies.tolist()]


def test_very_many_pictures_that_are_all_alike_are_one_group() -> None:
    rng = np.random.default_rng(4)
    flips = np.uint64(1) << rng.integers(0, 64, 50_000, np.uint64)
    alike = HashArray(np.uint64(0xF0F0) ^ flips, np.full((50_000, 24), 0x77, np.uint8))
    assert set(near_groups(alike).tolist()) == {0}


def test_of_none_there_are_no_groups() -> None:
    none, one = HashArray.of([]), HashArray.of([ORIGINALS[0]])
    assert near_groups(none).tolist() == []
    assert first_near(none, one).tolist() == []
    assert first_near(one, none).tolist() == [-1]


@pytest.mark.parametrize("wrong", ["abc", "0" * 63, "g" * 64, " " * 64])
def test_what_is_no_hash_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="no perceptual hash"):
        HashArray.of([ORIGINALS[0], wrong])
