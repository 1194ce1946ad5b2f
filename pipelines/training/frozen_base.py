"""What the recipes share that train something for a model whose own weights stay frozen."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.models.loading import LoadedModel, describe, load
from nightpress.diffusion_core.models.precision import trainable_dtype
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.training.frozen_base import FrozenBaseTraining
from nightpress.diffusion_core.training.randomness import normal
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.data import PackedImages
from nightpress.pipelines.training.events import TrainingEvent
from nightpress.pipelines.training.image_latents import ImageLatents
from nightpress.pipelines.training.recipes import (
    choose_caption,
    cut_captions,
    enable_gradient_checkpointing,
)
from nightpress.pipelines.training.sample_order import BatchItem
from nightpress.pipelines.training.spec import FrozenBaseSpec

ENCODE_BATCH = 4

Training = TypeVar("Training", bound=FrozenBaseTraining)


class FrozenBaseRecipe(Generic[Training]):
    """Implements `pipelines.training.recipes.Recipe`, except `sample`.

    Args:
        spec: the job.
        data: the images.
        device: where the model computes.
        what: what is trained, as messages name it: `a LoRA`.
        new_training: makes the module that trains from the loaded model.

    Raises:
        SettingsError: the job has model settings with which nothing can be trained.
    """

    can_prefetch = False  # the pipeline that encodes prompts contains the denoiser in training

    def __init__(
        self,
        spec: FrozenBaseSpec,
        data: PackedImages,
        device: str,
        what: str,
        new_training: Callable[[LoadedModel], Training],
    ) -> None:
        _require_trainable(spec.model, what)
        dtype = trainable_dtype(spec.model.dtype, device)
        spec = spec.model_copy(update={"model": spec.model.model_copy(update={"dtype": dtype})})
        self.data, self._empty = data, spec.schedule.proportion_empty_prompts
        folder = locate(spec.model, spec.storage)
        self.info = describe(folder, spec.model, device=device)
        if self.info.clips is not None:
            raise SettingsError(
                f"model {spec.model.source}: {self.info.pipeline} makes clips, so {what} cannot be "
                "trained on images"
            )
        if "text" not in self.info.modes:
            raise SettingsError(
                f"model {spec.model.source}: {self.info.pipeline} makes no image from text alone, "
                f"so {what} cannot be trained on captions"
            )
        self.base = self.info.fingerprint
        self.model = load(folder, spec.model, device)
        self.training = new_training(self.model)
        enable_gradient_checkpointing(self.training.denoiser, spec.training.gradient_checkpointing)
        self.module: nn.Module = self.training
        self.latents = ImageLatents(
            data,
            spec.training,
            lambda images: self.training.encode_images(images).cpu(),
            encoder_fingerprint=self.base,
            cached=not spec.training.random_flip,
            batch_size=ENCODE_BATCH,
        )

    def prepare(self, store: Store, rank: int, world_size: int) -> Iterator[TrainingEvent]:
        """Look for captions that are cut, and encode this worker's share of the images."""
        if rank == 0:
            yield from cut_captions(self.data, self.info.prompts.cut)
        yield from self.latents.prepare(store, rank, world_size)

    def load_prepared(self, store: Store) -> None:
        """Read the latents that all workers have encoded."""
        self.latents.load_prepared(store)

    def batch(self, items: Sequence[BatchItem]) -> dict[str, Tensor]:
        """Latents, noise, times and prompt embeddings."""
        captions = [choose_caption(self.data, item, self._empty) for item in items]
        x0 = self.latents.batch(items)
        uniforms = torch.tensor([item.uniform for item in items])
        return {
            "x0": x0,
            "noise": normal(tuple(x0.shape[1:]), [item.generator for item in items]),
            "times": self.training.objective.timesteps(uniforms),
            **self.training.encode_prompts(captions),
        }

    def save(self, folder: Path) -> None:
        """Write what was trained alone, in diffusers' layout."""
        self.training.save(folder)


def _require_trainable(model: ModelSpec, what: str) -> None:
    """Refuse model settings with which nothing can be trained."""
    if model.all_loras:
        raise SettingsError(
            f"model.loras and model.row_loras are not allowed: {what} is trained on a model "
            "without LoRAs"
        )
    for key, others in (
        ("controlnets", "ControlNets"),
        ("references", "IP-Adapters"),
        ("embeddings", "textual inversions"),
    ):
        if getattr(model, key):
            raise SettingsError(
                f"model.{key} are not allowed: {what} is trained on a model without {others}"
            )
    if model.memory.moves_networks or model.prompts.chosen():
        raise SettingsError(
            f"model.memory and model.prompts are not allowed: {what} is trained on whole networks "
            "and literal prompts"
        )
    if model.ways.chosen():
        raise SettingsError(
            f"model.speed is not allowed: {what} is trained on the unmodified model"
        )
    if "prompts" in model.model_fields_set:
        raise SettingsError(
            "model.prompts is not allowed: a caption that is longer than the model reads is cut, "
            "and training says how many are"
        )
    if model.dtype == "float16":
        raise SettingsError(
            "model.dtype float16 is not allowed: gradients underflow in it; use bfloat16 or float32"
        )
