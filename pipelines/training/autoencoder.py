"""Recipe `autoencoder`: random windows of pictures in, an AutoencoderKL with white latents out."""

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
    encode,
    latent_size,
    latent_statistics,
    pixels_of_a_latent,
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
from nightpress.pipelines.training.events import TrainingEvent
from nightpress.pipelines.training.order import Pick
from nightpress.pipelines.training.recipes import (
    Picture,
    drawn_pictures,
    on_device,
    spare_memory,
    to_pictures,
    to_tensor,
)
from nightpress.pipelines.training.spec import AutoencoderSpec

STATISTICS_IMAGES = 2048
"""Pictures that the spread of the latents is measured over, at most."""


class AutoencoderRecipe:
    """See `pipelines.training.recipes.Recipe`."""

    looks_ahead = True

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
        spare_memory(self.autoencoder, spec.training.gradient_checkpointing)
        multiple = pixels_of_a_latent(self.autoencoder)
        require_multiple("training.resolution", spec.training.resolution, multiple)
        require_multiple("crop", spec.crop or spec.training.resolution, multiple)
        objective = AutoencoderObjective(spec.losses.gradient_weight, spec.losses.kl_weight)
        module = AutoencoderTraining(self.autoencoder, objective, spec.losses.latent_noise)
        self.module: nn.Module = on_device(module, device)

    def prepare(self, store: Store, rank: int, world_size: int) -> Iterator[TrainingEvent]:
        """Nothing is computed beforehand."""
        yield from ()

    def ready(self, store: Store) -> None:
        """Nothing to fetch."""

    def batch(self, picks: Sequence[Pick]) -> dict[str, Tensor]:
        """Windows, and the noise that their latents are sampled with."""
        training = self.spec.training
        size = self.spec.crop or training.resolution
        pictures = drawn_pictures(self.data, picks, training.resolution, training.random_flip)
        windows = [window(p, size, pick) for p, pick in zip(pictures, picks, strict=True)]
        generators = [pick.generator for pick in picks]
        return {
            "images": to_tensor(windows),
            "noise": normal(latent_size(self.autoencoder, size, size), generators),
            "blur": torch.tensor([pick.uniform for pick in picks]),
        }

    @torch.no_grad()
    def sample(self) -> tuple[list[Picture], list[str]]:
        """Pictures of the data set, each beside its way through the latents."""
        pictures, names = [], []
        for number in evenly_spaced(range(len(self.data)), self.spec.samples.num_images):
            original = self._pixels([number])
            output = decode(self.autoencoder, encode(self.autoencoder, original))
            error = (output.clamp(-1, 1) - original).square().mean()
            pictures += to_pictures(torch.cat([original, output]))
            names += [self.data.name(number), f"{psnr_db(error.item(), peak=2.0):.1f} dB"]
        return pictures, names

    @torch.no_grad()
    def save(self, folder: Path) -> None:
        """The autoencoder with its latents whitened over the data set."""
        numbers = evenly_spaced(range(len(self.data)), STATISTICS_IMAGES)
        chunks = (numbers[i : i + 16] for i in range(0, len(numbers), 16))
        batches = (self.autoencoder.encode(self._pixels(c)).latent_dist.mean for c in chunks)
        mean, std = latent_statistics(batch.cpu() for batch in batches)
        whiten_latents(self.autoencoder, mean.to(self.device), std.to(self.device))
        save_autoencoder(self.autoencoder, folder)

    def _pixels(self, numbers: Sequence[int]) -> Tensor:
        resolution = self.spec.training.resolution
        return to_tensor([self.data.pixels(n, resolution) for n in numbers]).to(self.device)


def window(picture: Picture, size: int, pick: Pick) -> Picture:
    """A (size, size, 3) part at a random place."""
    limit = picture.shape[0] - size + 1
    y, x = torch.randint(limit, (2,), generator=pick.generator).tolist()
    return picture[y : y + size, x : x + size]
