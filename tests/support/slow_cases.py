"""Cases of a test of which the default suite runs a few, and `-m slow` the rest."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_except(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """The cases for `parametrize`; all but `kept` are marked slow.

    Raises:
        ValueError: one of `kept` is no case.
    """
    listed = list(cases)
    if unknown := [case for case in kept if case not in listed]:
        raise ValueError(f"not among the cases: {unknown}")
    return [case if case in kept else _slow(case) for case in listed]


def _slow(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
