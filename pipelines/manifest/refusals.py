"""Problems of rows that are found in several steps, and which rows have one already."""

from collections.abc import Callable

import numpy as np

from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.row_problems import Mask, RowProblems


class Refusals:
    """Adds problems of rows, and knows which rows later steps need not look at any more."""

    def __init__(self, problems: RowProblems, num_rows: int) -> None:
        self.problems = problems
        self.rows: Mask = np.zeros(num_rows, np.bool_)
        """(n,) the rows that have a problem."""

    def add(self, bad: Mask, column: str, message: Callable[[int], str]) -> None:
        """Add a problem for each row where `bad`, (n,), is True and that has none yet.

        Args:
            bad: (n,) bool.
            column: the column's name in messages.
            message: gets a row's index and returns what is wrong with it.
        """
        bad = bad & ~self.rows
        self.problems.add(bad, column, message)
        self.rows |= bad

    def add_entries(
        self, bad: Mask, rows: Ints, column: str, message: Callable[[int], str]
    ) -> None:
        """Like `add`, for entries of which a row may have several; the first bad one is named.

        Args:
            bad: (k,) bool.
            rows: (k,) each entry's row.
            column: the column's name in messages.
            message: gets an entry's index and returns what is wrong with it.
        """
        entries = np.flatnonzero(bad)
        if not len(entries):
            return
        first: dict[int, int] = {}
        for entry in entries.tolist():
            first.setdefault(int(rows[entry]), entry)
        of_rows = np.zeros(len(self.rows), np.bool_)
        of_rows[list(first)] = True
        self.add(of_rows, column, lambda row: message(first[row]))
