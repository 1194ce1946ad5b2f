"""Checks that a model can sample a batch, made before anything of it is sampled."""

from collections.abc import Sequence

from nightpress.diffusion_core.conditioning import arguments, checking, controls
from nightpress.diffusion_core.conditioning.pipelines import ModePipelines
from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models import modes
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling import per_image_guidance
from nightpress.diffusion_core.sampling.call_arguments import guidance_scales
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams


def check_batch(
    model: LoadedModel,
    pipelines: ModePipelines,
    requests: Sequence[ImageRequest],
    params: SamplingParams,
    batch_size: int,
) -> None:
    """Check that a model can sample these requests in one batch.

    Args:
        model: the loaded model.
        pipelines: those of its modes.
        requests: of the batch.
        params: the settings that all of them share.
        batch_size: how many requests a batch holds.

    Raises:
        SettingsError: it cannot; the message says what is wrong.
    """
    if not 1 <= len(requests) <= batch_size:
        raise SettingsError(f"{len(requests)} requests; a batch holds 1 to {batch_size}")
    for side in ("width", "height"):
        pixels, multiple = getattr(params, side), model.size_multiple
        if pixels < multiple or pixels % multiple:
            raise SettingsError(f"{side} {pixels} is not a multiple of {multiple}")
    if model.speed.first_block_cache and batch_size > 1:
        raise SettingsError(
            f"batch size {batch_size}: must be 1 with first_block_cache, which decides for a "
            "whole batch"
        )
    _check_pictures(model, pipelines, requests, params)
    _check_guidance(model, pipelines, requests, params)


def _check_pictures(
    model: LoadedModel,
    pipelines: ModePipelines,
    requests: Sequence[ImageRequest],
    params: SamplingParams,
) -> None:
    """Check the pictures, and that strength and ControlNets leave steps to take."""
    conditioning, steps = params.conditioning, params.num_inference_steps
    size, images = (params.width, params.height), [request.images for request in requests]
    controls.check(model.controlnets, images, conditioning, size)
    pipeline_class = type(pipelines.pipeline_for(conditioning.mode, conditioning.controls))
    checking.check_strength(conditioning, pipeline_class, steps)
    checking.check_pictures(images, conditioning, size)
    strength = arguments.strength_of(conditioning, pipeline_class)
    taken = modes.steps_taken(pipeline_class.__name__, steps, strength)
    own = str(model.scheduler_config.get("_class_name"))
    solver = own if params.scheduler == "default" else params.scheduler
    controls.check_steps(model.controlnets, conditioning.controls, taken, solver)


def _check_guidance(
    model: LoadedModel,
    pipelines: ModePipelines,
    requests: Sequence[ImageRequest],
    params: SamplingParams,
) -> None:
    """Check that guidance scales may share a batch, and that negative prompts are taken."""
    conditioning = params.conditioning
    pipeline = pipelines.pipeline_for(conditioning.mode, conditioning.controls)
    for scale in guidance_scales(requests, params):
        if scale != params.guidance_scale and not (
            per_image_guidance.is_supported(pipeline) and (scale > 1) == (params.guidance_scale > 1)
        ):
            raise SettingsError(
                f"guidance_scale {scale} and {params.guidance_scale} cannot share a batch"
            )
    if not model.takes_negative_prompt and any(r.negative_prompt for r in requests):
        raise SettingsError(f"{type(model.pipeline).__name__} takes no negative prompt")
