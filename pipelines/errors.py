"""The errors of `pipelines`.

::

    PipelineError
    ├── SpecError              the job file is wrong; the message names key, value, what is allowed
    ├── ManifestError          the manifest is wrong; carries its `problems`
    ├── ChangedRunError        the run directory belongs to a job that has changed since
    ├── RunNotFound            there is no run at that place
    ├── UnsupportedFormat      the run was written by a newer nightpress
    ├── RunHeld                another live start holds the run directory
    ├── LeaseLost              this start held it, and another one has taken it over
    ├── ImageNotFound          the run has no such image, or failed to make it
    ├── DataError              the training pictures or their captions cannot be used
    ├── CheckpointError        a checkpoint is damaged, or of another network
    ├── TrainingDiverged       the loss is no longer a number; the last checkpoint is kept
    └── StoreError             the store cannot be used as asked
        ├── StoreMissing       no such object
        ├── Damaged            an object is not what was written
        │   └── PlanDamaged    a part of the plan, which can be written again
        └── StoreDenied        wrong credentials, bucket, endpoint or permissions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class PipelineError(Exception):
    """The base: anything `pipelines` raises on purpose."""


class SpecError(PipelineError, ValueError):
    """A job file that cannot be run."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a manifest: where it stands and what would have been right.

    `row` counts from 0 within its file, like the ids of rows that name none; None means that
    the whole file is meant.
    """

    file: str
    row: int | None
    column: str | None
    message: str

    def __str__(self) -> str:
        """`prompts.tsv, row 12, column width: 500 is not a multiple of 8`."""
        place = [self.file]
        if self.row is not None:
            place.append(f"row {self.row}")
        if self.column is not None:
            place.append(f"column {self.column}")
        return f"{', '.join(place)}: {self.message}"


class ManifestError(PipelineError, ValueError):
    """A manifest with problems: at most the first twenty, and how many there are in all."""

    def __init__(self, problems: Sequence[Problem], total: int | None = None) -> None:
        self.problems = tuple(problems[:20])
        self.total = len(problems) if total is None else total
        lines = [str(problem) for problem in self.problems]
        if self.total > len(self.problems):
            lines.append(f"... and {self.total - len(self.problems):,} more")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling between processes."""
        return type(self), (self.problems, self.total)


@dataclass(frozen=True)
class Change:
    """A field of the job that is not what the run was started with."""

    field: str
    old: object
    new: object

    def __str__(self) -> str:
        """`seed: 7 -> 8`."""
        return f"{self.field}: {self.old!r} -> {self.new!r}"


class ChangedRunError(PipelineError):
    """The run directory was started by a job that makes other pixels or other names."""

    def __init__(self, run: str, changes: Sequence[Change]) -> None:
        self.run = run
        self.changes = tuple(changes)
        lines = "\n".join(f"  {change}" for change in self.changes)
        super().__init__(
            f"{run} was started by another job; changed since:\n{lines}\n"
            "Put the old values back, or give this job another name."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling between processes."""
        return type(self), (self.run, self.changes)


class RunNotFound(PipelineError):
    """No run.json at that place."""


class UnsupportedFormat(PipelineError):
    """The run was written in a newer format than this version reads."""


class RunHeld(PipelineError):
    """The run directory is held by another start that lives; the message names it."""


class LeaseLost(PipelineError):
    """Another start has taken the run directory over; this one must change nothing more."""


class ImageNotFound(PipelineError, LookupError):
    """The run has committed no image of that id, or failed to make it."""


class DataError(PipelineError, ValueError):
    """Training data that cannot be used; the message says what was looked for and what is there."""


class CheckpointError(PipelineError):
    """A checkpoint that this training cannot go on from."""


class TrainingDiverged(PipelineError):
    """The loss or its gradient is not finite; no weight was changed by it."""


class StoreError(PipelineError):
    """The store refused or failed; the message is one line that a person can act on."""


class StoreMissing(StoreError):
    """The object does not exist."""


class Damaged(StoreError):
    """An object of the run is not what was written; `shard` is the one that it belongs to."""

    def __init__(self, message: str, shard: int | None = None) -> None:
        self.shard = shard
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickling between processes."""
        return type(self), (str(self), self.shard)


class PlanDamaged(Damaged):
    """A part of the plan is not what was written; the manifest gives the same part again."""


class StoreDenied(StoreError):
    """The store cannot be reached, or does not let us in."""
