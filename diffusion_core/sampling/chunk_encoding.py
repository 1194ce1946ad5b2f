"""Encoding the chunks of a prompt: tokens that are chosen here, and weights on their embeddings.

A pipeline's own `encode_prompt` runs for every chunk, with our tokens in the place of its
tokenizers' own. Then the embedding of each token is multiplied by its weight and the mean of the
chunk restored, for each text encoder by itself; pooled embeddings stay those of the first chunk.
This is what AUTOMATIC1111's stable-diffusion-webui does: `EmphasisOriginal` in
`modules/sd_emphasis.py`, and `process_tokens` in `modules/sd_hijack_clip.py`.
"""

from collections.abc import Callable, Sequence
from types import MethodType, SimpleNamespace
from typing import Any

import torch

from nightpress.diffusion_core.conditioning.embedding_cache import Embedding
from nightpress.diffusion_core.models.prompt_chunks import Chunk
from nightpress.diffusion_core.models.prompt_reading import PromptReader
from nightpress.diffusion_core.models.prompts import ENCODERS
from nightpress.diffusion_core.patching import require

SEQUENCES = ("prompt_embeds", "negative_prompt_embeds")
"""The embeddings that have one vector for each token."""

EncodeChunk = Callable[[Any], Embedding]
"""Encodes one chunk with what stands for the pipeline."""


class ChunkEncoder:
    """Encodes prompts chunk by chunk.

    Args:
        pipeline: whose text encoders are those of CLIP; see `prompt_reading.takes_clip_prompts`.
        reader: how prompts are read.
    """

    def __init__(self, pipeline: Any, reader: PromptReader) -> None:
        self._pipeline = pipeline
        self._reader = reader
        self._names = [each.name for each in reader.limits.tokenizers]
        self._widths = [
            int(getattr(pipeline, ENCODERS[name]).config.hidden_size) for name in self._names
        ]

    def encode(self, text: str, encode_chunk: EncodeChunk) -> Embedding:
        """The embedding of a text: (1, chunks * chunk size, width), and pooled ones (1, width).

        Args:
            encode_chunk: calls `encode_prompt` of what it is given.
        """
        chunks = self._reader.chunks(text)
        parts = [self._weighted(encode_chunk(self._with_tokens(each)), each) for each in chunks]
        return {
            name: torch.cat([part[name] for part in parts], 1) if name in SEQUENCES else value
            for name, value in parts[0].items()
        }

    def first_chunk(self, embedding: Embedding) -> Embedding:
        """The embedding of the first chunk alone."""
        size = self._reader.chunk_size
        return {n: v[:, :size] if n in SEQUENCES else v for n, v in embedding.items()}

    def num_chunks(self, embedding: Embedding) -> int:
        """How many chunks an embedding has."""
        (sequence,) = (value for name, value in embedding.items() if name in SEQUENCES)
        return int(sequence.shape[1]) // self._reader.chunk_size

    def padded(self, embedding: Embedding, number: int, empty: Embedding) -> Embedding:
        """An embedding with empty chunks at its end, so that it has `number` of them."""
        missing = number - self.num_chunks(embedding)
        if not missing:
            return embedding
        blank = self.first_chunk(empty)
        return {
            name: torch.cat([value, *[blank[name]] * missing], 1) if name in SEQUENCES else value
            for name, value in embedding.items()
        }

    def _with_tokens(self, chunks: Sequence[Chunk]) -> "_PipelineWithTokens":
        tokenizers = dict(zip(self._names, map(_GivenTokens, chunks), strict=True))
        return _PipelineWithTokens(self._pipeline, tokenizers)

    def _weighted(self, embedding: Embedding, chunks: Sequence[Chunk]) -> Embedding:
        if not any(chunk.is_weighted for chunk in chunks):
            return embedding
        return {
            name: torch.cat(
                [
                    weighted(values, chunk.weights)
                    for values, chunk in zip(
                        torch.split(value, self._widths, -1), chunks, strict=True
                    )
                ],
                -1,
            )
            if name in SEQUENCES
            else value
            for name, value in embedding.items()
        }


def weighted(values: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    """The embeddings of a chunk's tokens times their weights, with the mean they had before.

    Args:
        values: (1, tokens, width), of one text encoder.
        weights: (tokens,).
    """
    exact = values.float()
    multiplied = exact * torch.tensor(weights, device=values.device).view(1, -1, 1)
    return (multiplied * (exact.mean() / multiplied.mean())).to(values.dtype)


def name_last_norm(encoder: Any) -> None:
    """Let `encode_prompt` find the last norm of a text encoder, which it needs for `clip_skip`.

    Read against diffusers 0.42.1 and transformers 5.23.0. Relies on `encode_prompt` of Stable
    Diffusion asking for `text_encoder.text_model.final_layer_norm`, and on `CLIPTextModel` of
    transformers 5 being itself what its `text_model` was before, so that diffusers alone fails.
    """
    if not hasattr(encoder, "text_model"):
        require(encoder, "final_layer_norm", "leave out layers with model.prompts.clip_skip")
        object.__setattr__(encoder, "text_model", encoder)  # a submodule would contain itself


class _GivenTokens:
    """Stands for a tokenizer: whatever it is given, its tokens are those of one chunk."""

    def __init__(self, chunk: Chunk) -> None:
        self.model_max_length = len(chunk.tokens)
        self._ids = torch.tensor([chunk.tokens])
        self._mask = (torch.arange(len(chunk.tokens)) < chunk.num_read).long()[None]

    def __call__(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
        return SimpleNamespace(input_ids=self._ids, attention_mask=self._mask)


class _PipelineWithTokens:
    """Stands for a pipeline while it encodes a chunk; all but its tokenizers are its own.

    Read against diffusers 0.42.1. Relies on `encode_prompt` calling the tokenizers of `self`, and
    on it changing nothing of `self` where no LoRA scale is given.
    """

    def __init__(self, pipeline: Any, tokenizers: dict[str, _GivenTokens]) -> None:
        self._pipeline = pipeline
        vars(self).update(tokenizers)
        self.encode_prompt = MethodType(type(pipeline).encode_prompt, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)
