"""Tiny models whose prompts a large language model reads: FLUX.2, Qwen-Image 2.1 and others.

The processors of some of them need torchvision, also for a prompt alone.
"""

from typing import Any

from support.tiny_families import flow, qwen3_text, qwen_vae, qwen_vl_text, vae
from support.tiny_tokenizers import CHAT, SPECIALS, qwen_tokenizer
from support.tiny_transformers import flux2_vae

VISION = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 16,
    "deepstack_visual_indexes": [0],
}


def qwen3_vl(kind: str = "Qwen3VLForConditionalGeneration", **settings: Any) -> Any:
    import transformers

    text = {
        "vocab_size": 512,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    config = transformers.Qwen3VLConfig(text_config=text | settings, vision_config=VISION)
    return getattr(transformers, kind)(config)


def qwen3_vl_processor() -> Any:
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    tokenizer = qwen_tokenizer()
    pieces = ["<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": [*SPECIALS, *pieces]})
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=CHAT,
    )


def flux2() -> Any:
    from diffusers import Flux2Pipeline, Flux2Transformer2DModel

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
        guidance_embeds=True,
    )
    return Flux2Pipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=_mistral3(),
        tokenizer=pixtral_processor(),
        transformer=transformer,
    )


def _mistral3() -> Any:
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    text = {
        "model_type": "mistral",
        "vocab_size": 512,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 31,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    vision = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "image_size": 28,
        "patch_size": 14,
    }
    return Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision))


def pixtral_processor() -> Any:
    from transformers import PixtralImageProcessor, PixtralProcessor

    tokenizer = qwen_tokenizer()
    pieces = ["[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    tokenizer.add_special_tokens({"additional_special_tokens": pieces})
    return PixtralProcessor(
        image_processor=PixtralImageProcessor(), tokenizer=tokenizer, chat_template=CHAT
    )


def qwen_image21() -> Any:
    from diffusers import (
        AutoencoderKLQwenImage21,
        QwenImage21Pipeline,
        QwenImage21Transformer2DModel,
    )

    transformer = QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    decoder = AutoencoderKLQwenImage21(
        base_dim=4,
        decoder_base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 2, 2],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return QwenImage21Pipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=decoder,
        text_encoder=qwen3_vl(),
        processor=qwen3_vl_processor(),
        transformer=transformer,
    )


def longcat() -> Any:
    from diffusers import LongCatImagePipeline, LongCatImageTransformer2DModel
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    transformer = LongCatImageTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 6, 6],
    )
    tokenizer = qwen_tokenizer()
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT,
    )
    return LongCatImagePipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=vae(latent_channels=16),
        text_encoder=qwen_vl_text(),
        tokenizer=tokenizer,
        text_processor=processor,
        transformer=transformer,
    )


def z_image_omni() -> Any:
    from diffusers import ZImageOmniPipeline, ZImageTransformer2DModel
    from transformers import Siglip2ImageProcessor, Siglip2VisionConfig, Siglip2VisionModel

    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        siglip_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 64, 64],
    )
    eyes = Siglip2VisionModel(
        Siglip2VisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
    )
    return ZImageOmniPipeline(
        scheduler=flow(),
        vae=vae(),
        text_encoder=qwen3_text(),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
        siglip=eyes,
        siglip_processor=Siglip2ImageProcessor(),
    )


def bria_fibo() -> Any:
    from diffusers import AutoencoderKLWan, BriaFiboPipeline
    from diffusers.models.transformers.transformer_bria_fibo import BriaFiboTransformer2DModel
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    transformer = BriaFiboTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        text_encoder_dim=16,
        axes_dims_rope=[4, 6, 6],
    )
    # 128,000 is the token that an empty prompt becomes.
    encoder = SmolLM3ForCausalLM(
        SmolLM3Config(
            vocab_size=128001,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            pad_token_id=0,
        )
    )
    decoder = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 2, 2],
        num_res_blocks=1,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return BriaFiboPipeline(
        transformer=transformer,
        scheduler=flow(use_dynamic_shifting=True),
        vae=decoder,
        text_encoder=encoder,
        tokenizer=qwen_tokenizer(),
    )


def bria_fibo2() -> Any:
    from diffusers import BriaFibo2Pipeline
    from diffusers.models.transformers.transformer_bria_fibo2 import BriaFibo2Transformer2DModel

    transformer = BriaFibo2Transformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        cap_feat_dim=48,
        injection_layer_ids=(1,),
        perceiver_num_layers=1,
        min_num_gist_tokens=8,
        max_num_gist_tokens=16,
        gist_step=4,
        axes_dims=(8, 4, 4),
        axes_lens=(2048, 64, 64),
    )
    return BriaFibo2Pipeline(
        transformer=transformer,
        scheduler=flow(use_dynamic_shifting=True),
        vae=flux2_vae(),
        text_encoder=qwen3_vl(num_hidden_layers=36),
        processor=qwen3_vl_processor(),
    )


def ideogram4() -> Any:
    from diffusers import Ideogram4Pipeline, Ideogram4Transformer2DModel

    networks = [
        Ideogram4Transformer2DModel(
            in_channels=16,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            intermediate_size=32,
            adaln_dim=16,
            llm_features_dim=16 * 13,
            mrope_section=(4, 2, 2),
        )
        for _ in range(2)
    ]
    return Ideogram4Pipeline(
        scheduler=flow(),
        vae=flux2_vae(),
        text_encoder=qwen3_vl("Qwen3VLModel", num_hidden_layers=36),
        tokenizer=qwen_tokenizer(),
        transformer=networks[0],
        unconditional_transformer=networks[1],
    )


def nucleus() -> Any:
    from diffusers import NucleusMoEImagePipeline, NucleusMoEImageTransformer2DModel

    transformer = NucleusMoEImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=5,
        attention_head_dim=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        joint_attention_dim=16,
        axes_dims_rope=(8, 12, 12),
        num_experts=2,
        moe_intermediate_dim=16,
        capacity_factors=2.0,
    )
    return NucleusMoEImagePipeline(
        transformer=transformer,
        scheduler=flow(use_dynamic_shifting=True),
        vae=qwen_vae(),
        text_encoder=qwen3_vl(num_hidden_layers=8),
        processor=qwen3_vl_processor(),
    )


def omnigen() -> Any:
    from diffusers import OmniGenPipeline, OmniGenTransformer2DModel

    transformer = OmniGenTransformer2DModel(
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        num_layers=1,
        vocab_size=512,
        pad_token_id=0,
        time_step_dim=8,
        rope_scaling={"long_factor": [1.0] * 4, "short_factor": [1.0] * 4},
    )
    return OmniGenPipeline(
        transformer=transformer,
        scheduler=flow(invert_sigmas=True, num_train_timesteps=1),
        vae=vae(),
        tokenizer=qwen_tokenizer(),
    )


LANGUAGE_MODELS = {
    "BriaFibo2Pipeline": bria_fibo2,
    "BriaFiboPipeline": bria_fibo,
    "Flux2Pipeline": flux2,
    "Ideogram4Pipeline": ideogram4,
    "LongCatImagePipeline": longcat,
    "NucleusMoEImagePipeline": nucleus,
    "OmniGenPipeline": omnigen,
    "QwenImage21Pipeline": qwen_image21,
    "ZImageOmniPipeline": z_image_omni,
}
"""Name of a text-to-image class -> makes its tiny pipeline."""
