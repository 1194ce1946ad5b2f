"""The recipes that train a whole network: from a job and pictures to batches, samples and a model.

Owns what each recipe takes from the data, what it shows while it trains, and what it leaves at
the end. What one step computes, `diffusion_core.training` knows.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.theory.guidance import drop_text
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.data import PackedImages
from nightpress.pipelines.training.events import TrainingEvent
from nightpress.pipelines.training.order import Pick

Picture = NDArray[np.uint8]


class Recipe(Protocol):
    """What the loop needs of a recipe; made inside the worker, on its device."""

    module: nn.Module
    """`module(**batch)` gives the loss terms; its parameters that require gradients are trained."""
    base: str
    """Fingerprint of the weights that it begins from; empty where all are new."""
    looks_ahead: bool
    """Whether a thread may make the next batch while the networks are at work on this one."""

    def prepare(self, store: Store, rank: int, world_size: int) -> Iterator[TrainingEvent]:
        """This worker's share of what is computed once, before the first step."""
        ...

    def ready(self, store: Store) -> None:
        """Called when all workers have prepared."""
        ...

    def batch(self, picks: Sequence[Pick]) -> dict[str, Tensor]:
        """What `module` is called with, on the CPU."""
        ...

    def sample(self) -> tuple[list[Picture], list[str]]:
        """Pictures that show how far it is, and what stands under each."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model as it is now."""
        ...


def on_device(module: nn.Module, device: str) -> nn.Module:
    """The network where it is trained, its convolutions laid out for speed."""
    return module.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def spare_memory(network: Any, wanted: bool) -> None:
    """Compute activations twice instead of keeping them, if wanted; Chen et al. 2016.

    Raises:
        SettingsError: diffusers cannot do that with this network.
    """
    if not wanted:
        return
    if not getattr(network, "_supports_gradient_checkpointing", False):
        raise SettingsError(
            f"training.gradient_checkpointing: {type(network).__name__} does not support it"
        )
    network.enable_gradient_checkpointing()


def to_tensor(pictures: Sequence[Picture]) -> Tensor:
    """(B, 3, H, W) in [-1, 1] of (H, W, 3) bytes."""
    pixels = torch.from_numpy(np.stack(pictures))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(images: Tensor) -> list[Picture]:
    """(H, W, 3) bytes of (B, 3, H, W) in [-1, 1]."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def drawn_pictures(
    data: PackedImages, picks: Sequence[Pick], resolution: int, random_flip: bool
) -> list[Picture]:
    """The pictures of the picks, some of them mirrored."""
    pictures = [data.pixels(pick.image, resolution) for pick in picks]
    if not random_flip:
        return pictures
    mirrored = [bool(torch.rand((), generator=pick.generator) < 0.5) for pick in picks]
    return [
        np.ascontiguousarray(picture[:, ::-1]) if flip else picture
        for picture, flip in zip(pictures, mirrored, strict=True)
    ]


def drawn_caption(data: PackedImages, pick: Pick, proportion_empty: float) -> str:
    """One of the picture's captions, or none."""
    captions = data.captions(pick.image)
    which = int(torch.randint(len(captions), (), generator=pick.generator))
    return drop_text([captions[which]], proportion_empty, pick.generator)[0]


def sample_prompts(data: PackedImages, prompts: Sequence[str], num: int) -> list[str]:
    """The prompts asked for, else first captions of pictures spread over the data set."""
    if prompts:
        return list(prompts)
    places = np.linspace(0, len(data) - 1, min(num, len(data))).astype(int).tolist()
    return [data.captions(place)[0] for place in places]


def advice(num_inference_steps: int, guidance_scale: float) -> Mapping[str, Any]:
    """What `nightpress.json` in a model folder says."""
    return {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
