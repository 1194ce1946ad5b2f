"""Train a ControlNet: a copy of a frozen U-Net's encoder that steers it by a control picture.

Zhang et al. 2023. The copy's outputs pass through convolutions that start at zero, so an untrained
ControlNet changes nothing.

Read against diffusers 0.42.1. Relies on `ControlNetModel.from_unet`, whose result here also gets
the number of heads of the pooled prompt (`addition_embed_type_num_heads`), which `from_unet` leaves
at its default; on the names that the arguments of `ControlNetModel.forward` share with those of
`UNet2DConditionModel.forward`; and on control pictures in [0, 1], as the ControlNet pipelines pass
them.
"""

import copy
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from nightpress.diffusion_core.errors import SettingsError, UnsupportedModel, one_line
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling import schedulers
from nightpress.diffusion_core.training.frozen_base import FrozenBaseTraining
from nightpress.diffusion_core.training.modules import WRONG_ARGUMENTS
from nightpress.diffusion_core.training.weighting import TimeSampling

PIPELINES = {
    "StableDiffusionPipeline": "StableDiffusionControlNetPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLControlNetPipeline",
}
"""The models that a ControlNet can be trained for, and the pipelines that sample with one."""

EMBEDDING_CHANNELS = (16, 32, 96, 256)
"""Channels at each resolution of the network that embeds control pictures; Zhang et al. 2023."""

CONTROL = "control"
"""Name of the control pictures among the conditioning of a batch."""


EmbeddingInit = Literal["zero", "kaiming"]
"""How the network that embeds control pictures starts. `zero`: its last layer is zero, as in the
paper, and the picture enters the copy only little by little. `kaiming`: every layer keeps the
variance of its input (He et al. 2015, eq. 10), and the last one raises it by `EMBEDDING_GAIN`: the
picture outweighs the noisy latents from the first step on. Neither changes what an untrained
ControlNet does."""


EMBEDDING_GAIN = 8.0
"""Scale of the last layer with `kaiming`. The embedding is added to features of noisy latents,
and the convolutions that start at zero pass on both with the same weights: they learn to pass on
the picture soonest if it is the stronger of the two."""

TrainedLayers = Literal["all", "new"]
"""Which layers train. `new`: those that are not copies, which are a few percent of the weights: the
network that embeds control pictures and the convolutions through which the outputs pass."""

NEW_LAYERS = ("controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block")


@dataclass(frozen=True)
class ControlNetSettings:
    """Settings of a new ControlNet and its loss, named as in diffusers' training scripts."""

    conditioning_embedding_out_channels: tuple[int, ...] = ()
    """Channels of the network that embeds control pictures, from the full resolution down to that
    of the latents; if empty, `EMBEDDING_CHANNELS`, made as long as the autoencoder requires."""
    embedding_init: EmbeddingInit = "zero"
    trained_layers: TrainedLayers = "all"
    snr_gamma: float | None = None
    time_sampling: TimeSampling = field(default_factory=TimeSampling)
    seed: int = 0
    """Seed of the initial weights that are not copied from the U-Net."""


