"""Evenly spaced choices."""

import numpy as np
import pytest

from nightpress.diffusion_core.theory.spacing import evenly_spaced


@pytest.mark.parametrize(
    ("length", "count"), [(0, 3), (1, 5), (2, 2), (7, 3), (50, 50), (100, 60), (1001, 12), (30, 15)]
)
def test_both_ends_are_chosen_and_no_item_twice(length: int, count: int) -> None:
    chosen = evenly_spaced(range(length), count)
    assert len(chosen) == min(length, count)
    assert chosen == sorted(set(chosen))
    assert chosen == np.linspace(0, length - 1, len(chosen)).round().tolist()


@pytest.mark.parametrize(
    ("length", "count", "chosen"),
    [(0, 3, []), (2, 3, [0, 1]), (3, 3, [0, 1, 2]), (6, 3, [0, 2, 4]), (10, 4, [0, 2, 5, 7])],
)
def test_without_the_endpoint_each_part_gives_its_first_item(
    length: int, count: int, chosen: list[int]
) -> None:
    assert evenly_spaced(range(length), count, endpoint=False) == chosen


def test_a_single_choice_is_the_first_item() -> None:
    assert evenly_spaced("abc", 1) == evenly_spaced("abc", 1, endpoint=False) == ["a"]
    assert evenly_spaced("abc", 0) == []
