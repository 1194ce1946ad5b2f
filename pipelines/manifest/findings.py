"""Problems of rows, found by the column: the first few kept in order, all of them counted."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from nightpress.pipelines.errors import ManifestError, Problem

MAX_SHOWN = 20

Mask = NDArray[np.bool_]


class Findings:
    """What is wrong with some consecutive rows of one file."""

    def __init__(self, file: str, first_row: int) -> None:
        self.file = file
        self.first_row = first_row
        self.total = 0
        self._found: list[tuple[int, int, Problem]] = []

    def mark(self, bad: Mask, column: str, message: Callable[[int], str]) -> None:
        """Note every row where `bad`, (n,), is True; `message` gets the row's index."""
        rows = np.flatnonzero(bad)
        self.total += len(rows)
        for index in rows[:MAX_SHOWN].tolist():
            problem = Problem(self.file, self.first_row + index, column, message(index))
            self._found.append((index, len(self._found), problem))

    @property
    def problems(self) -> list[Problem]:
        """The first ones, by row and then in the order of the checks."""
        return [problem for *_, problem in sorted(self._found, key=lambda found: found[:2])][
            :MAX_SHOWN
        ]

    def refuse(self) -> None:
        """Raise a ManifestError if anything was found."""
        if self.total:
            raise ManifestError(self.problems, self.total)


def first_of(groups: Iterable[Iterable[Problem]]) -> list[Problem]:
    """The first problems of groups that are in order."""
    shown: list[Problem] = []
    for group in groups:
        shown += list(group)[: MAX_SHOWN - len(shown)]
    return shown
