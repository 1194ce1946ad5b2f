"""The images on which faster ways to sample are compared with plain sampling."""

from collections.abc import Sequence
from dataclasses import dataclass

from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.shards.batching import PlannedImage


@dataclass(frozen=True)
class TrialImages:
    """The images that every way samples, and with which model."""

    images: Sequence[PlannedImage]
    """One batch of equal settings."""
    spec: RunSpec
    """The job, as if their model were its only one."""
    url: str
    """URL of the run directory that the job will have."""
    batch_size: int
    fingerprint: str
    """The `identity` of their model."""
    model: str | None = None
    """The name of their model, if the job has several."""
