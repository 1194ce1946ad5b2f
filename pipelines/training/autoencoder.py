"""Recipe `autoencoder`: train an AutoencoderKL on random windows, and whiten its latents."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nightpress.diffusion_core.models.weight_files import fingerprint_of_tensors
from nightpress.diffusion_core.theory.psnr import psnr_db
from nightpress.diffusion_core.theory.spacing import evenly_spaced
from nightpress.diffusion_core.training import AutoencoderObjective
from nightpress.diffusion_core.training.autoencoder import (
    AutoencoderTraining,
    decode,
    downsampling_factor,
    encode,
    latent_size,
    latent_statistics,
    require_multiple,
    require_whitening,
    save_autoencoder,
    whiten_latents,
)
from nightpress.diffusion_core.training.modules import new_module, saved_module
from nightpress.diffusion_core.training.randomness import normal
from nightpress.pipelines.models.location import component_folder
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.data import PackedImages
from nightpress.pipelines.training.data.decoding import ImageArray
from nightpress.pipelines.training.events import TrainingEvent
from nightpress.pipelines.training.recipes import (
    enable_gradient_checkpointing,
    load_images,
    to_device,
    to_image_arrays,
    to_tensor,
)
from nightpress.pipelines.training.sample_order import BatchItem
from nightpress.pipelines.training.spec import AutoencoderSpec

STATISTICS_IMAGES = 2048
"""The most images over which the statistics of the latents are measured."""


class AutoencoderRecipe:
    """Implements `pipelines.training.recipes.Recipe`."""

    can_prefetch = True

    def __init__(self, spec: AutoencoderSpec, data: PackedImages, device: str) -> None:
        self.spec, self.data, self.device = spec, data, device
        source = spec.model.autoencoder
        self.autoencoder: Any
        if isinstance(source, str):
            folder = component_folder(source, spec.storage)
            self.autoencoder = saved_module(folder, ("AutoencoderKL",))
            self.base = fingerprint_of_tensors(self.autoencoder)
        else:
            self.autoencoder = new_module(source, ("AutoencoderKL",), spec.seed)
            self.base = ""
        require_whitening(self.autoencoder)
        enable_gradient_checkpointing(self.autoencoder, spec.training.gradient_checkpointing)
        multiple = downsampling_factor(self.autoencoder)
        require_multiple("training.resolution", spec.training.resolution, multiple)
        require_multiple("crop", spec.crop or spec.training.resolution, multiple)
        objective = AutoencoderObjective(spec.losses.gradient_weight, spec.losses.kl_weight)
        module = AutoencoderTraining(self.autoencoder, objective, spec.losses.latent_noise)
        self.module: nn.Module = to_device(module, device)

    def prepare(self, store: Store, rank: int, world_size: int) -> Iterator[TrainingEvent]:
        """Do nothing: this recipe needs no preparation."""
        yield from ()

    def load_prepared(self, store: Store) -> None:
        """Do nothing: this recipe needs no preparation."""

    def batch(self, items: Sequence[BatchItem]) -> dict[str, Tensor]:
        """Image windows, the noise that samples their latents, and shares of `latent_noise`."""
        training = self.spec.training
        size = self.spec.crop or training.resolution
        images = load_images(self.data, items, training.resolution, training.random_flip)
        windows = [random_window(i, size, item) for i, item in zip(images, items, strict=True)]
        generators = [item.generator for item in items]
        return {
            "images": to_tensor(windows),
            "noise": normal(latent_size(self.autoencoder, size, size), generators),
            "blur": torch.tensor([item.uniform for item in items]),
        }

    @torch.no_grad()
    def sample(self) -> tuple[list[ImageArray], list[str]]:
        """Images of the data set, each beside its reconstruction and its PSNR."""
        images, captions = [], []
        for index in evenly_spaced(range(len(self.data)), self.spec.samples.num_images):
            original = self._pixels([index])
            output = decode(self.autoencoder, encode(self.autoencoder, original))
            error = (output.clamp(-1, 1) - original).square().mean()
            images += to_image_arrays(torch.cat([original, output]))
            captions += [self.data.name(index), f"{psnr_db(error.item(), peak=2.0):.1f} dB"]
        return images, captions

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """Whiten the latents over the data set, and write the autoencoder."""
        indices = evenly_spaced(range(len(self.data)), STATISTICS_IMAGES)
        chunks = (indices[i : i + 16] for i in range(0, len(indices), 16))
        batches = (self.autoencoder.encode(self._pixels(c)).latent_dist.mean for c in chunks)
        mean, std = latent_statistics(batch.cpu() for batch in batches)
        whiten_latents(self.autoencoder, mean.to(self.device), std.to(self.device))
        save_autoencoder(self.autoencoder, folder)

    def _pixels(self, indices: Sequence[int]) -> Tensor:
        resolution = self.spec.training.resolution
        return to_tensor([self.data.pixels(i, resolution) for i in indices]).to(self.device)


def random_window(image: ImageArray, size: int, item: BatchItem) -> ImageArray:
    """Cut a (size, size, 3) window at a random position."""
    limit = image.shape[0] - size + 1
    y, x = torch.randint(limit, (2,), generator=item.generator).tolist()
    return image[y : y + size, x : x + size]
