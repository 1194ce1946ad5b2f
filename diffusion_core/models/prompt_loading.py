"""How much of a prompt a model reads once a job's textual inversions are in its tokenizers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nightpress.diffusion_core.models.adapter_files import AdapterFiles
from nightpress.diffusion_core.models.embeddings import EmbeddingFile, add_tokens, check_embeddings
from nightpress.diffusion_core.models.pipeline_folder import PipelineFolder
from nightpress.diffusion_core.models.prompt_reading import (
    check_clip_skip,
    require_clip,
    takes_clip_prompts,
)
from nightpress.diffusion_core.models.prompts import PromptLimits, limits_from_folder, limits_of
from nightpress.diffusion_core.models.spec import ModelSpec


def checked_embeddings(
    spec: ModelSpec, adapters: AdapterFiles, model: PipelineFolder, pipeline_class: Any
) -> list[EmbeddingFile]:
    """The textual inversions with their files.

    Raises:
        ModelError: as `check_embeddings` raises it.
    """
    if not spec.embeddings:
        return []
    limits, configs = limits_from_folder(model, pipeline_class), _configs(model)
    pairs = list(zip(spec.embeddings, adapters.embeddings, strict=True))
    return check_embeddings(pairs, limits, pipeline_class, configs, spec.allow_pickle)


def limits_of_folder(
    model: PipelineFolder, pipeline_class: Any, spec: ModelSpec, embeddings: Sequence[EmbeddingFile]
) -> PromptLimits:
    """The limits of a saved model, if it can read prompts as the job wants them read.

    Raises:
        ModelError: it cannot, or a textual inversion has a word of its tokenizer.
    """
    words = [each.tokens for each in embeddings]
    limits = limits_from_folder(
        model, pipeline_class, lambda tokenizer: add_tokens(tokenizer, embeddings), words
    )
    require_clip(spec.prompts, limits, pipeline_class)
    check_clip_skip(spec.prompts, limits, _configs(model))
    return replace(limits, takes_chunks=takes_clip_prompts(limits, pipeline_class))


def limits_of_pipeline(
    pipeline: Any, model: PipelineFolder, spec: ModelSpec, embeddings: Sequence[EmbeddingFile]
) -> PromptLimits:
    """The limits of a loaded pipeline whose tokenizers have the textual inversions.

    Raises:
        ModelError: it cannot read prompts as the job wants them read.
    """
    words = [each.tokens for each in embeddings]
    limits = limits_of(model.components, pipeline.components.get, type(pipeline), words)
    require_clip(spec.prompts, limits, type(pipeline))
    return replace(limits, takes_chunks=takes_clip_prompts(limits, type(pipeline)))


def _configs(model: PipelineFolder) -> dict[str, dict[str, Any]]:
    return {name: model.config(name) for name in model.components}
