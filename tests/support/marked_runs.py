"""Runs without a model whose images reviewers have marked."""

from pathlib import Path
from typing import Any

from support.made_runs import begin, finish

from nightpress.pipelines.run_directory.marks import Mark, MarksObject
from nightpress.pipelines.run_directory.reader import Run


def marked_run(folder: Path, **job: Any) -> Run:
    """Ten images, of which number 5 failed; anna and ben differ on image 0."""
    run = begin(str(folder), **job)
    finish(run)
    say(run, "anna", (0, "flag", "pick"), (1, "flag", "pick"), (1, "stars", 4))
    say(run, "anna", (2, "flag", "reject"), (3, "flag", "pick"), (3, "colour", "red"), n=1)
    say(run, "ben", (0, "flag", "reject"), (2, "flag", "reject"), (3, "comment", "=2+5"))
    return run


def say(
    run: Run,
    reviewer: str,
    *marks: tuple[int | str, Any, str | int],
    n: int = 0,
    sha256: str | None = None,
) -> None:
    """Store marks on images by their ids, or by numbers N for `N_00`: `(image, field, value)`.

    Args:
        sha256: of the bytes that were marked; those of now if None.
    """
    hashes = run.hashes()
    named = ((f"{n}_00" if isinstance(n, int) else n, *rest) for n, *rest in marks)
    made = tuple(
        Mark(image, sha256 or hashes[image], field, value, 1 + n) for image, field, value in named
    )
    found = MarksObject(run.record.fingerprint_at_first, reviewer, f"of-{reviewer}", n, made)
    assert run.store.create(found.path, found.to_json())
