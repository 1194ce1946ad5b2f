"""Products under rules, against products that are written out."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.campaign.product import Forbidden, Product, TooManyRules

Rule = dict[int, list[bool]]


@st.composite
def products(draw: st.DrawFn) -> tuple[list[int], list[Rule]]:
    sizes = draw(st.lists(st.integers(1, 4), max_size=4))
    axes = st.sets(st.integers(0, len(sizes) - 1), min_size=1) if sizes else st.nothing()
    rules = []
    for _ in range(draw(st.integers(0, 4)) if sizes else 0):
        rules.append(
            {
                axis: draw(st.lists(st.booleans(), min_size=sizes[axis], max_size=sizes[axis]))
                for axis in draw(axes)
            }
        )
    return sizes, rules


def made(sizes: list[int], rules: list[Rule]) -> Product:
    masks = [{axis: np.array(mask) for axis, mask in rule.items()} for rule in rules]
    return Product(sizes, [Forbidden(mask) for mask in masks])


@given(products())
def test_the_allowed_combinations_are_those_of_nested_loops(
    given_product: tuple[list[int], list[Rule]],
) -> None:
    sizes, rules = given_product
    every = list(product(*map(range, sizes)))
    allowed = [one for one in every if not any(all(m[one[a]] for a, m in r.items()) for r in rules)]
    found = made(sizes, rules)
    assert found.size == len(allowed)
    combinations = found.combinations(np.arange(found.size))
    assert [tuple(one) for one in combinations.tolist()] == allowed
    all_of_them = np.array(every, np.int64).reshape(len(every), len(sizes))
    numbers = [allowed.index(one) if one in allowed else -1 for one in every]
    assert found.numbers(all_of_them).tolist() == numbers
    if sizes:
        assert found.completions({0: 0}) == sum(one[0] == 0 for one in allowed)


def test_a_huge_product_is_counted_exactly_and_any_combination_is_found() -> None:
    mask = np.arange(1000) == 3
    found = Product([1000] * 5, [Forbidden({0: mask, 4: mask})])
    assert found.size == 1000**5 - 1000**3
    last = found.combinations(np.array([0, found.size - 1]))
    assert last.tolist() == [[0] * 5, [999] * 5]


def test_counting_goes_beyond_64_bits() -> None:
    assert Product([1000] * 10).size == 1000**10
    with pytest.raises(ValueError, match="2\\^62"):
        Product([1000] * 10).combinations(np.array([0]))


def test_rules_that_overlap_in_too_many_ways_are_refused() -> None:
    rng = np.random.default_rng(1)
    rules = [Forbidden({axis: rng.random(40) < 0.5 for axis in range(6)}) for _ in range(40)]
    with pytest.raises(TooManyRules, match="counted; give fewer rules"):
        Product([40] * 6, rules)
