"""Tiny seeded models of diffusers' classes that make clips, for `tiny_families.save`."""

from collections.abc import Callable
from typing import Any

from support.tiny_families import flow
from support.tiny_models import SD_BETAS, clip_text, clip_tokenizer, t5_text, t5_tokenizer, unet


def wan_vae() -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def umt5_text() -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )


def wan_transformer(**settings: Any) -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=64,
        **{"in_channels": 16, "out_channels": 16} | settings,
    )


def wan_scheduler() -> Any:
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )


def wan() -> Any:
    from diffusers import WanPipeline

    return WanPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=umt5_text(),
        vae=wan_vae(),
        scheduler=wan_scheduler(),
        transformer=wan_transformer(),
    )


def clip_vision(projected: bool = False, side: int = 32) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=side // 4,
        projection_dim=16,
    )
    return CLIPVisionModelWithProjection(config) if projected else CLIPVisionModel(config)


def clip_processor(side: int = 32) -> Any:
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=side)


def wan_from_image(**settings: Any) -> Any:
    """Of the kind of Wan 2.2, which reads a picture and perhaps a last one by its VAE alone."""
    from diffusers import WanImageToVideoPipeline

    return WanImageToVideoPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=umt5_text(),
        vae=wan_vae(),
        scheduler=wan_scheduler(),
        transformer=wan_transformer(in_channels=36, **settings),
        image_processor=clip_processor() if settings else None,
        image_encoder=clip_vision() if settings else None,
    )


def ltx(**decoder_settings: Any) -> Any:
    from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel

    transformer = LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=32,
    )
    decoder = AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(16, 16, 16, 16),
        decoder_block_out_channels=(16, 16, 16, 16),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        **decoder_settings,
    )
    return LTXPipeline(
        scheduler=flow(use_dynamic_shifting=True),
        vae=decoder,
        text_encoder=t5_text(),
        tokenizer=t5_tokenizer(),
        transformer=transformer,
    )


def hunyuan() -> Any:
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )
    from support.tiny_tokenizers import qwen_tokenizer
    from transformers import LlamaConfig, LlamaModel

    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=2,
        text_embed_dim=16,
        pooled_projection_dim=16,
        rope_axes_dim=(2, 4, 4),
    )
    decoder = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
    )
    encoder = LlamaModel(
        LlamaConfig(
            vocab_size=512,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            pad_token_id=0,
        )
    )
    return HunyuanVideoPipeline(
        text_encoder=encoder,
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
        vae=decoder,
        scheduler=flow(shift=7.0),
        text_encoder_2=clip_text(),
        tokenizer_2=clip_tokenizer(),
    )


def _cogvideo(class_name: str, **settings: Any) -> Any:
    import diffusers

    transformer = diffusers.CogVideoXTransformer3DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 8,
            "text_embed_dim": 32,
            "num_layers": 1,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 9,
        }
        | settings
    )
    decoder = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True
    )
    return getattr(diffusers, class_name)(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_text(),
        vae=decoder,
        transformer=transformer,
        scheduler=scheduler,
    )


def cogvideo() -> Any:
    return _cogvideo("CogVideoXPipeline")


def cogvideo_from_image() -> Any:
    return _cogvideo(
        "CogVideoXImageToVideoPipeline", in_channels=8, use_rotary_positional_embeddings=True
    )


def motion_adapter() -> Any:
    from diffusers import MotionAdapter

    return MotionAdapter(
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
        motion_max_seq_length=24,
        use_motion_mid_block=False,
    )


def animatediff() -> Any:
    from diffusers import AnimateDiffPipeline, DDIMScheduler
    from support.tiny_families import vae

    return AnimateDiffPipeline(
        vae=vae(),
        text_encoder=clip_text(),
        tokenizer=clip_tokenizer(),
        unet=unet(cross_attention_dim=16),
        motion_adapter=motion_adapter(),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False
        ),
    )


def animatediff_sdxl() -> Any:
    from diffusers import AnimateDiffSDXLPipeline, EulerDiscreteScheduler
    from support.tiny_families import vae

    return AnimateDiffSDXLPipeline(
        vae=vae(),
        text_encoder=clip_text(),
        text_encoder_2=clip_text(projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
        ),
        motion_adapter=motion_adapter(),
        scheduler=EulerDiscreteScheduler(**SD_BETAS),
    )


def svd() -> Any:
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )

    network = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1,
        num_attention_heads=2,
        cross_attention_dim=16,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        sample_size=16,
        num_frames=4,
    )
    decoder = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        latent_channels=4,
    )
    scheduler = EulerDiscreteScheduler(
        **SD_BETAS,
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        steps_offset=1,
    )
    return StableVideoDiffusionPipeline(
        vae=decoder,
        image_encoder=clip_vision(projected=True, side=224),
        unet=network,
        scheduler=scheduler,
        feature_extractor=clip_processor(224),
    )


CLIP_MAKERS: dict[str, Callable[[], Any]] = {
    "AnimateDiffPipeline": animatediff,
    "AnimateDiffSDXLPipeline": animatediff_sdxl,
    "CogVideoXImageToVideoPipeline": cogvideo_from_image,
    "CogVideoXPipeline": cogvideo,
    "HunyuanVideoPipeline": hunyuan,
    "LTXPipeline": ltx,
    "StableVideoDiffusionPipeline": svd,
    "WanImageToVideoPipeline": wan_from_image,
    "WanPipeline": wan,
}
"""Name of a class that makes clips -> makes its tiny pipeline."""
