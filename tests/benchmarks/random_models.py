"""Full-size models with random weights: Stable Diffusion 1.5, SDXL and FLUX.1.

The architectures are those of the papers and model cards, and there is a narrow version of each for
machines without an accelerator. Nothing is downloaded or saved: networks are created on their
device, in their precision, with the initialization of their classes, which keeps values finite.
Vocabularies are single letters, and prompts are padded to their full length as usual.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from support import tiny_models

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.models.family_rules import Guidance
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.silence_libraries import no_progress_bars

Scale = Literal["full", "tiny"]

TINY_SIDE, TINY_STEPS = 128, 4
"""Side in pixels and denoising steps of the images of narrow models."""


@dataclass(frozen=True)
class Network:
    """A component with weights: its class, its configuration, and the changes to make it narrow."""

    library: Literal["diffusers", "transformers"]
    class_name: str
    config: Mapping[str, Any]
    tiny: Mapping[str, Any]

    def create(self, scale: Scale) -> Any:
        """The network with random weights, on torch's default device and in its default dtype."""
        import diffusers
        import transformers

        owner = getattr(
            {"diffusers": diffusers, "transformers": transformers}[self.library], self.class_name
        )
        config = {**self.config, **(self.tiny if scale == "tiny" else {})}
        if self.library == "transformers":
            return owner(owner.config_class(**config)).eval()
        return owner(**config).eval()


@dataclass(frozen=True)
class Architecture:
    """A model family's pipeline, and the settings that it is measured with."""

    title: str
    pipeline: str
    networks: Mapping[str, Network]
    """Component name -> network."""
    tokenizers: Mapping[str, Literal["clip", "t5"]]
    scheduler: tuple[str, Mapping[str, Any]]
    """Class and configuration of the scheduler for every row."""
    side: int
    """Side of a square image in pixels."""
    num_inference_steps: int
    guidance_scale: float
    size_multiple: int
    extra_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the pipeline's constructor."""

    def side_at(self, scale: Scale) -> int:
        """Side of an image in pixels."""
        return TINY_SIDE if scale == "tiny" else self.side

    def steps_at(self, scale: Scale) -> int:
        """Denoising steps."""
        return TINY_STEPS if scale == "tiny" else self.num_inference_steps


