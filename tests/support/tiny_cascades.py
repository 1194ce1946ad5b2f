"""Tiny models that make an image in stages, or in pixels: Kandinsky 2, IF, unCLIP."""

from typing import Any

from support.tiny_families import movq
from support.tiny_models import (
    LETTERS,
    SD_BETAS,
    clip_text,
    clip_tokenizer,
    t5_text,
    t5_tokenizer,
    unet,
)


def deepfloyd_if() -> Any:
    from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=64,
        in_channels=3,
        out_channels=6,
        layers_per_block=1,
        block_out_channels=(8, 8, 8, 16),
        down_block_types=("ResnetDownsampleBlock2D",) * 3 + ("SimpleCrossAttnDownBlock2D",),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D",) + ("ResnetUpsampleBlock2D",) * 3,
        cross_attention_dim=8,
        encoder_hid_dim=32,
        attention_head_dim=2,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        norm_num_groups=4,
    )
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.0,
        variance_type="learned_range",
    )
    return IFPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_text(),
        unet=network,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )


def stable_unclip() -> Any:
    from diffusers import DDIMScheduler, DDPMScheduler, StableUnCLIPPipeline
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )
    from support.tiny_families import vae

    return StableUnCLIPPipeline(
        prior_tokenizer=clip_tokenizer(),
        prior_text_encoder=clip_text(projected=True),
        prior=_prior(),
        prior_scheduler=DDPMScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            clip_sample=True,
            clip_sample_range=5.0,
            beta_schedule="squaredcos_cap_v2",
        ),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=16),
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=clip_tokenizer(),
        text_encoder=clip_text(),
        unet=unet(
            cross_attention_dim=16,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=32,
        ),
        scheduler=DDIMScheduler(**SD_BETAS, clip_sample=False, set_alpha_to_one=False),
        vae=vae(shift_factor=None),
    )


def _prior() -> Any:
    from diffusers import PriorTransformer

    return PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=16, num_layers=1
    )


def _image_encoder() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            projection_dim=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
        )
    )


def _prior_parts() -> dict[str, Any]:
    from diffusers import UnCLIPScheduler
    from transformers import CLIPImageProcessor

    return {
        "prior_prior": _prior(),
        "prior_image_encoder": _image_encoder(),
        "prior_text_encoder": clip_text(projected=True),
        "prior_tokenizer": clip_tokenizer(),
        "prior_scheduler": UnCLIPScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            num_train_timesteps=1000,
            clip_sample_range=5.0,
        ),
        "prior_image_processor": CLIPImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
    }


def kandinsky() -> Any:
    from diffusers import DDIMScheduler, KandinskyCombinedPipeline

    return KandinskyCombinedPipeline(
        text_encoder=_multilingual_clip(),
        tokenizer=_xlm_tokenizer(),
        unet=_kandinsky_unet(
            encoder_hid_dim=16,
            encoder_hid_dim_type="text_image_proj",
            cross_attention_dim=16,
            addition_embed_type="text_image",
            addition_embed_type_num_heads=2,
        ),
        scheduler=DDIMScheduler(**LINEAR, clip_sample=False, set_alpha_to_one=False),
        movq=movq(),
        **_prior_parts(),
    )


def kandinsky22() -> Any:
    from diffusers import DDPMScheduler, KandinskyV22CombinedPipeline

    return KandinskyV22CombinedPipeline(
        unet=_kandinsky_unet(
            encoder_hid_dim=16,
            encoder_hid_dim_type="image_proj",
            cross_attention_dim=16,
            addition_embed_type="image",
        ),
        scheduler=DDPMScheduler(**LINEAR, clip_sample=False),
        movq=movq(),
        **_prior_parts(),
    )


LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}


def _kandinsky_unet(**settings: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=4,
        norm_num_groups=4,
        **settings,
    )


def _multilingual_clip() -> Any:
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    return MultilingualCLIP(
        MCLIPConfig(
            transformerDimSize=16,
            imageDimSize=16,
            hidden_size=16,
            intermediate_size=16,
            num_attention_heads=2,
            num_hidden_layers=1,
            vocab_size=64,
        )
    )


def _xlm_tokenizer() -> Any:
    from transformers import XLMRobertaTokenizer

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *LETTERS]
    return XLMRobertaTokenizer(vocab=[(piece, -1.0) for piece in pieces], model_max_length=77)


CASCADES = {
    "IFPipeline": deepfloyd_if,
    "KandinskyCombinedPipeline": kandinsky,
    "KandinskyV22CombinedPipeline": kandinsky22,
    "StableUnCLIPPipeline": stable_unclip,
}
"""Name of a text-to-image class -> makes its tiny pipeline."""
