"""Whether a saved model supports the acceleration that a job asks for, and applying it."""

from typing import Any

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models import pipeline_folder
from nightpress.diffusion_core.models.family_rules import Guidance, guidance_of
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.silence_libraries import no_progress_bars

NOT_WITH_GGUF = frozenset({"fuse_qkv_projections", "quantization"})
"""The keys of `speed` that make layers of others, which the quantised ones of a GGUF file cannot
become."""


def check_speed(
    model: PipelineFolder,
    pipeline_class: Any,
    spec: ModelSpec,
    elsewhere: bool = False,
    device: str | None = None,
) -> None:
    """Check, without loading a weight, that a model supports `spec.ways`.

    Args:
        model: the folder of a saved pipeline.
        pipeline_class: the pipeline's class.
        spec: the model as the job names it.
        elsewhere: another machine will sample, so what this one lacks does not matter.
        device: the device that will sample; None for the one that torch finds.

    Raises:
        ModelError: it does not support one of the choices; the message says what it does.
    """
    if spec.controlnets and spec.ways.caches:
        raise ModelError(
            f"model.speed.{spec.ways.caches[0]}: it would reuse what model.controlnets have "
            "changed; use one of the two"
        )
    refused = sorted(NOT_WITH_GGUF & spec.ways.chosen().keys()) if model.is_gguf else []
    if refused:
        raise ModelError(
            f"model.speed.{refused[0]}: {model.shown} is quantised, and its layers cannot be "
            f"changed like that; write it as a folder with nightpress convert, or remove the key"
        )
    if spec.ways.chosen():
        from nightpress.diffusion_core.acceleration import apply

        with no_progress_bars():
            unloaded = pipeline_folder.skeleton(model)
            guidance = guidance_of(model, pipeline_class)
            parts = _parts(unloaded, pipeline_class, spec, guidance, elsewhere, device)
            apply.check_speed(parts, spec.ways)


def apply_speed(
    pipeline: Any, pipeline_class: Any, spec: ModelSpec, guidance: Guidance, device: str
) -> None:
    """Accelerate a loaded pipeline as `spec.ways` says; `spec.dtype` is that of its weights."""
    if spec.ways.chosen():
        from nightpress.diffusion_core.acceleration import apply

        parts = _parts(pipeline, pipeline_class, spec, guidance, device=device)
        apply.apply_speed(parts, spec.ways)


def _parts(
    pipeline: Any,
    pipeline_class: Any,
    spec: ModelSpec,
    guidance: Guidance,
    elsewhere: bool = False,
    device: str | None = None,
) -> Any:
    from nightpress.diffusion_core.acceleration.apply import Parts

    negative = guidance.takes_negative_prompt
    return Parts(pipeline, pipeline_class, spec.dtype, negative, elsewhere, device)
