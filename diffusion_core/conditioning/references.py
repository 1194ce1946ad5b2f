"""Reference images: pictures that IP-Adapters turn into further inputs of the denoiser.

The pictures of an image are encoded alone, each distinct list of them once, so that their
embeddings never depend on the batch.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.conditioning.embedding_cache import Embedding, EmbeddingCache
from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning, Pixels
from nightpress.diffusion_core.conditioning.uploads import upload_rows
from nightpress.diffusion_core.models.loading import LoadedModel

CACHE_BYTES = 256 * 2**20
"""Host memory for the embeddings of reference images."""

OWN_REFERENCES = "give each image of a batch its own reference images"


class ReferenceEncoder:
    """Makes the reference arguments of a pipeline's `__call__`, and turns adapters on and off."""

    def __init__(self, model: LoadedModel, cache_bytes: int = CACHE_BYTES) -> None:
        self._pipeline = model.pipeline
        self._device = model.device
        self._adapters = model.references
        self._cache = EmbeddingCache(cache_bytes)

    @contextlib.contextmanager
    def around_call(
        self, pipeline: Any, images: Sequence[ConditionImages], conditioning: Conditioning
    ) -> Iterator[dict[str, Any]]:
        """Yield the arguments for a batch; within the block the pipeline takes them a row each.

        diffusers repeats `ip_adapter_image_embeds` once for every image of a batch, and then each
        image attends to the references of all. Read against diffusers 0.42.1. Relies on
        `__call__` getting what the denoiser sees from `prepare_ip_adapter_image_embeds`.

        Args:
            pipeline: the one that is called, over the components of the model's.
            images: the pictures of each image of the batch.
            conditioning: what all images of the batch share.

        Raises:
            ValueError: an image has other references than `conditioning` says.
        """
        self._adapters.use(conditioning.adapters, conditioning.reference_scales)
        if not conditioning.adapters:
            yield {}
            return
        rows = [self._encode_row(each, conditioning) for each in images]
        arguments = _joined(rows, self._device)
        prepare = patching.require(pipeline, "prepare_ip_adapter_image_embeds", OWN_REFERENCES)
        patching.require_reference(type(pipeline).__call__, prepare.__name__, OWN_REFERENCES)

        def prepared(
            _image: Any, embeds: Any, _device: Any, _repeats: int, is_guided: bool = False
        ) -> list[torch.Tensor]:
            if not is_guided:
                return list(embeds)
            negatives = arguments["negative_ip_adapter_image_embeds"]
            return [torch.cat(pair) for pair in zip(negatives, embeds, strict=True)]

        with patching.shadowed(pipeline, "prepare_ip_adapter_image_embeds", prepared):
            yield arguments

    def _encode_row(
        self, images: ConditionImages, conditioning: Conditioning
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """An image's embeddings, one (1, n, ...) for each adapter, and the negative ones."""
        numbers = tuple(len(group) for group in images.reference_images)
        if numbers != conditioning.num_references or len(numbers) != len(conditioning.adapters):
            raise ValueError(
                f"{numbers} reference images, but {conditioning.num_references} are expected for "
                f"the adapters {', '.join(conditioning.adapters)}"
            )
        encoded = [
            self._encode(group, self._adapters.takes_hidden_states(name))
            for name, group in zip(conditioning.adapters, images.reference_images, strict=True)
        ]
        return [each["positive"] for each in encoded], [each["negative"] for each in encoded]

    def _encode(self, group: tuple[Pixels, ...], hidden_states: bool) -> Embedding:
        key = (*map(_digest, group), hidden_states)
        return self._cache.get(key) or self._cache.put(key, self._encode_now(group, hidden_states))

    def _encode_now(self, group: tuple[Pixels, ...], hidden_states: bool) -> Embedding:
        """What the pipeline's own code makes of these pictures, given to it alone."""
        encode = self._pipeline.encode_image
        pictures = [Image.fromarray(picture) for picture in group]
        with torch.inference_mode():
            if hasattr(self._pipeline, "unet"):
                positive, negative = encode(pictures, self._device, 1, hidden_states)
            else:  # FLUX' negative reference is a black picture
                black = Image.new("RGB", pictures[0].size)
                positive = encode(pictures, self._device, 1)
                negative = encode([black] * len(pictures), self._device, 1)
        return {"positive": positive[None].cpu(), "negative": negative[None].cpu()}


def _digest(picture: Pixels) -> tuple[tuple[int, ...], str]:
    return picture.shape, hashlib.sha256(picture.tobytes()).hexdigest()


def _joined(
    rows: Sequence[tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]], device: str
) -> dict[str, list[torch.Tensor]]:
    """The arguments of a call: embeddings and negative ones, (B, n, ...) of each adapter."""
    columns = {
        (kind, adapter): [row[kind][adapter] for row in rows]
        for kind in (0, 1)
        for adapter in range(len(rows[0][kind]))
    }
    on_device = upload_rows(columns, device)
    positive, negative = ([on_device[key] for key in columns if key[0] == kind] for kind in (0, 1))
    return {"ip_adapter_image_embeds": positive, "negative_ip_adapter_image_embeds": negative}
