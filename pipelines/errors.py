"""The errors of `pipelines`.

::

    NightpressError
    └── PipelineError
        ├── SpecError              the job file is wrong; the message names the key and the value
        ├── ManifestError          the manifest is wrong; carries its `problems`
        │   └── NotConverted       a wildcard folder has what no campaign can say
        ├── ChangedRunError        the job differs from the one that began the run
        │   ├── ManifestGrown      only the rows of its manifest do
        │   └── ChangedExport      the export differs from the one that began its directory
        ├── RunNotFound            there is no run at that URL
        ├── UnsupportedFormat      the run was written by a newer nightpress
        ├── RunHeld                another live process holds the run directory
        ├── LeaseLost              another process has taken over the run directory
        ├── ImageNotFound          the run has no such image, or the image failed
        ├── SelectionNotFound      the run has no selection of that name
        ├── MarksError             marks of reviewers that cannot be used
        ├── InputError             a picture that an image is made from cannot be used
        │   ├── InputMissing       it is not there
        │   ├── InputUndecodable   it cannot be decoded, or is too large
        │   └── InputChanged       its bytes are not those that were first used
        ├── ScorerError            a scorer cannot be loaded, or cannot score an image
        ├── DataError              the training images or their captions cannot be used
        ├── CheckpointError        a checkpoint is damaged, or belongs to another network
        │   └── DamagedCheckpoint  its file is not whole
        ├── TrainingDiverged       the loss is not finite; the last checkpoint is kept
        └── StoreError             a request to the store failed
            ├── StoreMissing       the object does not exist
            ├── Damaged            the object is not what was written
            │   └── PlanDamaged    a part of the plan is damaged; it can be written again
            └── StoreDenied        wrong credentials, bucket, endpoint or permissions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nightpress.diffusion_core.errors import NightpressError

MAX_PROBLEMS = 20


class FailureType(StrEnum):
    """Why an image failed: `error_type` in its metadata row."""

    NON_FINITE = "NonFinite"
    """The model's output was not finite, also in float32."""
    BLANK = "Blank"
    """Every pixel has the same colour."""
    STILL = "Still"
    """All frames of the clip are equal."""
    FLAGGED = "Flagged"
    """The model's safety checker refused the image."""
    SAMPLING = "SamplingError"
    """The model raised an error for this image, also when it was sampled alone."""
    OUT_OF_MEMORY = "OutOfMemory"
    """The image does not fit into memory, even alone."""
    TIMEOUT = "Timeout"
    """The image was not finished when the watchdog ended its process."""
    WORKER_KILLED = "WorkerKilled"
    """Its process died each time the image was tried alone."""
    ENCODING = "EncodingError"
    """The pixels could not be encoded as a file."""
    NAME_TAKEN = "NameTaken"
    """Another file has the image's name."""
    INPUT_MISSING = "InputMissing"
    """A picture that it is made from is not there."""
    INPUT_UNDECODABLE = "InputUndecodable"
    """A picture that it is made from cannot be decoded, or is too large."""
    INPUT_CHANGED = "InputChanged"
    """A picture that it is made from has other bytes than when it was first used."""
    REJECTED = "Rejected"
    """None of its draws passed the job's gates."""


class PipelineError(NightpressError):
    """The base of the errors that `pipelines` raises on purpose."""


class SpecError(PipelineError, ValueError):
    """The job file is wrong."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a manifest: where it is, and what is allowed there.

    `row` counts from 0 within its file, like the ids of rows without an id; it is None if the
    problem concerns no single row. `line` is where that row begins in a text file, counted from 1
    as an editor shows it; it is None in Parquet and tables, which have no lines. `character` is the
    place in that line, counted from 1; None if the problem concerns the whole line.
    """

    file: str
    row: int | None
    column: str | None
    message: str
    line: int | None = None
    character: int | None = None

    @property
    def place(self) -> str | None:
        """`line 5`, `line 5, character 9`, or `row 3 (counted from 0)`; None for a whole file."""
        if self.line is not None:
            character = "" if self.character is None else f", character {self.character}"
            return f"line {self.line}{character}"
        return None if self.row is None else f"row {self.row} (counted from 0)"

    def __str__(self) -> str:
        """`prompts.tsv, line 12, column width: 500 is not a multiple of 8`."""
        return _in_words(self.file, self.place, self.column, self.message)


def _in_words(file: str, place: str | None, column: str | None, message: str) -> str:
    parts = [file, place, None if column is None else f"column {column}"]
    return f"{', '.join(part for part in parts if part is not None)}: {message}"


MOST_PLACES = 5
"""How many places of one problem are named; the others are counted."""


def problem_lines(problems: Sequence[Problem]) -> list[str]:
    """The problems in words, one line for all that differ in their place only."""
    groups: dict[tuple[str, str | None, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.file, problem.column, problem.message), []).append(problem)
    return [
        _in_words(file, _places(group), column, message)
        for (file, column, message), group in groups.items()
    ]


def _places(problems: Sequence[Problem]) -> str | None:
    """`line 5`, `lines 5, 7 and 9`, or `rows 0, 1, 2, 3, 4 and 11 more (counted from 0)`.

    One more than `MOST_PLACES` is named too, because "1 more" is no shorter.
    """
    first = problems[0]
    every = (problem.row if first.line is None else problem.line for problem in problems)
    numbers = list(dict.fromkeys(every))
    if len(numbers) == 1 or None in numbers:
        return first.place
    num_shown = len(numbers) if len(numbers) <= MOST_PLACES + 1 else MOST_PLACES
    shown = [str(number) for number in numbers[:num_shown]]
    more = len(numbers) - num_shown
    last = f"{more} more" if more else shown.pop()
    listed = f"{', '.join(shown)} and {last}"
    return f"rows {listed} (counted from 0)" if first.line is None else f"lines {listed}"


