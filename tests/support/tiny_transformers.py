"""More tiny models for `tiny_families`: transformers with large text encoders, and cascades."""

from typing import Any

from support.tiny_families import flow, qwen3_text, vae
from support.tiny_models import clip_text, clip_tokenizer, t5_text, t5_tokenizer
from support.tiny_tokenizers import qwen_tokenizer


def prx_pixel() -> Any:
    from diffusers import PRXPixelPipeline, PRXTransformer2DModel

    transformer = PRXTransformer2DModel(
        patch_size=4,
        in_channels=3,
        context_in_dim=16,
        hidden_size=8,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[2, 2],
        bottleneck_size=8,
        resolution_embeds=True,
    )
    return PRXPixelPipeline(
        transformer=transformer,
        scheduler=flow(),
        text_encoder=qwen3_text(),
        tokenizer=qwen_tokenizer(),
        prompt_max_tokens=64,
    )


def krea2() -> Any:
    from diffusers import AutoencoderKLQwenImage, Krea2Pipeline, Krea2Transformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLModel

    transformer = Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
        rope_theta=1000.0,
    )
    decoder = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    text = {
        "vocab_size": 512,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
        "deepstack_visual_indexes": [0],
    }
    return Krea2Pipeline(
        transformer=transformer,
        vae=decoder,
        scheduler=flow(use_dynamic_shifting=True, max_image_seq_len=6400),
        text_encoder=Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision)),
        tokenizer=qwen_tokenizer(),
        text_encoder_select_layers=(0, 1, 2),
    )


def hidream() -> Any:
    from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel
    from transformers import LlamaConfig, LlamaForCausalLM

    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, 16],
        text_emb_dim=32,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(32, 32),
        llama_layers=(0, 1),
    )
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
        )
    )
    return HiDreamImagePipeline(
        scheduler=flow(),
        vae=vae(),
        text_encoder=_long_clip(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_long_clip(),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_text(),
        tokenizer_3=t5_tokenizer(),
        text_encoder_4=llama,
        tokenizer_4=qwen_tokenizer(),
        transformer=transformer,
    )


def _long_clip() -> Any:
    network = clip_text(projected=True)
    config = {**network.config.to_dict(), "max_position_embeddings": 256}
    return type(network)(type(network.config)(**config))


def flux2_klein(is_distilled: bool = False) -> Any:
    from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel

    transformer = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=32,
        axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=False,
    )
    return Flux2KleinPipeline(
        scheduler=flow(),
        vae=flux2_vae(),
        text_encoder=qwen3_text(
            "Qwen3ForCausalLM", num_hidden_layers=28, max_position_embeddings=2048
        ),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
        is_distilled=is_distilled,
    )


def flux2_klein_kv() -> Any:
    from diffusers import Flux2KleinKVPipeline

    return Flux2KleinKVPipeline(**flux2_klein().components)


def flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def ernie() -> Any:
    from diffusers import ErnieImagePipeline
    from diffusers.models.transformers.transformer_ernie_image import ErnieImageTransformer2DModel

    transformer = ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=32,
        in_channels=16,
        out_channels=16,
        text_in_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    return ErnieImagePipeline(
        transformer=transformer,
        vae=flux2_vae(),
        text_encoder=qwen3_text(),
        tokenizer=qwen_tokenizer(),
        scheduler=flow(),
    )


MORE = {
    "ErnieImagePipeline": ernie,
    "Flux2KleinKVPipeline": flux2_klein_kv,
    "Flux2KleinPipeline": flux2_klein,
    "HiDreamImagePipeline": hidream,
    "Krea2Pipeline": krea2,
    "PRXPixelPipeline": prx_pixel,
}
"""Name of a text-to-image class -> makes its tiny pipeline."""
