"""The models of a job as this machine has them, without loading them."""

from collections.abc import Callable, Mapping

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.builtin_description import builtin_description
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.weight_size import WeightSizes
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.models.location import is_here

Weights = Mapping[str, WeightSizes]
"""dtype -> how large the weights of a model are in it."""


def infos_of(spec: RunSpec, describe: Callable[[RunSpec], ModelInfo]) -> ModelInfos:
    """What is known about a job's model, or about each of several.

    Args:
        describe: says it of the only model of a job; see `RunSpec.for_model`.
    """
    if not spec.models:
        return describe(spec)
    return {each.name: describe(spec.for_model(each.name)) for each in spec.models}


def weigh_models(spec: RunSpec) -> tuple[ModelInfos, list[Weights]]:
    """Describe the models, and check that their files hold exactly their weights.

    What this machine's device and packages support is not checked.

    Returns:
        What the models are, and how large the weights of each are, in the job's order.

    Raises:
        ModelError: a model cannot be used.
        StoreError: the store behind a URL refuses or fails.
    """
    weights: list[Weights] = []

    def describe(alone: RunSpec) -> ModelInfo:
        if known := builtin_description(alone.model):
            weights.append(known.weights)
            return known.info
        files = ModelFiles.locate(alone.model, alone.storage)
        info = files.describe(alone.model, elsewhere=True)
        files.check_weights(alone.model)
        weights.append(files.weight_sizes(alone.model))
        return info

    return infos_of(spec, describe), weights


def are_here(spec: RunSpec) -> bool:
    """Whether this machine has the files of all models."""
    return all(is_here(model, spec.storage) for model in spec.every_model)


def local_models(spec: RunSpec) -> ModelInfos | None:
    """The models, if this machine has all of them; None if it lacks one, or one is unusable."""

    def describe(alone: RunSpec) -> ModelInfo:
        if known := builtin_description(alone.model):
            return known.info
        files = ModelFiles.locate(alone.model, alone.storage)
        return files.describe(alone.model, elsewhere=True)

    try:
        return infos_of(spec, describe) if are_here(spec) else None
    except ModelError:
        return None
