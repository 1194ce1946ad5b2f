"""How the prompts of a job are read by a model: their weights and chunks, and whether it can.

Needs the model's tokenizers and no weights, so that planning and sampling read alike.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from nightpress.diffusion_core.errors import UnsupportedModel
from nightpress.diffusion_core.models import family_rules
from nightpress.diffusion_core.models.prompt_chunks import Chunk, ClipTokens, cut_into_chunks
from nightpress.diffusion_core.models.prompt_spec import PromptsSpec
from nightpress.diffusion_core.models.prompt_weights import Segment, parse_weights
from nightpress.diffusion_core.models.prompts import ENCODERS, PromptLimits, PromptTokenizer


@dataclass(frozen=True)
class PromptReader:
    """Reads the prompts of one job for one model."""

    spec: PromptsSpec = field(default_factory=PromptsSpec)
    limits: PromptLimits = field(default_factory=PromptLimits)

    @property
    def is_needed(self) -> bool:
        """Whether prompts are more than what a pipeline reads of their text by itself."""
        return self.spec.reads_chunks or any(each.embeddings for each in self.limits.tokenizers)

    @property
    def chunk_size(self) -> int:
        """Tokens of a chunk, with those that mark its start and end."""
        return self.limits.tokenizers[0].max_tokens + 2

    def segments(self, text: str) -> tuple[Segment, ...]:
        """The pieces of a text that have one weight each.

        Raises:
            PromptSyntaxError: the job has A1111's weights, and the text does not follow them.
        """
        return parse_weights(text) if self.spec.weights == "a1111" else (Segment(text),)

    def chunks(self, text: str) -> list[tuple[Chunk, ...]]:
        """The chunks of a text, each as every tokenizer of the model has it.

        A tokenizer with fewer chunks than another is given empty ones.

        Raises:
            PromptSyntaxError: as `segments` does.
        """
        segments = self.segments(text)
        found = [_chunks(segments, each) for each in self.limits.tokenizers]
        if not self.spec.reads_chunks:
            found = [[_cut_to_one(text, each)] for each in self.limits.tokenizers]
        most = max(map(len, found))
        for own, tokenizer in zip(found, self.limits.tokenizers, strict=True):
            own += _chunks((Segment(""),), tokenizer) * (most - len(own))
        return list(zip(*found, strict=True))

    def num_chunks(self, text: str) -> int:
        """How many chunks a text has; 1 if the model's tokenizers are not known.

        Raises:
            PromptSyntaxError: as `segments` does.
        """
        if not self.limits.tokenizers:
            return 1 if self.segments(text) else 0
        return len(self.chunks(text)) if self.spec.reads_chunks else 1

    def num_tokens(self, text: str) -> int:
        """The most tokens that a tokenizer makes of a text, without its brackets."""
        segments = self.segments(text)
        return max(
            sum(each.count(segment.text) for segment in segments) for each in self.limits.tokenizers
        )

    def embeddings_in(self, *texts: str) -> frozenset[str]:
        """The words of the textual inversions that some texts name."""
        if not any(each.embeddings for each in self.limits.tokenizers):
            return frozenset()
        first = self.limits.tokenizers[0]
        pieces = (segment.text for text in texts for segment in self.segments(text))
        found = {token for piece in pieces for token in first.tokens(piece)}
        return frozenset(word for token, word in first.embeddings.items() if token in found)


def _cut_to_one(text: str, tokenizer: PromptTokenizer) -> Chunk:
    """The chunk of all tokens that the model reads; the others are lost."""
    every = (
        each for token in tokenizer.tokens(text) for each in tokenizer.vectors.get(token, (token,))
    )
    read = list(islice(every, tokenizer.max_tokens))
    (chunk,) = cut_into_chunks([(read, 1.0, False)], tokenizer.max_tokens, _clip_of(tokenizer), {})
    return chunk


def _chunks(segments: tuple[Segment, ...], tokenizer: PromptTokenizer) -> list[Chunk]:
    pieces = [(tokenizer.tokens(each.text), each.weight, each.begins_chunk) for each in segments]
    return cut_into_chunks(pieces, tokenizer.max_tokens, _clip_of(tokenizer), tokenizer.vectors)


def _clip_of(tokenizer: PromptTokenizer) -> ClipTokens:
    assert tokenizer.clip is not None  # noqa: S101 - `require_clip` has seen to it
    return tokenizer.clip


def require_clip(spec: PromptsSpec, limits: PromptLimits, pipeline_class: Any) -> None:
    """Refuse what a job asks of prompts, if the model's text encoders are not all those of CLIP.

    Raises:
        UnsupportedModel: names the key of the job.
    """
    for key, value in spec.chosen().items():
        if not takes_clip_prompts(limits, pipeline_class):
            raise UnsupportedModel(
                f"model.prompts.{key}: {value} works with Stable Diffusion 1.x, 2.x and XL, all of "
                f"whose text encoders are CLIP; {pipeline_class.__name__} is another kind of model"
            )


def check_clip_skip(
    spec: PromptsSpec, limits: PromptLimits, encoders: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse to leave out more layers than there are.

    Args:
        spec, limits: of the job and the model, which `require_clip` has let through.
        encoders: name -> configuration of the model's components.

    Raises:
        UnsupportedModel: names the most that can be left out.
    """
    if spec.clip_skip is None:
        return
    configs = [encoders[ENCODERS[each.name]] for each in limits.tokenizers]
    layers = min(int(each["num_hidden_layers"]) for each in configs)
    # The second tokenizer is there in SDXL, which always reads the layer before the last.
    most = layers - any(each.name == "tokenizer_2" for each in limits.tokenizers)
    if spec.clip_skip > most:
        raise UnsupportedModel(
            f"model.prompts.clip_skip: {spec.clip_skip} is more than the {_layers(most)} "
            "that diffusers can leave out of this model's text encoders"
        )


def _layers(number: int) -> str:
    """`1 layer`, `11 layers`."""
    return f"{number} layer" if number == 1 else f"{number} layers"


def takes_clip_prompts(limits: PromptLimits, pipeline_class: Any) -> bool:
    """Whether a pipeline encodes prompts with text encoders of CLIP, and with nothing else.

    Stable Diffusion 3 without its T5 puts zeros in the place of T5's embeddings.
    """
    name = pipeline_class.__name__
    if name in family_rules.ENCODE_THEMSELVES or name.startswith("StableDiffusion3"):
        return False
    encode = getattr(pipeline_class, "encode_prompt", None)
    known = encode is not None and "clip_skip" in inspect.signature(encode).parameters
    return known and bool(limits.tokenizers) and all(each.clip for each in limits.tokenizers)
