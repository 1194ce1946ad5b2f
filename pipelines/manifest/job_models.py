"""The models of a job with what is known about them: one, or several that rows name."""

from collections.abc import Mapping
from dataclasses import dataclass

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.job.spec import RunSpec

ModelInfos = ModelInfo | Mapping[str, ModelInfo]
"""What is known about the model of a job, or about each of several, by their names in the job."""


@dataclass(frozen=True)
class JobModel:
    """One model of a job."""

    name: str | None
    """What rows call it; None for the only model of a job with the key `model`."""
    spec: RunSpec
    """The job as if this were its only model."""
    info: ModelInfo

    def told(self, key: str) -> str:
        """A key of the job, for a message about this model: `models.brand: sampling.width`."""
        return key if self.name is None else f"models.{self.name}: {key}"


def job_models(spec: RunSpec, infos: ModelInfos) -> tuple[JobModel, ...]:
    """The models of a job, in its order.

    Raises:
        LookupError: a model of the job is not among `infos`.
    """
    if isinstance(infos, ModelInfo):
        if spec.models:
            raise LookupError(f"the job has {len(spec.models)} models, and one is described")
        return (JobModel(None, spec, infos),)
    names = [model.name for model in spec.models]
    return tuple(JobModel(name, spec.for_model(name), infos[name]) for name in names)
