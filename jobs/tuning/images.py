"""The images that a job is tuned on: the first ones with its most frequent settings."""

import math
from collections.abc import Sequence

from nightpress.diffusion_core.conditioning.spec import TEXT_ALONE
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import SettingsCount, check
from nightpress.pipelines.shards.batching import PlannedImage
from nightpress.pipelines.shards.first_images import first_images


def images_to_sample(
    spec: RunSpec, info: ModelInfo, batch_size: int, num_images: int
) -> list[PlannedImage]:
    """The first images with the job's most frequent settings, in whole batches if it has enough.

    Only images that are made from text alone are sampled.

    Raises:
        SpecError: every row has pictures.
    """
    layout = check(spec, info, batch_size)
    wanted = math.ceil(num_images / batch_size) * batch_size
    return first_images(spec, info, layout, _text_settings(layout.batches), wanted)


def _text_settings(counts: Sequence[SettingsCount]) -> SamplingParams:
    """The most frequent settings of images that are made from text alone."""
    for count in counts:
        if count.settings.conditioning == TEXT_ALONE:
            return count.settings
    raise SpecError(
        "tune measures images that are made from text alone, and every row of the manifest has "
        "pictures; name a manifest with some rows that have none"
    )
