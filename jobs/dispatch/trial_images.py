"""What trials of faster ways begin with: their images, and what an actor knows of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.kept_trials import KeptTrial
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
    ways: Sequence[TuningConfig]
    """Those that may be tried, one by one."""
    fingerprint: str
    """The `identity` of their model."""
    model: str | None = None
    """The name of their model, if the job has several."""


@dataclass(frozen=True)
class TrialStart:
    """What an actor knows before it tries anything."""

    batch_s: float
    """Seconds of a batch with plain sampling."""
    few_s: float
    """The same with the few steps that are timed."""
    load_s: float
    """Seconds that loading the model took."""
    kept: Mapping[TuningConfig, KeptTrial]
    """What earlier runs have found on its node, with the same model, device and shapes."""
    unusable: Mapping[TuningConfig, str]
    """Why the model or the node does not support a way."""
