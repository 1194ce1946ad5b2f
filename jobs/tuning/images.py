"""The images that a job is tuned on: the first ones with its most frequent settings."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from nightpress.diffusion_core.conditioning.passes import passes_as_text
from nightpress.diffusion_core.conditioning.spec import TEXT_ALONE
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import SettingsCount, check, plan_part
from nightpress.pipelines.shards.batching import PlannedImage, planned_images


def images_to_sample(
    spec: RunSpec, info: ModelInfo, batch_size: int, num_images: int
) -> list[PlannedImage]:
    """The first images with the job's most frequent settings, in whole batches if it has enough.

    Only images that are made from text alone are sampled.

    Raises:
        SpecError: every row has pictures.
    """
    layout = check(spec, info, batch_size)
    values = _plan_values(_text_settings(layout.batches))
    wanted = math.ceil(num_images / batch_size) * batch_size
    images: list[PlannedImage] = []
    for index in range(len(layout.parts)):
        part = plan_part(spec, info, layout, index)
        for name, value in values.items():
            column = part.column(name)
            part = part.filter(column.is_null() if value is None else pc.equal(column, value))
        images += planned_images(part.slice(0, wanted - len(images)))
        if len(images) == wanted:
            break
    return images


def _text_settings(counts: Sequence[SettingsCount]) -> SamplingParams:
    """The most frequent settings of images that are made from text alone."""
    for count in counts:
        if count.settings.conditioning == TEXT_ALONE:
            return count.settings
    raise SpecError(
        "tune measures images that are made from text alone, and every row of the manifest has "
        "pictures; name a manifest with some rows that have none"
    )


def _plan_values(settings: SamplingParams) -> dict[str, Any]:
    """Settings as the columns of a plan have them."""
    width, height = settings.final_size
    values = asdict(settings)
    del values["num_frames"], values["fps"]  # in a plan they are part of its column `clip`
    return values | {
        "width": width,
        "height": height,
        "conditioning": settings.conditioning.as_text(),
        "passes": passes_as_text(settings.passes),
    }
