"""Tiny seeded ControlNets for the tiny models, whose convolutions from zero are not zero.

A ControlNet that has just been made adds nothing, and would prove nothing.
"""

from pathlib import Path
from typing import Any

import torch
from support import tiny_image_models, tiny_models

from nightpress.diffusion_core.silence_libraries import errors_only

HINT = (8, 8)
"""`conditioning_embedding_out_channels`: control images become half as large, as the tiny VAE's."""


def make(pipeline: Any, seed: int = 0, union: bool = False, **settings: Any) -> Any:
    """A ControlNet for a tiny pipeline, with all its weights drawn from a seed."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    name = type(pipeline).__name__ + ("Union" if union else "")
    with errors_only():  # FLUX' warns of a class of diffusers' own
        network = MAKERS[name](pipeline, **settings)
    for name, weight in network.named_parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
        if (
            "cond_embedding" in name
            or "hint" in name
            or "controlnet_x_embedder" in name
            or "pos_embed_input" in name
        ):
            weight.data *= 4
    torch.set_rng_state(state)
    return network


def save(pipeline: Any, folder: Path, seed: int = 0, union: bool = False, **settings: Any) -> Path:
    """`make` one and save it in a folder."""
    make(pipeline, seed, union, **settings).save_pretrained(folder)
    return folder


def _of_unet(pipeline: Any, **settings: Any) -> Any:
    from diffusers import ControlNetModel

    settings = {"conditioning_embedding_out_channels": HINT} | settings
    return ControlNetModel.from_unet(pipeline.unet, **settings)


def _union(pipeline: Any, **settings: Any) -> Any:
    from diffusers import ControlNetUnionModel

    shared = (
        "in_channels down_block_types block_out_channels layers_per_block norm_num_groups "
        "cross_attention_dim attention_head_dim addition_embed_type addition_time_embed_dim "
        "projection_class_embeddings_input_dim"
    )
    own = {
        "conditioning_embedding_out_channels": HINT,
        "num_control_type": 3,
        "num_trans_channel": 8,
        "num_trans_head": 2,
        "num_proj_channel": 8,
    }
    config = {name: pipeline.unet.config[name] for name in shared.split()}
    return ControlNetUnionModel(**(config | own | settings))


def _sd3(pipeline: Any, **settings: Any) -> Any:
    from diffusers import SD3ControlNetModel

    shared = (
        "sample_size patch_size in_channels attention_head_dim num_attention_heads "
        "joint_attention_dim caption_projection_dim pooled_projection_dim out_channels "
        "pos_embed_max_size"
    )
    config = {name: pipeline.transformer.config[name] for name in shared.split()}
    return SD3ControlNetModel(**(config | {"num_layers": 1} | settings))


def _flux(pipeline: Any, **settings: Any) -> Any:
    from diffusers import FluxControlNetModel

    shared = (
        "patch_size in_channels attention_head_dim num_attention_heads joint_attention_dim "
        "pooled_projection_dim guidance_embeds axes_dims_rope"
    )
    config = {name: pipeline.transformer.config[name] for name in shared.split()}
    return FluxControlNetModel(**(config | {"num_layers": 1, "num_single_layers": 1} | settings))


def _qwen(pipeline: Any, **settings: Any) -> Any:
    from diffusers import QwenImageControlNetModel

    shared = (
        "patch_size in_channels out_channels attention_head_dim num_attention_heads "
        "joint_attention_dim axes_dims_rope"
    )
    config = {name: pipeline.transformer.config[name] for name in shared.split()}
    return QwenImageControlNetModel(**(config | {"num_layers": 1} | settings))


MAKERS = {
    "StableDiffusionPipeline": _of_unet,
    "StableDiffusionXLPipeline": _of_unet,
    "StableDiffusionXLPipelineUnion": _union,
    "StableDiffusion3Pipeline": _sd3,
    "FluxPipeline": _flux,
    "QwenImagePipeline": _qwen,
}


def base(family: str) -> Any:
    """The tiny text-to-image pipeline of a family of `tiny_models`, or of `qwen`.

    With `-deep` its VAE makes images 8 times smaller, as that of FLUX, and not 2 times.
    """
    state = torch.get_rng_state()
    torch.manual_seed(0)
    if family == "qwen":
        pipeline = tiny_image_models.qwen()
    else:
        pipeline = tiny_models.MAKERS[family.removesuffix("-deep")]()
    if family.endswith("-deep"):
        pipeline.register_modules(vae=_deep_vae())
    if family == "sd3":  # whose last layer takes no control
        config = {**pipeline.transformer.config, "num_layers": 2}
        pipeline.register_modules(transformer=type(pipeline.transformer).from_config(config))
    torch.set_rng_state(state)
    return pipeline


def _deep_vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=4,
        shift_factor=0.06,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