def make(
    architecture: Architecture,
    scale: Scale,
    dtype: str,
    device: str,
    shared: Mapping[str, Any] | None = None,
) -> Any:
    """Make the pipeline with random weights, each network from seed 0.

    A network so has the same weights whichever others are shared.

    Args:
        architecture: the architecture to make.
        scale: full size or narrow.
        dtype: torch's name of the dtype of all weights.
        device: `cuda`, `cpu`, or `meta` for no weights at all.
        shared: existing components to reuse, such as text encoders.
    """
    import diffusers

    shared = shared or {}
    with no_progress_bars(), torch_defaults(device, dtype):
        parts = {
            name: _seeded(network, scale).requires_grad_(False)
            for name, network in architecture.networks.items()
            if name not in shared
        }
    tokenizers = {name: TOKENIZERS[kind]() for name, kind in architecture.tokenizers.items()}
    kind, config = architecture.scheduler
    pipeline = getattr(diffusers, architecture.pipeline)(
        **tokenizers,
        **parts,
        **shared,
        **architecture.extra_arguments,
        scheduler=getattr(diffusers, kind)(**config),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _seeded(network: Network, scale: Scale) -> Any:
    torch.manual_seed(0)
    return network.create(scale)


def twin(pipeline: Any, architecture: Architecture) -> Any:
    """Another pipeline with the same networks, but its own scheduler and settings."""
    kind = type(pipeline)
    parts = {
        **pipeline.components,
        "scheduler": type(pipeline.scheduler).from_config(pipeline.scheduler.config),
    }
    other = kind(**{**parts, **architecture.extra_arguments})
    other.set_progress_bar_config(disable=True)
    return other


def loaded(
    pipeline: Any, architecture: Architecture, dtype: str, device: str, speed: SpeedSpec
) -> LoadedModel:
    """The pipeline as `Sampler` takes it; `speed` must be applied to it already."""
    scheduler = pipeline.scheduler
    is_flux = architecture.pipeline == "FluxPipeline"
    guidance = Guidance(takes_negative_prompt=not is_flux, switch_off=is_flux)
    return LoadedModel(
        pipeline=pipeline,
        device=device,
        dtype=dtype,
        size_multiple=architecture.size_multiple,
        scheduler_config={**scheduler.config, "_class_name": type(scheduler).__name__},
        guidance=guidance,
        speed=speed,
    )


@contextlib.contextmanager
def torch_defaults(device: str, dtype: str) -> Iterator[None]:
    """Make torch create tensors on this device and in this dtype until the block ends."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def clip(class_name: str, **config: Any) -> Network:
    """A text encoder of the CLIP family, for the tokens of `tiny_models.clip_tokenizer`."""
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    common = {"vocab_size": 49408, "max_position_embeddings": 77}
    return Network("transformers", class_name, common | tokens | config, TINY_TEXT)


def autoencoder(**config: Any) -> Network:
    """The autoencoder of Rombach et al. 2022, with 8 x 8 pixels to a latent."""
    common = {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return Network(
        "diffusers", "AutoencoderKL", common | config, {"block_out_channels": (32, 32, 64, 64)}
    )


TINY_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "projection_dim": 32,
    "vocab_size": 128,
}

TOKENIZERS = {"clip": tiny_models.clip_tokenizer, "t5": tiny_models.t5_tokenizer}

CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
"""Radford et al. 2021, ViT-L/14's text tower."""

EULER = (
    "EulerDiscreteScheduler",
    tiny_models.SD_BETAS | {"timestep_spacing": "leading", "steps_offset": 1},
)

SD15 = Architecture(
    title="Stable Diffusion 1.5",
    pipeline="StableDiffusionPipeline",
    networks={
        "text_encoder": clip("CLIPTextModel", **CLIP_L),
        "unet": Network(
            "diffusers",
            "UNet2DConditionModel",
            {
                "sample_size": 64,
                "block_out_channels": (320, 640, 1280, 1280),
                "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
                "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
                "layers_per_block": 2,
                "cross_attention_dim": 768,
                "attention_head_dim": 8,
            },
            {"block_out_channels": (32, 64, 128, 128), "cross_attention_dim": 32},
        ),
        "vae": autoencoder(latent_channels=4, sample_size=512, scaling_factor=0.18215),
    },
    tokenizers={"tokenizer": "clip"},
    scheduler=EULER,
    side=512,
    num_inference_steps=20,
    guidance_scale=7.5,
    size_multiple=8,
    extra_arguments={
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    },
)
"""Rombach et al. 2022. Twenty Euler steps, like SDXL."""

SDXL = Architecture(
    title="SDXL, in MLPerf's setting",
    pipeline="StableDiffusionXLPipeline",
    networks={
        "text_encoder": clip("CLIPTextModel", **CLIP_L),
        "text_encoder_2": clip(
            "CLIPTextModelWithProjection",
            hidden_size=1280,
            intermediate_size=5120,
            num_hidden_layers=32,
            num_attention_heads=20,
            projection_dim=1280,
            hidden_act="gelu",
        ),
        "unet": Network(
            "diffusers",
            "UNet2DConditionModel",
            {
                "sample_size": 128,
                "block_out_channels": (320, 640, 1280),
                "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
                "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
                "layers_per_block": 2,
                "transformer_layers_per_block": (1, 2, 10),
                "attention_head_dim": (5, 10, 20),
                "cross_attention_dim": 2048,
                "use_linear_projection": True,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 6 * 256 + 1280,
            },
            {
                "block_out_channels": (32, 64, 128),
                "transformer_layers_per_block": (1, 1, 2),
                "attention_head_dim": (1, 2, 4),
                "cross_attention_dim": 64,
                "addition_time_embed_dim": 32,
                "projection_class_embeddings_input_dim": 6 * 32 + 32,
            },
        ),
        "vae": autoencoder(latent_channels=4, sample_size=1024, scaling_factor=0.13025),
    },
    tokenizers={"tokenizer": "clip", "tokenizer_2": "clip"},
    scheduler=EULER,
    side=1024,
    num_inference_steps=20,
    guidance_scale=8.0,
    size_multiple=8,
    extra_arguments={"add_watermarker": False},
)
"""Podell et al. 2023. MLPerf Inference: 1024 x 1024, 20 Euler steps, guidance 8."""

FLUX = Architecture(
    title="FLUX.1",
    pipeline="FluxPipeline",
    networks={
        "text_encoder": clip("CLIPTextModel", **CLIP_L),
        "text_encoder_2": Network(
            "transformers",
            "T5EncoderModel",
            {
                "vocab_size": 32128,
                "d_model": 4096,
                "d_kv": 64,
                "d_ff": 10240,
                "num_layers": 24,
                "num_heads": 64,
                "feed_forward_proj": "gated-gelu",
            },
            {
                "vocab_size": 64,
                "d_model": 64,
                "d_kv": 16,
                "d_ff": 128,
                "num_layers": 2,
                "num_heads": 4,
            },
        ),
        "transformer": Network(
            "diffusers",
            "FluxTransformer2DModel",
            {
                "patch_size": 1,
                "in_channels": 64,
                "num_layers": 19,
                "num_single_layers": 38,
                "attention_head_dim": 128,
                "num_attention_heads": 24,
                "joint_attention_dim": 4096,
                "pooled_projection_dim": 768,
                "guidance_embeds": True,
                "axes_dims_rope": (16, 56, 56),
            },
            {
                "num_layers": 2,
                "num_single_layers": 4,
                "attention_head_dim": 32,
                "num_attention_heads": 4,
                "joint_attention_dim": 64,
                "pooled_projection_dim": 32,
                "axes_dims_rope": (8, 12, 12),
            },
        ),
        "vae": autoencoder(
            latent_channels=16,
            sample_size=1024,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
    },
    tokenizers={"tokenizer": "clip", "tokenizer_2": "t5"},
    scheduler=(
        "FlowMatchEulerDiscreteScheduler",
        {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15},
    ),
    side=1024,
    num_inference_steps=28,
    guidance_scale=3.5,
    size_multiple=16,
)
"""Esser et al. 2024 and Black Forest Labs' published configuration; guidance is distilled."""

ARCHITECTURES = {"sd15": SD15, "sdxl": SDXL, "flux": FLUX}
