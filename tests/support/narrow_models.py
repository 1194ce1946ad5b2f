"""Narrow models with the proportions of Stable Diffusion, whose configurations follow from shapes.

Unlike the tiny models they have what their makers published: the number of attention heads, the
groups of the normalization, the activations of the text encoders.
"""

from pathlib import Path
from typing import Any

import torch
from support import ldm_checkpoints
from support.ldm_checkpoints import Tensors
from support.tiny_models import SD_BETAS, clip_tokenizer, clip_vocabulary

NAMES = ("sd1", "sd1-inpaint", "sd2", "sd2-v", "sdxl", "sdxl-inpaint", "refiner")


def make(name: str) -> Any:
    """A pipeline with weights from seed 0."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    try:
        return MAKERS[name]()
    finally:
        torch.set_rng_state(state)


def save(name: str, folder: Path) -> Path:
    """Save the pipeline as a diffusers folder."""
    make(name).save_pretrained(folder)
    return folder


def checkpoint(name: str, pipeline: Any) -> Tensors:
    """The same weights in LDM's layout."""
    return {"sd1": ldm_checkpoints.sd1, "sd2": ldm_checkpoints.sd2}.get(
        name[:3], ldm_checkpoints.sdxl
    )(pipeline)


def _unet(widths: tuple[int, ...], attends: tuple[bool, ...], **settings: Any) -> Any:
    from diffusers import UNet2DConditionModel

    kinds = ["CrossAttnDownBlock2D" if each else "DownBlock2D" for each in attends]
    return UNet2DConditionModel(
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=kinds,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(kinds)],
        cross_attention_dim=settings.pop("cross_attention_dim", 64),
        **settings,
    )


def _vae(is_xl: bool = False) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        sample_size=1024 if is_xl else 512,
        scaling_factor=0.13025 if is_xl else 0.18215,
    )


def _text(activation: str, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(clip_vocabulary()),
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=1,
        num_hidden_layers=2,
        projection_dim=64,
        max_position_embeddings=77,
        hidden_act=activation,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def _sd(unet: Any, text: Any, **scheduler: Any) -> Any:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=text,
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=PNDMScheduler(
            **SD_BETAS, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False, **scheduler
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sd1(**unet: Any) -> Any:
    network = _unet((32, 64), (True, False), sample_size=64, attention_head_dim=8, **unet)
    return _sd(network, _text("quick_gelu"))


def sd2(sample_size: int = 64, **scheduler: Any) -> Any:
    network = _unet(
        (64, 128),
        (True, False),
        sample_size=sample_size,
        attention_head_dim=(1, 2),
        use_linear_projection=True,
        upcast_attention=True,
    )
    return _sd(network, _text("gelu"), **scheduler)


def sdxl(**unet: Any) -> Any:
    return _sdxl(
        _xl_unet((64, 128), (False, True), (1, 2), (1, 2), 6 * 256 + 64, 128, **unet),
        text_encoder=_text("quick_gelu"),
        tokenizer=clip_tokenizer(),
    )


def refiner() -> Any:
    unet = _xl_unet(
        (64, 128, 128), (False, True, False), 2, (1, 2, 2), 5 * 256 + 64, 64, sample_size=128
    )
    return _sdxl(
        unet,
        "StableDiffusionXLImg2ImgPipeline",
        text_encoder=None,
        tokenizer=None,
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
    )


def _xl_unet(
    widths: tuple[int, ...],
    attends: tuple[bool, ...],
    depths: Any,
    heads: tuple[int, ...],
    embedding: int,
    context: int,
    sample_size: int = 128,
    **settings: Any,
) -> Any:
    return _unet(
        widths,
        attends,
        sample_size=sample_size,
        attention_head_dim=heads,
        transformer_layers_per_block=depths,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=embedding,
        cross_attention_dim=context,
        **settings,
    )


def _sdxl(unet: Any, class_name: str = "StableDiffusionXLPipeline", **parts: Any) -> Any:
    import diffusers

    return getattr(diffusers, class_name)(
        vae=_vae(is_xl=True),
        text_encoder_2=_text("gelu", projected=True),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(
            **SD_BETAS, timestep_spacing="leading", steps_offset=1
        ),
        add_watermarker=False,
        **parts,
    )


MAKERS = {
    "sd1": sd1,
    "sd1-inpaint": lambda: sd1(in_channels=9),
    "sd2": sd2,
    "sd2-v": lambda: sd2(sample_size=96, prediction_type="v_prediction"),
    "sdxl": sdxl,
    "sdxl-inpaint": lambda: sdxl(in_channels=9),
    "refiner": refiner,
}
