"""What a recipe provides to the training loop, and what the recipes share."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.prompts import Cut
from nightpress.diffusion_core.theory.guidance import drop_text
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.data import PackedImages
from nightpress.pipelines.training.data.decoding import ImageArray
from nightpress.pipelines.training.events import CaptionsCut, TrainingEvent
from nightpress.pipelines.training.sample_order import BatchItem


class Recipe(Protocol):
    """What the training loop needs from a recipe; created inside the worker, on its device."""

    module: nn.Module
    """`module(**batch)` returns the loss terms; its parameters that require gradients train."""
    base: str
    """Fingerprint of the initial weights; empty if all of them are new."""
    can_prefetch: bool
    """Whether a thread may prepare the next batch while the module computes."""

    def prepare(self, store: Store, rank: int, world_size: int) -> Iterator[TrainingEvent]:
        """Compute this worker's share of what is needed before the first step."""
        ...

    def load_prepared(self, store: Store) -> None:
        """Load the results of `prepare`; called when every worker has finished it."""
        ...

    def batch(self, items: Sequence[BatchItem]) -> dict[str, Tensor]:
        """The arguments of `module`, on the CPU."""
        ...

    def sample(self) -> tuple[list[ImageArray], list[str]]:
        """Images that show the progress of training, and their captions."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model with its current weights."""
        ...


def to_device(module: nn.Module, device: str) -> nn.Module:
    """Move a module to its device, in the memory format that is fastest for convolutions."""
    return module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def enable_gradient_checkpointing(network: Any, enabled: bool) -> None:
    """Recompute activations in the backward pass instead of storing them; Chen et al. 2016.

    Raises:
        SettingsError: the network does not support it.
    """
    if not enabled:
        return
    if not getattr(network, "_supports_gradient_checkpointing", False):
        raise SettingsError(
            f"training.gradient_checkpointing: {type(network).__name__} does not support it"
        )
    network.enable_gradient_checkpointing()


def to_tensor(images: Sequence[ImageArray]) -> Tensor:
    """Convert (H, W, 3) uint8 images to one (B, 3, H, W) tensor in [-1, 1]."""
    pixels = torch.from_numpy(np.stack(images))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_image_arrays(images: Tensor) -> list[ImageArray]:
    """Convert a (B, 3, H, W) tensor in [-1, 1] to (H, W, 3) uint8 images."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def load_images(
    data: PackedImages, items: Sequence[BatchItem], resolution: int, random_flip: bool
) -> list[ImageArray]:
    """Load the images of a batch; with `random_flip`, mirror half of them at random."""
    images = [data.pixels(item.image, resolution) for item in items]
    if not random_flip:
        return images
    flips = [bool(torch.rand((), generator=item.generator) < 0.5) for item in items]
    return [
        np.ascontiguousarray(image[:, ::-1]) if flip else image
        for image, flip in zip(images, flips, strict=True)
    ]


def choose_caption(data: PackedImages, item: BatchItem, proportion_empty: float) -> str:
    """Pick one of the image's captions at random, or drop it with the given probability."""
    captions = data.captions(item.image)
    index = int(torch.randint(len(captions), (), generator=item.generator))
    return drop_text([captions[index]], proportion_empty, item.generator)[0]


def cut_captions(data: PackedImages, cut: Callable[[str], Cut | None]) -> Iterator[CaptionsCut]:
    """Say how many images have a caption that is not read to its end, if any has.

    Args:
        data: the images.
        cut: what is lost of a caption; None if nothing is.
    """
    cuts = ([cut(text) for text in data.captions(i)] for i in range(len(data)))
    lost = [found[0].lost for each in cuts if (found := [cut for cut in each if cut])]
    if lost:
        yield CaptionsCut(len(lost), lost[0])


def sample_prompts(data: PackedImages, prompts: Sequence[str], num: int) -> list[str]:
    """The job's prompts; without any, the first captions of `num` evenly spaced images."""
    if prompts:
        return list(prompts)
    return [data.captions(image)[0] for image in sample_images(data, num)]


def sample_images(data: PackedImages, num: int) -> list[int]:
    """The numbers of `num` evenly spaced images, or of all images if there are fewer."""
    indices: list[int] = np.linspace(0, len(data) - 1, min(num, len(data))).astype(int).tolist()
    return indices
