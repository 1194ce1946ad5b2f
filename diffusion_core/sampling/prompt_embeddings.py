"""Prompts to embeddings, each distinct prompt encoded once.

Owns the conventions of `encode_prompt` and a bounded memory of what was encoded. A prompt is
always encoded alone, so its embedding never depends on the company it is sampled in. One thread
may encode the prompts of a batch to come while another samples. Knows nothing of noise, steps or
pixels.
"""

import contextlib
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from nightpress.diffusion_core.errors import SamplingError
from nightpress.diffusion_core.models import pipeline_folder
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.copy_to_host import CopyStream

Embedding = Mapping[str, torch.Tensor]
"""Argument of `__call__` -> its value for one image, (1, ...), in host memory, page-locked where
there is an accelerator."""

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
"""Prompts of unequal length: where their embeddings differ in shape, they cannot share a batch."""

CACHE_BYTES = 512 * 2**20

RowLora = tuple[str | None, float | None]
"""The LoRA that rows name, and its scale: see `SamplingParams`."""

NO_LORA: RowLora = (None, None)

Key = tuple[str, str, tuple[str, float] | None]
"""`prompt` or `negative`, its text, and the LoRA that has a say in its embedding."""


class Conditioner:
    """Makes the prompt arguments of a pipeline's `__call__` for a batch.

    Pipelines whose `encode_prompt` has one of the `LAYOUTS` get embeddings; any other gets the
    strings themselves, and encodes them in every batch.
    """

    def __init__(self, model: LoadedModel, cache_bytes: int = CACHE_BYTES) -> None:
        self._pipeline = model.pipeline
        self._device = model.device
        self._row_loras = model.row_loras
        self._takes_negative = model.takes_negative_prompt
        self._cache = EmbeddingCache(cache_bytes)
        self._encoding = threading.RLock()
        self._side = CopyStream(model.device)
        self._layout = self._find_layout()

    @property
    def encodes(self) -> bool:
        """Whether prompts are encoded here, once each; otherwise the pipeline does it."""
        return self._layout is not None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While it lasts no other thread encodes.

        For who changes the model, or moves a switch of torch's that all threads obey.

        What is encoded afterwards sees the change.
        """
        with self._encoding:
            yield
            self._side.follow()

    def alike(self, negative_prompts: Sequence[str]) -> list[list[int]]:
        """The rows that may share one call, as lists of places.

        Pipelines that are given strings treat "no negative prompt" as a setting of the whole
        call, so rows with one and rows without must not meet.
        """
        places = range(len(negative_prompts))
        if self.encodes:
            return [list(places)]
        groups = (
            [i for i in places if negative_prompts[i]],
            [i for i in places if not negative_prompts[i]],
        )
        return [group for group in groups if group]

    def arguments(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        guided: bool,
        lora: RowLora = NO_LORA,
    ) -> dict[str, Any]:
        """The arguments of `__call__` that carry these prompts, one image each.

        Args:
            negative_prompts: As many as `prompts`; "" asks for the pipeline's own default.
            guided: Whether negative prompts are used at all.
            lora: Which of the rows' LoRAs works while they are encoded.
        """
        if not self.encodes:
            guided = guided and self._takes_negative
            return self._strings(prompts, negative_prompts if guided else ())
        rows = self._embeddings(prompts, negative_prompts, guided, lora)
        arguments = {
            name: torch.cat([row[name].to(self._device, non_blocking=True) for row in rows])
            for name in rows[0]
        }
        return self._no_strings() | arguments

    def prepare(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        guided: bool,
        lora: RowLora = NO_LORA,
    ) -> None:
        """Encode what `arguments` will be asked for, as far as it is not encoded yet.

        From any thread, beside any call; where pipelines are given strings it does nothing.
        """
        if self.encodes:
            self._embeddings(prompts, negative_prompts, guided, lora)

    def _embeddings(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        guided: bool,
        lora: RowLora,
    ) -> list[dict[str, torch.Tensor]]:
        guided = guided and self._takes_negative
        return [
            self._encode_pair(prompt, negative if guided else None, lora)
            for prompt, negative in zip(prompts, negative_prompts, strict=True)
        ]

    def _strings(self, prompts: Sequence[str], negatives: Sequence[str]) -> dict[str, Any]:
        negative = {"negative_prompt": list(negatives)} if any(negatives) else {}
        return {"prompt": list(prompts)} | negative

    def _no_strings(self) -> dict[str, Any]:
        """Pipelines whose `negative_prompt` is "" by default refuse it beside embeddings."""
        names = ("prompt", "negative_prompt")
        return {
            n: None for n in names if n in pipeline_folder.call_parameters(type(self._pipeline))
        }

    def _encode_pair(
        self, prompt: str, negative_prompt: str | None, lora: RowLora
    ) -> dict[str, torch.Tensor]:
        working = self._row_loras.in_encoders(*lora)
        positive = self._once(("prompt", prompt, working), self._encode)
        if negative_prompt is None:
            return dict(positive)
        negative = self._once(
            ("negative", negative_prompt, working), lambda key: self._encode_negative(key, positive)
        )
        return {**positive, **negative}

    def _once(self, key: Key, encode: Callable[[Key], Embedding]) -> Embedding:
        """What is held under a key, or encoded now; of two threads that ask, one encodes."""
        held = self._cache.get(key)
        if held is not None:
            return held
        with self._encoding:
            return self._cache.get(key) or self._cache.put(key, encode(key))

    def _encode(self, key: Key) -> Embedding:
        _, prompt, lora = key
        if self._layout is None:
            raise SamplingError("this pipeline encodes its prompts itself")
        self._row_loras.encode_with(*(lora or NO_LORA))
        embedding = self._call(self._layout, prompt=prompt, do_classifier_free_guidance=False)
        return {name: embedding[name] for name in _positive(embedding)}

    def _encode_negative(self, key: Key, positive: Embedding) -> Embedding:
        """Encode a negative prompt beside any positive, which only lends its shape.

        It is not the same as encoding it as a prompt: SDXL may replace an empty one by zeros, and
        Sana puts an instruction before prompts only.
        """
        _, negative_prompt, lora = key
        if self._layout is None:
            raise SamplingError("this pipeline encodes its prompts itself")
        self._row_loras.encode_with(*(lora or NO_LORA))
        given = {"negative_prompt": negative_prompt} if negative_prompt else {}
        embedding = self._call(
            self._layout, prompt=None, do_classifier_free_guidance=True, **given, **positive
        )
        return {name: embedding[name] for name in _negative(embedding)}

    def _call(self, layout: tuple[str, ...], **given: Any) -> dict[str, torch.Tensor]:
        encode = self._pipeline.encode_prompt
        takes = inspect.signature(encode).parameters
        always = {"device": torch.device(self._device), "num_images_per_prompt": 1}
        arguments = self._call_defaults(takes) | always | given
        with torch.inference_mode(), self._side.entered():
            values = encode(
                **{name: self._there(v) for name, v in arguments.items() if name in takes}
            )
            if not isinstance(values, tuple) or len(values) != len(layout):
                return {}
            copies = {
                name: self._side.copy_to_host(value)
                for name, value in zip(layout, values, strict=True)
                if name != "text_ids" and isinstance(value, torch.Tensor)
            }
        return {name: copy.tensor() for name, copy in copies.items()}

    def _there(self, value: Any) -> Any:
        """A tensor on the device; anything else as it is."""
        return value.to(self._device) if isinstance(value, torch.Tensor) else value

    def _call_defaults(self, takes: Mapping[str, Any]) -> dict[str, Any]:
        """What `__call__` itself would hand to `encode_prompt`, such as Sana's instruction."""
        skipped = {"prompt", "clean_caption"}
        return {
            name: parameter.default
            for name, parameter in pipeline_folder.call_parameters(type(self._pipeline)).items()
            if name in takes and name not in skipped and parameter.default is not parameter.empty
        }

    def _find_layout(self) -> tuple[str, ...] | None:
        """The layout whose names `__call__` takes and whose shape `encode_prompt` returns."""
        if not hasattr(self._pipeline, "encode_prompt"):
            return None
        return next((layout for layout in LAYOUTS if self._fits(layout)), None)

    def _fits(self, layout: tuple[str, ...]) -> bool:
        takes = set(pipeline_folder.call_parameters(type(self._pipeline)))
        asked = {n for n in takes if n.endswith(("_embeds", "_mask")) and "ip_adapter" not in n}
        encodes = inspect.signature(self._pipeline.encode_prompt).parameters
        if _negative(layout) and "negative_prompt" not in encodes:
            return False
        if _positive(asked) != _positive(layout):
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


def _positive(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("negative_") and name != "text_ids"}


def _negative(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith("negative_")}


class EmbeddingCache:
    """The embeddings used last, in at most so many bytes of host memory; for several threads."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: OrderedDict[Hashable, Embedding] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Embedding | None:
        """What was put under the key, if it is still held."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Hashable, embedding: Embedding) -> Embedding:
        """Hold an embedding, and let go of those unused for longest."""
        with self._lock:
            self._held[key] = embedding
            self._bytes += _num_bytes(embedding)
            while self._bytes > self._max_bytes and len(self._held) > 1:
                _, dropped = self._held.popitem(last=False)
                self._bytes -= _num_bytes(dropped)
        return embedding


def _num_bytes(embedding: Embedding) -> int:
    return sum(value.nbytes for value in embedding.values())
