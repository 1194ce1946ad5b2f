"""Problems found in rows, column by column: the first few are kept in order, all are counted."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nightpress.pipelines.errors import MAX_PROBLEMS, ManifestError, Problem
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.manifest.files import lines_of_rows
from nightpress.pipelines.storage import Options

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


class ProblemsOfSome(RowProblems):
    """Problems of some rows of a table, told as problems of the table.

    Args:
        whole: of the table.
        indices: which of its rows these are; (k,).
        num_rows: of the table.
        ignored: the rows of the table in which nothing more is looked for; (n,).
    """

    def __init__(
        self,
        whole: RowProblems,
        indices: NDArray[np.int64],
        num_rows: int,
        ignored: Mask | None = None,
    ) -> None:
        super().__init__(whole.file, whole.first_row)
        self._whole, self._indices = whole, indices
        self._ignored = np.zeros(num_rows, np.bool_) if ignored is None else ignored

    def add(self, bad: Mask, column: str, message: Callable[[int], str]) -> None:
        """Record a problem for every one of these rows where `bad`, (k,), is True."""
        everywhere = np.zeros(len(self._ignored), np.bool_)
        everywhere[self._indices] = bad
        everywhere &= ~self._ignored
        places = np.zeros(len(everywhere), np.int64)
        places[self._indices] = np.arange(len(self._indices))
        self._whole.add(everywhere, column, lambda row: message(int(places[row])))
        self.total += int(everywhere.sum())


def first_problems(groups: Iterable[Iterable[Problem]]) -> list[Problem]:
    """The first problems of several ordered groups."""
    shown: list[Problem] = []
    for group in groups:
        shown += list(group)[: MAX_PROBLEMS - len(shown)]
    return shown


def with_lines(
    problems: Sequence[Problem], files: Iterable[ManifestFile], options: Options
) -> list[Problem]:
    """The problems with the line of each row of a text file.

    The files are read again for that, so call it only with the problems that will be shown.

    Raises:
        ManifestError, StoreError: a file cannot be read any more.
    """
    rows: dict[str, set[int]] = {}
    for problem in problems:
        if problem.row is not None and problem.line is None:
            rows.setdefault(problem.file, set()).add(problem.row)
    lines = {
        file.url: lines_of_rows(file, rows[file.url], options) for file in files if file.url in rows
    }
    return [
        problem
        if problem.row is None or problem.line is not None
        else replace(problem, line=lines.get(problem.file, {}).get(problem.row))
        for problem in problems
    ]