class ManifestError(PipelineError, ValueError):
    """The manifest has problems: carries the first twenty, and their total number."""

    def __init__(self, problems: Sequence[Problem], total: int | None = None) -> None:
        self.problems = tuple(problems[:MAX_PROBLEMS])
        self.total = len(problems) if total is None else total
        lines = problem_lines(self.problems)
        if self.total > len(self.problems):
            lines.append(f"... and {self.total - len(self.problems):,} more")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[Any, ...]:
        """Allow pickling, so that the error can cross processes."""
        return type(self), (self.problems, self.total)


class NotConverted(ManifestError):
    """Entries of a wildcard folder have no counterpart in a campaign; nothing was written."""

    def __init__(self, problems: Sequence[Problem], total: int | None = None) -> None:
        super().__init__(problems, total)
        self.args = (f"{self}\nnothing was written; --leave-out leaves these entries out",)


@dataclass(frozen=True)
class Change:
    """A field of the job that has changed since the run began."""

    field: str
    old: object
    new: object

    def __str__(self) -> str:
        """`seed: 7 -> 8`."""
        return f"{self.field}: {self.old!r} -> {self.new!r}"


class ChangedRunError(PipelineError):
    """The job would give other pixels or names than the one that began the run."""

    def __init__(self, run: str, changes: Sequence[Change]) -> None:
        self.run = run
        self.changes = tuple(changes)
        lines = "\n".join(f"  {change}" for change in self.changes)
        super().__init__(
            f"{run} was started with a different job; changed since then:\n{lines}\n"
            "Restore the old values, or give this job another name."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Allow pickling, so that the error can cross processes."""
        return type(self), (self.run, self.changes)


class ManifestGrown(ChangedRunError):
    """The manifest has other rows than those that the run was planned from.

    Args:
        run: URL of the run.
        changes: the files that changed.
        lines: what came, went and changed.
        advice: what can be done about it.
    """

    REASON = "the manifest has changed since it was planned"

    def __init__(
        self, run: str, changes: Sequence[Change], lines: Sequence[str], advice: str
    ) -> None:
        super().__init__(run, changes)
        self.lines, self.advice = tuple(lines), advice
        text = "\n".join(f"  {line}" for line in lines)
        self.args = (f"{run}: {self.REASON}:\n{text}\n{advice}",)

    @property
    def brief(self) -> str:
        """The message in one line, without what came, went and changed."""
        return f"{self.run}: {self.REASON}. {self.advice}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Allow pickling, so that the error can cross processes."""
        return type(self), (self.run, self.changes, self.lines, self.advice)


class ChangedExport(ChangedRunError):
    """The export would have other content than the one that began its directory."""

    def __init__(self, run: str, changes: Sequence[Change]) -> None:
        super().__init__(run, changes)
        lines = "\n".join(f"  {change}" for change in self.changes)
        self.args = (
            f"{run} was begun as another export; changed since then:\n{lines}\n"
            "Restore the old values, or give this export another name.",
        )


class RunNotFound(PipelineError):
    """There is no run at that URL."""


class UnsupportedFormat(PipelineError):
    """The run was written in a newer format than this version reads."""


class RunHeld(PipelineError):
    """Another live process holds the run directory; the message names it."""


class LeaseLost(PipelineError):
    """Another process has taken over the run directory; this one must not change it any more."""


class ImageNotFound(PipelineError, LookupError):
    """The run has committed no image with that id, or the image failed."""


class SelectionNotFound(PipelineError, LookupError):
    """The run has no selection of that name."""


class MarksError(PipelineError, ValueError):
    """Marks of reviewers that cannot be used; the message says why."""


class InputError(PipelineError):
    """A picture that an image is made from cannot be used; only the images of its row fail."""


class InputMissing(InputError):
    """The picture is not there."""


class InputUndecodable(InputError):
    """The picture cannot be decoded, or is too large."""


class InputChanged(InputError):
    """The picture's bytes are not those that were first used."""


class ScorerError(PipelineError):
    """A scorer cannot be loaded, or cannot score an image."""


class DataError(PipelineError, ValueError):
    """The training data cannot be used; the message says what was expected and what was found."""


class CheckpointError(PipelineError):
    """Training cannot resume from this checkpoint."""


class DamagedCheckpoint(CheckpointError):
    """The file of a checkpoint is not whole; an older one may be."""


class TrainingDiverged(PipelineError):
    """The loss or its gradient is not finite; the weights were not updated with it."""


class StoreError(PipelineError):
    """A request to the store failed; the message is one line that a person can act on."""


class StoreMissing(StoreError):
    """The object does not exist."""


class Damaged(StoreError):
    """An object of the run is not what was written; `shard` is the shard that it belongs to."""

    def __init__(self, message: str, shard: int | None = None) -> None:
        self.shard = shard
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Allow pickling, so that the error can cross processes."""
        return type(self), (str(self), self.shard)


class PlanDamaged(Damaged):
    """A part of the plan is not what was written; it can be written again from the manifest."""


class StoreDenied(StoreError):
    """The store cannot be reached, or denies access."""
