"""Write the result of a tuning into the job file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightpress.jobs.tuning.tune import Tuning
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.edit import rewrite_model
from nightpress.pipelines.job.spec import RunSpec


@dataclass(frozen=True)
class JobUpdate:
    """What a job file needs to use the best configuration, and whether it was written."""

    changes: dict[str, Any]
    """Values by key of `model`; empty if the job needs no change."""
    written: bool


def update_job(tuning: Tuning, job: Path, before: RunSpec, dry_run: bool = False) -> JobUpdate:
    """Set the best configuration in a job file; the rest of the file stays as it is.

    Args:
        tuning: of that job.
        job: the file.
        before: the job as the file described it before the tuning, without overrides and on
            `ANY_NIGHT`.
        dry_run: change nothing, and return what would change.

    Raises:
        SpecError: the file cannot be read or written.
    """
    changes = tuning.changes(before.model)
    written = bool(changes) and not dry_run and _rewrite(job, before, changes)
    return JobUpdate(changes, written)


def _rewrite(job: Path, before: RunSpec, changes: dict[str, Any]) -> bool:
    """Whether the file was changed; false if it cannot be edited safely."""
    values = before.as_dict()
    try:
        after = RunSpec.from_dict(values | {"model": values["model"] | changes}, where=str(job))
    except SpecError:  # the job is only valid together with its overrides
        return False
    return rewrite_model(job, before, after, changes)