class ControlNetTraining(FrozenBaseTraining):
    """A frozen U-Net and a trainable ControlNet in float32.

    Args:
        model: its U-Net is frozen in place.
        settings: of the ControlNet and the loss.
        height, width: of the images, in pixels; all images have one size.

    Raises:
        UnsupportedModel: ControlNets cannot be trained for this kind of model.
        SettingsError: the model does not support the size, or the settings do not fit it.
    """

    def __init__(
        self, model: LoadedModel, settings: ControlNetSettings, height: int, width: int
    ) -> None:
        super().__init__(
            model,
            _denoiser_of(model),
            height,
            width,
            snr_gamma=settings.snr_gamma,
            time_sampling=settings.time_sampling,
        )
        self.denoiser.requires_grad_(False)
        channels = _embedding_channels(settings, height // self.call_template.sample_shape[-2])
        controlnet = new_controlnet(self.denoiser, channels, settings.seed, settings.embedding_init)
        self.controlnet = controlnet.to(next(self.denoiser.parameters()).device)
        if settings.trained_layers == "new":
            for name, parameter in self.controlnet.named_parameters():
                parameter.requires_grad_(name.startswith(NEW_LAYERS))
        self._takes = set(inspect.signature(type(self.controlnet).forward).parameters)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, but never on the frozen U-Net."""
        super().train(mode)
        self.denoiser.eval()
        return self

    def predict(self, x_t: Tensor, times: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """The prediction for noisy latents (B, C, h, w), of the same shape in float32.

        Args:
            x_t: the noisy latents.
            times: (B,) timesteps.
            conditioning: from `encode_prompts`, and under `CONTROL` the control pictures
                (B, 3, H, W) in [0, 1].
        """
        prompts = {name: value for name, value in conditioning.items() if name != CONTROL}
        if x_t.device.type == "cpu":
            x_t = x_t.to(memory_format=torch.channels_last)
        down, mid = self._residuals(x_t, times, prompts, conditioning[CONTROL])
        dtype = getattr(torch, self._model.dtype)
        arguments = self.call_template.arguments(x_t.to(dtype), times, prompts)
        arguments["down_block_additional_residuals"] = tuple(each.to(dtype) for each in down)
        arguments["mid_block_additional_residual"] = mid.to(dtype)
        return self._output(arguments, num_channels=x_t.shape[1])

    def pipeline(self) -> Any:
        """A pipeline that samples with the current weights; it shares those of the base model."""
        import diffusers

        base = self._model.pipeline
        owner = getattr(diffusers, PIPELINES[self._owner.__name__])
        dtype = getattr(torch, self._model.dtype)
        controlnet: Any = self.controlnet
        if controlnet.dtype != dtype:
            controlnet = copy.deepcopy(controlnet).to(dtype)
        parts = {
            **base.config,
            **base.components,
            "controlnet": controlnet,
            "scheduler": schedulers.make("default", self._model.scheduler_config),
        }
        takes = inspect.signature(owner.__init__).parameters
        pipeline = owner(**{name: part for name, part in parts.items() if name in takes})
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def save(self, folder: Path) -> None:
        """Write the ControlNet alone, as `ControlNetModel.from_pretrained` reads it."""
        self.controlnet.save_pretrained(folder, safe_serialization=True)

    def _residuals(
        self, x_t: Tensor, times: Tensor, prompts: dict[str, Tensor], control: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """What the ControlNet adds to the U-Net's skip connections and to its middle block."""
        floats = {
            name: value.float() if value.is_floating_point() else value
            for name, value in prompts.items()
        }
        arguments = self.call_template.arguments(x_t.float(), times, floats)
        known = {name: value for name, value in arguments.items() if name in self._takes}
        down, mid = self.controlnet(
            **known | {"controlnet_cond": control.float(), "return_dict": False}
        )
        return down, mid


def new_controlnet(
    unet: Any, channels: tuple[int, ...], seed: int, embedding_init: EmbeddingInit = "zero"
) -> Any:
    """Create an untrained float32 ControlNet for a U-Net; the same seed gives the same weights.

    Args:
        unet: a `UNet2DConditionModel`.
        channels: of the network that embeds control pictures.
        seed: of the weights that are not copied.
        embedding_init: how that network starts.

    Raises:
        UnsupportedModel: diffusers has no ControlNet for such a U-Net.
    """
    from diffusers import ControlNetModel

    try:
        with torch.random.fork_rng(devices=[]):  # it would touch every GPU of the machine
            torch.manual_seed(seed)
            made = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=channels)
            config = {name: value for name, value in made.config.items() if name[0] != "_"}
            config["addition_embed_type_num_heads"] = unet.config.addition_embed_type_num_heads
            controlnet = ControlNetModel(**config)
            if embedding_init == "kaiming":
                _init_kaiming(controlnet.controlnet_cond_embedding)
                made.controlnet_cond_embedding = controlnet.controlnet_cond_embedding
        controlnet.load_state_dict(made.state_dict())
    except (*WRONG_ARGUMENTS, RuntimeError) as error:
        raise UnsupportedModel(
            f"diffusers makes no ControlNet for this U-Net: {one_line(error, 300)}"
        ) from error
    return controlnet.float()


def _init_kaiming(embedding: Any) -> None:
    """Draw the weights anew: each layer's output varies as its input does, the last one's more."""
    for layer in embedding.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    with torch.no_grad():
        embedding.conv_out.weight.mul_(EMBEDDING_GAIN)


def _denoiser_of(model: LoadedModel) -> str:
    """The pipeline's name for its U-Net."""
    owner = type(model.pipeline).__name__
    if owner not in PIPELINES:
        raise UnsupportedModel(
            f"{owner}: a ControlNet cannot be trained for it, only for {' and '.join(PIPELINES)}"
        )
    return "unet"


def _embedding_channels(settings: ControlNetSettings, factor: int) -> tuple[int, ...]:
    """The channels at each resolution from the pixels down to the latents.

    Args:
        settings: with or without channels.
        factor: pixels per latent, along a side.

    Raises:
        SettingsError: there are more or fewer channels than resolutions.
        UnsupportedModel: the factor is not a power of two.
    """
    number = factor.bit_length()
    if factor != 2 ** (number - 1):
        raise UnsupportedModel(
            f"a ControlNet halves the control picture until it is as large as the latents, but a "
            f"latent of this model is {factor} pixels wide"
        )
    chosen = settings.conditioning_embedding_out_channels
    if not chosen:
        return (*EMBEDDING_CHANNELS, *EMBEDDING_CHANNELS[-1:] * number)[:number]
    if len(chosen) != number:
        raise SettingsError(
            f"conditioning_embedding_out_channels has {len(chosen)} numbers; this model takes "
            f"{number}, because a latent is {factor} pixels wide"
        )
    return chosen
