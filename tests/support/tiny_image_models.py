"""Tiny seeded models of the families that only the tests of the modes with pictures need.

As in `tiny_models`: nothing is downloaded, weights are random, vocabularies are single letters.
"""

from pathlib import Path
from typing import Any

import torch
from support import tiny_models as tiny


def save(family: str, folder: Path) -> Path:
    """Make the family's tiny model from seed 0 and save it as a diffusers folder."""
    if family in tiny.FAMILIES:
        return tiny.save(family, folder)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    pipeline = MAKERS[family]()
    torch.set_rng_state(state)
    pipeline.save_pretrained(folder)
    return folder


def sd_of(unet_channels: int, latent_channels: int) -> Any:
    """Stable Diffusion with other numbers of channels."""
    return tiny.sd(
        vae=tiny.autoencoder(latent_channels=latent_channels),
        unet=tiny.unet(
            cross_attention_dim=16, in_channels=unet_channels, out_channels=latent_channels
        ),
    )


def sd_inpainting() -> Any:
    import diffusers

    parts = sd_of(9, 4).components
    return diffusers.StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)


def sdxl_inpainting() -> Any:
    import diffusers

    parts = tiny.sdxl().components
    unet = tiny.unet(
        in_channels=9,
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    return diffusers.StableDiffusionXLInpaintPipeline(
        **(parts | {"unet": unet}), add_watermarker=False
    )


def sdxl_refiner() -> Any:
    """The refiner of SDXL: one text encoder, and an aesthetic score instead of a target size."""
    import diffusers

    parts = tiny.sdxl().components
    unet = tiny.unet(
        cross_attention_dim=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=5 * 8 + 16,
    )
    return diffusers.StableDiffusionXLImg2ImgPipeline(
        **(parts | {"unet": unet, "text_encoder": None, "tokenizer": None}),
        requires_aesthetics_score=True,
        add_watermarker=False,
    )


def sd3_16() -> Any:
    """SD3 with its real number of channels, which alone diffusers inpaints."""
    from diffusers import SD3Transformer2DModel

    pipeline = tiny.sd3()
    config = dict(pipeline.transformer.config) | {"in_channels": 16, "out_channels": 16}
    vae = tiny.autoencoder(
        latent_channels=16, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False
    )
    parts = pipeline.components | {"transformer": SD3Transformer2DModel.from_config(config)}
    return type(pipeline)(**(parts | {"vae": vae}))


def flux_fill() -> Any:
    from diffusers import FluxFillPipeline, FluxTransformer2DModel

    parts = tiny.flux().components
    factor = 2  # of the tiny VAE
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=2 * 16 + 4 * factor**2,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    unused = ("image_encoder", "feature_extractor")
    kept = {name: part for name, part in parts.items() if name not in unused}
    return FluxFillPipeline(**(kept | {"transformer": transformer}))


def chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    transformer = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return ChromaPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=tiny.autoencoder(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=tiny.t5_text(),
        tokenizer=tiny.t5_tokenizer(),
        transformer=transformer,
    )


def qwen() -> Any:
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )

    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.0, 0.3],
        latents_std=[1.1, 0.9, 1.0, 1.2],
    )
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=vae,
        text_encoder=qwen_vl_text(),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
    )


def z_image() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )

    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[256, 64, 64],
    )
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny.autoencoder(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=qwen3_text(),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
    )


def sana_sprint() -> Any:
    from diffusers import SanaSprintPipeline, SanaTransformer2DModel, SCMScheduler

    parts = tiny.sana().components
    transformer = SanaTransformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
        qk_norm="rms_norm_across_heads",
        guidance_embeds=True,
    )
    return SanaSprintPipeline(**(parts | {"transformer": transformer, "scheduler": SCMScheduler()}))


def sd_pag() -> Any:
    from diffusers import StableDiffusionPAGPipeline

    return StableDiffusionPAGPipeline(**tiny.sd().components, requires_safety_checker=False)


def sdxl_pag() -> Any:
    from diffusers import StableDiffusionXLPAGPipeline

    return StableDiffusionXLPAGPipeline(**tiny.sdxl().components, add_watermarker=False)


def qwen_vl_text() -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(qwen_vocabulary()),
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [1, 1, 2],
                "rope_theta": 1e4,
            },
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": 16,
        },
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def qwen3_text() -> Any:
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        vocab_size=len(qwen_vocabulary()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    return Qwen3Model(config)


def qwen_vocabulary() -> dict[str, int]:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return {piece: i for i, piece in enumerate([*special, "Ġ", "Ċ", ":", *tiny.LETTERS])}


def qwen_tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer(
        vocab=qwen_vocabulary(),
        merges=[],
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}: {{ m['content'] }}<|im_end|>"
        "{% endfor %}"
    )
    return tokenizer


MAKERS = {
    "sd8": lambda: sd_of(8, 8),
    "sd_inpainting": sd_inpainting,
    "sdxl_inpainting": sdxl_inpainting,
    "sdxl_refiner": sdxl_refiner,
    "sd3_16": sd3_16,
    "flux_fill": flux_fill,
    "chroma": chroma,
    "qwen": qwen,
    "z_image": z_image,
    "sana_sprint": sana_sprint,
    "sd_pag": sd_pag,
    "sdxl_pag": sdxl_pag,
}
