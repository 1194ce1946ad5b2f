"""Textual inversions: what their files hold, whether they fit a model, and loading them.

A file has the vectors of one word, for one text encoder or, for SDXL, for two. Layouts: a single
tensor under any name (diffusers, and A1111's safetensors with `emb_params`), `clip_l` and `clip_g`
(SDXL), and A1111's pickles with `string_to_param`.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nightpress.diffusion_core.errors import (
    ModelError,
    ModelNotFound,
    UnsafeWeights,
    UnsupportedModel,
    as_model_error,
)
from nightpress.diffusion_core.models.embedding_spec import EmbeddingSpec
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.diffusion_core.models.prompt_reading import takes_clip_prompts
from nightpress.diffusion_core.models.prompts import ENCODERS, PromptLimits
from nightpress.diffusion_core.models.tensor_headers import read_headers
from nightpress.diffusion_core.models.weight_files import fingerprint_of_file

OF_SDXL = ("clip_l", "clip_g")
"""The names of the vectors for the first and the second text encoder of SDXL."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class EmbeddingFile:
    """A textual inversion and its file."""

    spec: EmbeddingSpec
    file: Path
    num_vectors: int

    @property
    def tokens(self) -> list[str]:
        """The words that diffusers adds to a tokenizer for its vectors."""
        label = self.spec.label
        return [label, *(f"{label}_{number}" for number in range(1, self.num_vectors))]

    @property
    def info(self) -> LoraInfo:
        """Its name and its hash."""
        return LoraInfo(self.spec.label, fingerprint_of_file(self.file), 1.0)


def check_embeddings(
    named: Sequence[tuple[EmbeddingSpec, Path]],
    limits: PromptLimits,
    pipeline_class: Any,
    configs: Mapping[str, Mapping[str, Any]],
    allow_pickle: bool,
) -> list[EmbeddingFile]:
    """Refuse, without loading them, textual inversions that a model cannot use.

    Args:
        named: the textual inversions, each with its file.
        limits: of the model without them.
        pipeline_class: the pipeline's class.
        configs: name -> configuration of the model's components.
        allow_pickle: whether a file may be a pickle.

    Raises:
        ModelNotFound: a file is missing.
        UnsafeWeights: it is a pickle, and that is not allowed.
        UnsupportedModel: the model's text encoders are not those of CLIP.
        ModelError: a file is damaged, of another layout, or its vectors have another width.
    """
    if not takes_clip_prompts(limits, pipeline_class) or not hasattr(
        pipeline_class, "load_textual_inversion"
    ):
        raise UnsupportedModel(
            "model.embeddings work with Stable Diffusion 1.x, 2.x and XL, all of whose text "
            f"encoders are CLIP; {pipeline_class.__name__} is another kind of model"
        )
    widths = [int(configs[ENCODERS[each.name]]["hidden_size"]) for each in limits.tokenizers]
    most = min(each.max_tokens for each in limits.tokenizers)
    found = []
    for spec, file in named:
        what = f"embedding {spec.label!r}: {file}"
        shapes = _shapes(what, file, allow_pickle)
        num_vectors = _require_fit(what, shapes, widths)
        if num_vectors > most:
            raise ModelError(f"{what}: {num_vectors} vectors do not fit into a prompt's {most}")
        found.append(EmbeddingFile(spec, file, num_vectors))
    return found


def _require_fit(what: str, shapes: Mapping[str, Shape], widths: Sequence[int]) -> int:
    """The number of vectors, if there are some for each text encoder, of its width."""
    if len(widths) == 1 and len(shapes) == 1:
        used = list(shapes.items())
    elif len(widths) == 2 and set(shapes) == set(OF_SDXL):
        used = [(name, shapes[name]) for name in OF_SDXL]
    else:
        of_file = "Stable Diffusion XL" if set(shapes) == set(OF_SDXL) else "one text encoder"
        of_model = "two text encoders" if len(widths) == 2 else "one text encoder"
        raise ModelError(
            f"{what}: it is for {of_file}, and the model has {of_model}; it holds "
            f"{', '.join(sorted(shapes))}"
        )
    counts = set()
    for (name, shape), width in zip(used, widths, strict=True):
        if len(shape) not in (1, 2) or 0 in shape or shape[-1] != width:
            raise ModelError(
                f"{what}: {name} has the shape {list(shape)}, but the vectors of this model's text "
                f"encoder have the width {width}; it is made for another family of models"
            )
        counts.add(shape[0] if len(shape) == 2 else 1)
    if len(counts) > 1:
        raise ModelError(f"{what}: its text encoders have different numbers of vectors")
    return int(counts.pop())


def _shapes(what: str, file: Path, allow_pickle: bool) -> dict[str, Shape]:
    if not file.is_file():
        raise ModelNotFound(f"{what}: no such file")
    if file.suffix == ".safetensors":
        headers = read_headers(file)
        shapes = {name: header.shape for name, header in headers.items()}
        if not all(header.is_floating for header in headers.values()):
            raise ModelError(f"{what}: its vectors are not floating-point numbers")
    else:
        if not allow_pickle:
            raise UnsafeWeights(
                f"{what}: it is a pickle, and unpickling runs code; convert it to safetensors, or "
                "set model.allow_pickle if you trust it"
            )
        shapes = {name: tuple(value.shape) for name, value in _vectors(what, file).items()}
    if not shapes:
        raise ModelError(f"{what}: it holds no vectors")
    return shapes


def _vectors(what: str, file: Path) -> dict[str, Any]:
    """Name -> vectors, (n, width) or (width,); of a pickle without running its code."""
    import torch

    with as_model_error(f"{what}: not a readable embedding"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        content = torch.load(file, map_location="cpu", weights_only=True)
        if isinstance(content, dict) and "string_to_param" in content:
            return {"*": content["string_to_param"]["*"].detach()}
        vectors = {k: v.detach() for k, v in content.items() if isinstance(v, torch.Tensor)}
        if len(vectors) != len(content):
            raise ValueError(f"it holds {', '.join(sorted(map(str, content)))[:200]}")
        return vectors


def load_embeddings(pipeline: Any, embeddings: Sequence[EmbeddingFile]) -> None:
    """Add textual inversions to a pipeline's tokenizers and text encoders.

    Raises:
        ModelError: a word is one of the tokenizer's own, or a vector is not finite.
    """
    import torch

    for each in embeddings:
        what = f"embedding {each.spec.label!r}: {each.file}"
        vectors = _vectors(what, each.file)
        names = OF_SDXL if set(vectors) == set(OF_SDXL) else tuple(vectors)
        for name, suffix in zip(names, ("", "_2"), strict=False):
            if not torch.isfinite(vectors[name].float()).all():
                raise ModelError(f"{what}: {name} has values that are not finite")
            with as_model_error(what):
                pipeline.load_textual_inversion(
                    vectors[name].reshape(each.num_vectors, -1),
                    token=each.spec.label,
                    tokenizer=getattr(pipeline, f"tokenizer{suffix}"),
                    text_encoder=getattr(pipeline, f"text_encoder{suffix}"),
                )


def add_tokens(tokenizer: Any, embeddings: Sequence[EmbeddingFile]) -> None:
    """Add to a tokenizer what `load_embeddings` adds to those of a pipeline.

    Raises:
        ModelError: a word is one of the tokenizer's own.
    """
    for each in embeddings:
        for token in each.tokens:
            if token in tokenizer.get_vocab():
                raise ModelError(
                    f"embedding {each.spec.label!r}: {token!r} is a word of the model's tokenizer; "
                    "set another `token`"
                )
            tokenizer.add_tokens(token)
