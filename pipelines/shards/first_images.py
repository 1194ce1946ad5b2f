"""The first images of a plan that have certain settings."""

from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from nightpress.diffusion_core.conditioning.passes import passes_as_text
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.planning import PlanLayout, plan_part
from nightpress.pipelines.shards.batching import PlannedImage, planned_images


def first_images(
    spec: RunSpec,
    infos: ModelInfos,
    layout: PlanLayout,
    settings: SamplingParams,
    number: int,
    model: str | None = None,
) -> list[PlannedImage]:
    """The first images with these settings, in the order of the plan; nothing is written.

    Args:
        infos: of the job's model, or of each of several.
        number: how many, if there are as many.
        model: the name of their model, if the job has several.

    Raises:
        ManifestError, StoreError: the manifest has changed, or cannot be read.
    """
    values = _plan_values(settings)
    images: list[PlannedImage] = []
    for index, planned in enumerate(layout.parts):
        if planned.model != model:
            continue
        part = plan_part(spec, infos, layout, index)
        for name, value in values.items():
            column = part.column(name)
            part = part.filter(column.is_null() if value is None else pc.equal(column, value))
        if settings.num_frames is None and "clip" in part.column_names:
            part = part.filter(part.column("clip").is_null())
        images += planned_images(part.slice(0, number - len(images)))
        if len(images) == number:
            break
    return images


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
