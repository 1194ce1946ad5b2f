"""Problems found in rows, column by column: the first few are kept in order, all are counted."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from nightpress.pipelines.errors import MAX_PROBLEMS, ManifestError, Problem

Mask = NDArray[np.bool_]


class RowProblems:
    """What is wrong with some consecutive rows of one file."""

    def __init__(self, file: str, first_row: int) -> None:
        self.file = file
        self.first_row = first_row
        self.total = 0
        self._found: list[tuple[int, int, Problem]] = []

    def add(self, bad: Mask, column: str, message: Callable[[int], str]) -> None:
        """Record a problem for every row where `bad`, (n,), is True.

        Args:
            bad: (n,) bool.
            column: the column's name in messages.
            message: gets a row's index and returns what is wrong with it.
        """
        rows = np.flatnonzero(bad)
        self.total += len(rows)
        for index in rows[:MAX_PROBLEMS].tolist():
            problem = Problem(self.file, self.first_row + index, column, message(index))
            self._found.append((index, len(self._found), problem))

    @property
    def first(self) -> list[Problem]:
        """The first problems, by row and then in the order of the checks."""
        return [problem for *_, problem in sorted(self._found, key=lambda found: found[:2])][
            :MAX_PROBLEMS
        ]

    def raise_if_any(self) -> None:
        """Raise a ManifestError if there are any problems."""
        if self.total:
            raise ManifestError(self.first, self.total)


def first_problems(groups: Iterable[Iterable[Problem]]) -> list[Problem]:
    """The first problems of several ordered groups."""
    shown: list[Problem] = []
    for group in groups:
        shown += list(group)[: MAX_PROBLEMS - len(shown)]
    return shown
