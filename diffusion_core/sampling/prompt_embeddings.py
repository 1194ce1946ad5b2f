"""Prompts to embeddings, each distinct prompt encoded once.

Owns the conventions of `encode_prompt` and a bounded cache of embeddings. A prompt is always
encoded alone, so its embedding never depends on the batch it is sampled in. One thread may encode
the prompts of a later batch while another samples.
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from nightpress.diffusion_core.conditioning.embedding_cache import Embedding, EmbeddingCache
from nightpress.diffusion_core.conditioning.uploads import upload_rows
from nightpress.diffusion_core.errors import SamplingError, UnsupportedModel
from nightpress.diffusion_core.models import family_rules, pipeline_folder
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.chunk_encoding import ChunkEncoder, name_last_norm
from nightpress.diffusion_core.sampling.copy_to_host import CopyStream
from nightpress.diffusion_core.sampling.walks import BetweenPrompts, blend
from nightpress.diffusion_core.silence_libraries import errors_only

LAYOUTS: tuple[tuple[str, ...], ...] = (
    ("prompt_embeds", "negative_prompt_embeds"),
    (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    ),
    (
        "prompt_embeds",
        "prompt_attention_mask",
        "negative_prompt_embeds",
        "negative_prompt_attention_mask",
    ),
    ("prompt_embeds", "pooled_prompt_embeds", "text_ids"),
)
"""What `encode_prompt` returns, in order: Stable Diffusion; SDXL and SD3; PixArt and Sana; FLUX."""

PROBES = ("", " ".join(["a"] * 70))
"""A short and a long prompt: if their embeddings differ in shape, prompts cannot share a batch."""

CACHE_BYTES = 512 * 2**20
"""Host memory for embeddings, unless the caller sets another limit."""

RowLora = tuple[str | None, float | None]
"""`lora` and `lora_scale` of `SamplingParams`."""

NO_LORA: RowLora = (None, None)

Prompt = str | BetweenPrompts
"""Of one image."""

Key = tuple[str, str, tuple[str, float] | None]
"""`prompt`, `negative`, or `empty chunk` of a negative prompt; its text; and the LoRA (name, scale)
that affects its embedding."""

MAX_COUNTED = 10_000
"""Texts whose number of chunks is remembered."""


class Conditioner:
    """Makes the prompt arguments of a pipeline's `__call__` for a batch.

    Pipelines whose `encode_prompt` returns one of the `LAYOUTS` get embeddings; any other pipeline
    gets the strings and encodes them in every batch.
    """

    def __init__(self, model: LoadedModel, cache_bytes: int = CACHE_BYTES) -> None:
        self._pipeline = model.pipeline
        self._device = model.device
        self._row_loras = model.row_loras
        self._guidance = model.guidance
        self._cache = EmbeddingCache(cache_bytes)
        self._encoding = threading.RLock()
        self._stream = CopyStream(model.device)
        self._clip_skip = model.reading.clip_skip
        if self._clip_skip is not None:
            name_last_norm(self._pipeline.text_encoder)
        self._layout = self._find_layout()
        self._reader = model.reader
        self._chunks = self._chunk_encoder() if self._reader.is_needed else None
        self._num_chunks = functools.lru_cache(MAX_COUNTED)(self._reader.num_chunks)

    @property
    def encodes(self) -> bool:
        """Whether prompts are encoded here, once each, and not by the pipeline."""
        return self._layout is not None

    @property
    def shares_batches(self) -> bool:
        """Whether images with different prompts may share one call of the pipeline."""
        return self.encodes or family_rules.shares_batches(type(self._pipeline))

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep all other threads from encoding for the length of a block.

        Callers that modify the model, or change a setting of torch that all threads share, must
        hold this. What is encoded afterwards sees the change.
        """
        with self._encoding:
            yield
            self._stream.wait_for_current_stream()

    def num_chunks(
        self, prompts: Sequence[Prompt], negative_prompts: Sequence[str], guided: bool
    ) -> int:
        """The most chunks of any of these prompts, and of the negative ones where they are used."""
        if self._chunks is None:
            return 1
        negatives = negative_prompts if guided and self._guidance.takes_negative_prompt else ()
        positives = [text for prompt in prompts for text in _texts(prompt)]
        return max(map(self._num_chunks, (*positives, *negatives)))

    def group_by_call(
        self, prompts: Sequence[Prompt], negative_prompts: Sequence[str], guided: bool
    ) -> list[list[int]]:
        """Group the indices of images that may share one call of the pipeline.

        Pipelines that get strings treat "no negative prompt" as a setting of the whole call, so
        images with a negative prompt and images without one need separate calls. Most of them pad
        all prompts of a call to the longest, so that companions decide last bits: there every
        image has a call of its own. For the same reason, images whose prompts are encoded in
        chunks share a call only with images of as many chunks.
        """
        indices = range(len(prompts))
        if self.encodes:
            pairs = zip(prompts, negative_prompts, strict=True)
            counts = [self.num_chunks([prompt], [negative], guided) for prompt, negative in pairs]
            return [[i for i in indices if counts[i] == each] for each in sorted(set(counts))]
        if not self.shares_batches:
            return [[index] for index in indices]
        groups = (
            [i for i in indices if negative_prompts[i]],
            [i for i in indices if not negative_prompts[i]],
        )
        return [group for group in groups if group]

    def arguments(
        self,
        prompts: Sequence[Prompt],
        negative_prompts: Sequence[str],
        guided: bool,
        lora: RowLora = NO_LORA,
    ) -> dict[str, Any]:
        """The arguments of `__call__` that carry these prompts, one for each image.

        Args:
            prompts: (B,) of the images.
            negative_prompts: (B,) likewise; "" for the pipeline's own default.
            guided: whether negative prompts are used at all.
            lora: the row LoRA that is active while they are encoded.
        """
        if not self.encodes:
            guided = guided and self._guidance.takes_negative_prompt
            empty = self._guidance.empty_negative_prompt
            negatives = [text or empty for text in negative_prompts] if guided else []
            return self._strings(prompts, negatives)
        rows = self._embeddings(prompts, negative_prompts, guided, lora)
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return self._no_strings() | upload_rows(columns, self._device)

    def prepare(
        self,
        prompts: Sequence[Prompt],
        negative_prompts: Sequence[str],
        guided: bool,
        lora: RowLora = NO_LORA,
    ) -> None:
        """Encode what `arguments` will need, unless it is cached already.

        May be called from any thread, at any time. Does nothing for pipelines that get strings.
        """
        if self.encodes:
            self._embeddings(prompts, negative_prompts, guided, lora)

    def _embeddings(
        self,
        prompts: Sequence[Prompt],
        negative_prompts: Sequence[str],
        guided: bool,
        lora: RowLora,
    ) -> list[dict[str, torch.Tensor]]:
        guided = guided and self._guidance.takes_negative_prompt
        return [
            self._encode_pair(prompt, negative if guided else None, lora)
            for prompt, negative in zip(prompts, negative_prompts, strict=True)
        ]

    def _strings(self, prompts: Sequence[Prompt], negatives: Sequence[str]) -> dict[str, Any]:
        negative = {"negative_prompt": list(negatives)} if any(negatives) else {}
        return {"prompt": list(prompts)} | negative

    def _no_strings(self) -> dict[str, Any]:
        """None for both strings: pipelines that default to "" refuse a string beside embeddings."""
        names = ("prompt", "negative_prompt")
        return {
            n: None for n in names if n in pipeline_folder.call_parameters(type(self._pipeline))
        }

    def _encode_pair(
        self, prompt: Prompt, negative_prompt: str | None, lora: RowLora
    ) -> dict[str, torch.Tensor]:
        active = self._row_loras.in_encoders(*lora)
        positive = self._encode_positive(prompt, active)
        if negative_prompt is None:
            return dict(positive)
        negative = self._cached_negative(("negative", negative_prompt, active), positive)
        if self._chunks is None:
            return {**positive, **negative}
        counts = [self._chunks.num_chunks(each) for each in (positive, negative)]
        if counts[0] < counts[1]:
            empty = self._cached(("prompt", "", active), self._encode)
            positive = self._chunks.padded(positive, counts[1], empty)
        elif counts[1] < counts[0]:
            # An empty negative prompt may be zeros, and then its other chunks are zeros too.
            kind = "empty chunk" if negative_prompt else "negative"
            empty = self._cached_negative((kind, "", active), positive)
            negative = self._chunks.padded(negative, counts[0], empty)
        return {**positive, **negative}

    def _encode_positive(self, prompt: Prompt, active: tuple[str, float] | None) -> Embedding:
        found = [self._cached(("prompt", text, active), self._encode) for text in _texts(prompt)]
        if not isinstance(prompt, BetweenPrompts):
            return found[0]
        if self._chunks is not None:
            number = max(map(self._chunks.num_chunks, found))
            empty = self._cached(("prompt", "", active), self._encode)
            found = [self._chunks.padded(each, number, empty) for each in found]
        return blend(found[0], found[1], prompt.at)

    def _cached_negative(self, key: Key, positive: Embedding) -> Embedding:
        return self._cached(key, lambda key: self._encode_negative(key, positive))

    def _cached(self, key: Key, encode: Callable[[Key], Embedding]) -> Embedding:
        """The cached embedding, or one encoded now; only one thread encodes at a time."""
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        with self._encoding:
            return self._cache.get(key) or self._cache.put(key, encode(key))

    def _encode(self, key: Key) -> Embedding:
        _, prompt, lora = key
        if self._layout is None:
            raise SamplingError("this pipeline encodes its prompts itself")
        self._row_loras.use_for_encoding(*(lora or NO_LORA))
        embedding = self._call_for(prompt, prompt=prompt, do_classifier_free_guidance=False)
        return {name: embedding[name] for name in _positive(embedding)}

    def _encode_negative(self, key: Key, positive: Embedding) -> Embedding:
        """Encode a negative prompt; any positive embedding will do, as only its shape is used.

        Encoding it as if it were a prompt would differ: SDXL may replace an empty negative prompt
        by zeros, and Sana puts an instruction before prompts only.
        """
        kind, negative_prompt, lora = key
        if self._layout is None:
            raise SamplingError("this pipeline encodes its prompts itself")
        self._row_loras.use_for_encoding(*(lora or NO_LORA))
        given = negative_prompt or kind == "empty chunk"
        text = {"negative_prompt": negative_prompt} if given else {}
        if self._chunks is not None:
            positive = self._chunks.first_chunk(positive)
        embedding = self._call_for(
            negative_prompt, prompt=None, do_classifier_free_guidance=True, **text, **positive
        )
        return {name: embedding[name] for name in _negative(embedding)}

    def _chunk_encoder(self) -> ChunkEncoder:
        if self._layout is None:
            name = type(self._pipeline).__name__
            raise UnsupportedModel(f"{name}: model.prompts cannot be used, as it encodes prompts")
        return ChunkEncoder(self._pipeline, self._reader)

    def _call_for(self, text: str, **arguments: Any) -> Embedding:
        """Encode a text as a whole, or chunk by chunk."""
        layout = self._layout or ()
        if self._chunks is None:
            return self._call(layout, **arguments)
        return self._chunks.encode(text, lambda pipeline: self._call(layout, pipeline, **arguments))

    def _call(
        self, layout: tuple[str, ...], pipeline: Any = None, **arguments: Any
    ) -> dict[str, torch.Tensor]:
        """Call `encode_prompt`; empty if what it returns does not have this layout.

        Args:
            pipeline: what stands for the pipeline, if something does.
        """
        encode = (pipeline or self._pipeline).encode_prompt
        parameters = inspect.signature(encode).parameters
        always: dict[str, Any] = {"device": torch.device(self._device), "num_images_per_prompt": 1}
        if self._clip_skip is not None:
            always["clip_skip"] = self._clip_skip
        arguments = self._call_defaults(parameters) | always | arguments
        with torch.inference_mode(), self._stream.as_current():
            values = encode(
                **{name: self._on_device(v) for name, v in arguments.items() if name in parameters}
            )
            if not isinstance(values, tuple) or len(values) != len(layout):
                return {}
            copies = {
                name: self._stream.copy_to_host(value)
                for name, value in zip(layout, values, strict=True)
                if name != "text_ids" and isinstance(value, torch.Tensor)
            }
        return {name: copy.pageable() for name, copy in copies.items()}

    def _on_device(self, value: Any) -> Any:
        """Move a tensor to the device; anything else stays as it is."""
        return value.to(self._device) if isinstance(value, torch.Tensor) else value

    def _call_defaults(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What `__call__` would pass to `encode_prompt` by default, such as Sana's instruction."""
        skipped = {"prompt", "clean_caption"}
        return {
            name: parameter.default
            for name, parameter in pipeline_folder.call_parameters(type(self._pipeline)).items()
            if name in parameters
            and name not in skipped
            and parameter.default is not parameter.empty
        }

    def _find_layout(self) -> tuple[str, ...] | None:
        """The layout that `__call__` accepts and `encode_prompt` returns; None if there is none."""
        name = type(self._pipeline).__name__
        if not hasattr(self._pipeline, "encode_prompt") or name in family_rules.ENCODE_THEMSELVES:
            return None
        with errors_only():  # the longer probe is cut, which the libraries remark upon
            return next((layout for layout in LAYOUTS if self._fits(layout)), None)

    def _fits(self, layout: tuple[str, ...]) -> bool:
        accepted = {
            name
            for name in pipeline_folder.call_parameters(type(self._pipeline))
            if name.endswith(("_embeds", "_mask")) and "ip_adapter" not in name
        }
        encodes = inspect.signature(self._pipeline.encode_prompt).parameters
        if _negative(layout) and "negative_prompt" not in encodes:
            return False
        if _positive(accepted) != _positive(layout):
            return False
        short, long = (
            self._call(layout, prompt=prompt, do_classifier_free_guidance=False)
            for prompt in PROBES
        )
        return all(
            name in short
            and short[name].ndim == (3 if name == "prompt_embeds" else 2)
            and short[name].shape == long[name].shape
            for name in _positive(layout)
        )


def _texts(prompt: Prompt) -> tuple[str, ...]:
    """A prompt's text, or both if it is between two."""
    return (prompt.start, prompt.end) if isinstance(prompt, BetweenPrompts) else (prompt,)


def _positive(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("negative_") and name != "text_ids"}


def _negative(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith("negative_")}
