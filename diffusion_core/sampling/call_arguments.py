"""Arguments of a pipeline's call: what each image has of its own, and what a class lacks."""

from collections.abc import Sequence
from typing import Any

from nightpress.diffusion_core.models import pipeline_folder
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams


def without_nones(values: dict[str, Any], pipeline: Any) -> dict[str, Any]:
    """The arguments without those that are None and that the pipeline of another mode lacks."""
    accepted = pipeline_folder.call_parameters(type(pipeline))
    return {name: value for name, value in values.items() if value is not None or name in accepted}


def padded(requests: Sequence[ImageRequest], batch_size: int) -> list[ImageRequest]:
    """A full batch, in which the last request stands as often as need be."""
    return [*requests, *[requests[-1]] * (batch_size - len(requests))]


def guidance_scales(requests: Sequence[ImageRequest], params: SamplingParams) -> list[float]:
    """The guidance scale of each image: its own, or the one that all share."""
    own = (request.guidance_scale for request in requests)
    return [params.guidance_scale if scale is None else scale for scale in own]
