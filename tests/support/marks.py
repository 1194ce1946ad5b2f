"""Marks of reviewers for tests."""

from typing import Any

from nightpress.pipelines.run_directory.marks import Mark, MarksObject

RUN = "a" * 64
"""The fingerprint of the run that they are of."""


def sha(number: int) -> str:
    """A SHA-256 that no file has."""
    return f"{number:064x}"


def mark(number: int = 0, field: Any = "flag", value: Any = "pick", counter: int = 1) -> Mark:
    """A mark on image `<number>_00`, whose bytes are those of `sha(number)`."""
    return Mark(f"{number}_00", sha(number), field, value, counter)


def marks_object(
    *marks: Mark, reviewer: str = "anna", session: str = "s1", n: int = 0, run: str = RUN
) -> MarksObject:
    """Marks that were sent together."""
    return MarksObject(run, reviewer, session, n, marks or (mark(),))
