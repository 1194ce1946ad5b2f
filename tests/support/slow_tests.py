"""The tests that are marked slow by their name, because of how long they were seen to take.

`slow_tests.txt` lists them, a line each: a test with all of its cases, or one case of it. What
each of them holds, a quicker test or another case of the same test holds in the default suite.
"""

from collections.abc import Iterable
from pathlib import Path

import pytest

FILE = Path(__file__).with_suffix(".txt")


def slow_names() -> frozenset[str]:
    """The names in the file, as pytest prints them."""
    return frozenset(FILE.read_text(encoding="utf-8").splitlines())


def mark_slow_tests(items: Iterable[pytest.Item]) -> None:
    """Mark those of the tests that the file names."""
    names = slow_names()
    for item in items:
        if not names.isdisjoint((item.nodeid, item.nodeid.split("[")[0])):
            item.add_marker(pytest.mark.slow)


def function_of(name: str) -> tuple[str, str]:
    """The file of a test and the name of its function or class."""
    path, function = name.split("[")[0].split("::")[:2]
    return path, function
