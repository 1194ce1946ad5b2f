"""Tiny seeded models of the text-to-image classes of diffusers, beyond those of `tiny_models`.

Weights are random and vocabularies are letters or bytes; the classes and code paths are real.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from support import tiny_models
from support.tiny_models import SD_BETAS, clip_text, clip_tokenizer, t5_text, t5_tokenizer, unet
from support.tiny_tokenizers import gemma_tokenizer, glm_tokenizer, qwen_tokenizer


def makers() -> dict[str, Callable[[], Any]]:
    """Name of a text-to-image class -> makes its tiny pipeline."""
    from support.tiny_cascades import CASCADES
    from support.tiny_language_models import LANGUAGE_MODELS
    from support.tiny_transformers import MORE

    return MAKERS | MORE | CASCADES | LANGUAGE_MODELS


def save(
    class_name: str, folder: Path, known: Mapping[str, Callable[[], Any]] | None = None
) -> Path:
    """Make the tiny model of a class from seed 0 and save it as a diffusers folder.

    Args:
        class_name: of `known`.
        folder: where it is saved.
        known: class -> makes its tiny pipeline; `makers()` unless given.
    """
    state = torch.get_rng_state()
    torch.manual_seed(0)
    pipeline = (known or makers())[class_name]()
    _fill_empty(pipeline)
    torch.set_rng_state(state)
    pipeline.save_pretrained(folder)
    return folder


def _fill_empty(pipeline: Any) -> None:
    """Make every weight a small random number, so that none is zero, one or uninitialised memory.

    Zero-initialised output layers would hide what guidance and prompts do.
    """
    generator = torch.Generator().manual_seed(1)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
            for name, weight in component.named_parameters():
                if weight.ndim < 2 and "norm" in name:
                    continue
                weight.data = torch.randn(weight.shape, generator=generator) * _spread(weight)


def _spread(weight: torch.Tensor) -> float:
    inputs = weight[0].numel() if weight.ndim > 1 else weight.numel()
    return 0.02 + 0.8 / max(1, inputs) ** 0.5


def vae(**settings: Any) -> Any:
    """With the downsampling factor 8 of the real ones, on which some classes count."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        **{
            "block_out_channels": (4, 4, 8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
            "latent_channels": 4,
            "norm_num_groups": 4,
            "layers_per_block": 1,
            "shift_factor": 0.06,
        }
        | settings
    )


def flow(**settings: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


def _sd_variant(name: str, **extra: Any) -> Callable[[], Any]:
    """A class over the components of Stable Diffusion."""

    def make() -> Any:
        import diffusers

        base = tiny_models.sd(
            scheduler=diffusers.DDIMScheduler(**SD_BETAS, clip_sample=False, set_alpha_to_one=False)
        )
        parts = base.components | {"requires_safety_checker": False, "safety_checker": None}
        return _made(getattr(diffusers, name), parts | extra)

    return make


def _made(pipeline_class: Any, parts: dict[str, Any]) -> Any:
    """A pipeline from the parts that its constructor takes."""
    taken = inspect.signature(pipeline_class.__init__).parameters
    return pipeline_class(**{name: part for name, part in parts.items() if name in taken})


def _over(name: str, base: Callable[[], Any], **extra: Any) -> Callable[[], Any]:
    """A class over all components of another one's tiny model."""

    def make() -> Any:
        import diffusers

        return _made(getattr(diffusers, name), base().components | extra)

    return make


def _aura_flow() -> Any:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
    from transformers import UMT5Config, UMT5EncoderModel

    transformer = AuraFlowTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pos_embed_max_size=256,
    )
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )
    return AuraFlowPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=encoder,
        vae=vae(),
        transformer=transformer,
        scheduler=flow(),
    )


def _chroma() -> Any:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    transformer = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    return ChromaPipeline(
        scheduler=flow(),
        vae=vae(),
        text_encoder=t5_text(),
        tokenizer=t5_tokenizer(),
        transformer=transformer,
    )


def _bria() -> Any:
    from diffusers import BriaPipeline
    from diffusers.models.transformers.transformer_bria import BriaTransformer2DModel

    transformer = BriaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=None,
        axes_dims_rope=(0, 4, 4),
    )
    return BriaPipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=vae(),
        text_encoder=t5_text(),
        tokenizer=t5_tokenizer(),
    )


def _cogview3() -> Any:
    from diffusers import (
        CogVideoXDDIMScheduler,
        CogView3PlusPipeline,
        CogView3PlusTransformer2DModel,
    )

    transformer = CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=2,
        pos_embed_max_size=32,
        sample_size=16,
    )
    return CogView3PlusPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_text(),
        vae=vae(),
        transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(),
    )


def _cogview4() -> Any:
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel
    from transformers import GlmConfig, GlmModel

    transformer = CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
        sample_size=16,
    )
    encoder = GlmModel(
        GlmConfig(
            vocab_size=512,
            hidden_size=32,
            intermediate_size=8,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=8,
            pad_token_id=0,
        )
    )
    return CogView4Pipeline(
        tokenizer=glm_tokenizer(),
        text_encoder=encoder,
        vae=vae(),
        transformer=transformer,
        scheduler=flow(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75),
    )


def _flux_kontext() -> Any:
    import diffusers

    parts = tiny_models.flux().components | {"image_encoder": None, "feature_extractor": None}
    return diffusers.FluxKontextPipeline(**parts)


def flux_schnell() -> Any:
    pipeline = tiny_models.flux()
    pipeline.register_modules(transformer=changed(pipeline.transformer, guidance_embeds=False))
    return pipeline


def qwen_vae() -> Any:
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def qwen_vl_text(**settings: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 512,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        "rope_theta": 1000000.0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text | settings, vision_config=vision)
    )


def _qwen_image(guidance_embeds: bool = False) -> Any:
    from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(8, 4, 4),
    )
    return QwenImagePipeline(
        scheduler=flow(),
        vae=qwen_vae(),
        text_encoder=qwen_vl_text(),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
    )


def qwen3_text(kind: str = "Qwen3Model", **settings: Any) -> Any:
    import transformers

    config = transformers.Qwen3Config(
        **(
            {
                "vocab_size": 512,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "max_position_embeddings": 512,
            }
            | settings
        )
    )
    return getattr(transformers, kind)(config)


def _z_image() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[512, 64, 64],
    )
    return ZImagePipeline(
        scheduler=flow(),
        vae=vae(),
        text_encoder=qwen3_text(),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
    )


def _hunyuan_dit(has_style: bool = True) -> Any:
    from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
    from support.tiny_tokenizers import bert_tokenizer
    from transformers import BertConfig, BertModel

    transformer = HunyuanDiT2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
        activation_fn="gelu-approximate",
        use_style_cond_and_image_meta_size=has_style,
    )
    bert = BertModel(
        BertConfig(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
    )
    return HunyuanDiTPipeline(
        vae=vae(),
        text_encoder=bert,
        tokenizer=bert_tokenizer(),
        transformer=transformer,
        scheduler=DDPMScheduler(**SD_BETAS, clip_sample=False, prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=t5_text(),
        tokenizer_2=t5_tokenizer(),
    )


def _hunyuan_image(guidance_embeds: bool = False) -> Any:
    from diffusers import (
        AutoencoderKLHunyuanImage,
        HunyuanImagePipeline,
        HunyuanImageTransformer2DModel,
    )
    from diffusers.guiders import AdaptiveProjectedMixGuidance
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    transformer = HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        guidance_embeds=guidance_embeds,
        text_embed_dim=16,
        text_embed_2_dim=32,
        rope_axes_dim=(4, 4),
    )
    vae = AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        sample_size=128,
    )
    byt5 = T5EncoderModel(
        T5Config(
            vocab_size=384,
            d_model=32,
            d_kv=4,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
        )
    )
    guiders = [
        None if guidance_embeds else AdaptiveProjectedMixGuidance(**{START: step})
        for step in (1, 2)
    ]
    return HunyuanImagePipeline(
        scheduler=flow(shift=7.0),
        vae=vae,
        text_encoder=qwen_vl_text(num_hidden_layers=3),
        tokenizer=qwen_tokenizer(),
        text_encoder_2=byt5,
        tokenizer_2=ByT5Tokenizer(),
        transformer=transformer,
        guider=guiders[0],
        ocr_guider=guiders[1],
    )


START = "adaptive_projected_guidance_start_step"


def _kandinsky3() -> Any:
    from diffusers import DDPMScheduler, Kandinsky3Pipeline, Kandinsky3UNet

    network = Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=32,
    )
    return Kandinsky3Pipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5_text(),
        unet=network,
        scheduler=DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            steps_offset=1,
            beta_schedule="squaredcos_cap_v2",
            clip_sample=True,
        ),
        movq=movq(),
    )


def movq() -> Any:
    from diffusers import VQModel

    return VQModel(
        block_out_channels=[32] * 4,
        down_block_types=["DownEncoderBlock2D"] * 3 + ["AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )


def _kandinsky5() -> Any:
    from diffusers import Kandinsky5T2IPipeline, Kandinsky5Transformer3DModel

    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=16,
        time_dim=16,
        out_visual_dim=4,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(1, 1, 2),
        visual_cond=False,
        attention_type="regular",
    )
    return Kandinsky5T2IPipeline(
        transformer=transformer,
        vae=vae(),
        text_encoder=qwen_vl_text(),
        tokenizer=qwen_tokenizer(),
        text_encoder_2=clip_text(),
        tokenizer_2=clip_tokenizer(),
        scheduler=flow(shift=7.0),
    )


def _lumina() -> Any:
    from diffusers import LuminaNextDiT2DModel, LuminaPipeline
    from transformers import GemmaConfig, GemmaModel

    transformer = LuminaNextDiT2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=1,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        learn_sigma=True,
        qk_norm=True,
        cross_attention_dim=16,
        scaling_factor=1.0,
    )
    encoder = GemmaModel(
        GemmaConfig(
            vocab_size=64,
            head_dim=4,
            hidden_size=16,
            intermediate_size=32,
            num_attention_heads=2,
            num_hidden_layers=2,
            num_key_value_heads=2,
        )
    )
    return LuminaPipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=vae(),
        text_encoder=encoder,
        tokenizer=gemma_tokenizer(),
    )


def _lumina2() -> Any:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    transformer = Lumina2Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        scaling_factor=1.0,
        axes_dim_rope=[4, 2, 2],
        cap_feat_dim=16,
    )
    encoder = type(tiny_models.gemma_text())(
        _config(tiny_models.gemma_text(), num_hidden_layers=2, layer_types=None)
    )
    return Lumina2Pipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=vae(),
        text_encoder=encoder,
        tokenizer=gemma_tokenizer(),
    )


def changed(network: Any, **changes: Any) -> Any:
    """A network with another configuration; diffusers keeps a list of those left at default."""
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    return type(network)(**{**config, **changes})


def _two_layers(base: Callable[[], Any]) -> Callable[[], Any]:
    """Perturbed attention is in the second layer."""

    def make() -> Any:
        pipeline = base()
        pipeline.register_modules(transformer=changed(pipeline.transformer, num_layers=2))
        return pipeline

    return make


def _config(model: Any, **changes: Any) -> Any:
    return type(model.config)(**{**model.config.to_dict(), **changes})


def _sana_sprint() -> Any:
    from diffusers import SanaSprintPipeline, SCMScheduler

    base = tiny_models.sana()
    changes = {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
    transformer = changed(base.transformer, **changes)
    return SanaSprintPipeline(
        **base.components | {"transformer": transformer, "scheduler": SCMScheduler()}
    )


def _ovis() -> Any:
    from diffusers import OvisImagePipeline, OvisImageTransformer2DModel

    transformer = OvisImageTransformer2DModel(
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    return OvisImagePipeline(
        scheduler=flow(),
        vae=vae(),
        text_encoder=qwen3_text(),
        tokenizer=qwen_tokenizer(),
        transformer=transformer,
    )


def _ldm() -> Any:
    from diffusers import DDIMScheduler, LDMTextToImagePipeline

    return LDMTextToImagePipeline(
        vqvae=vae(shift_factor=None),
        bert=clip_text(),
        tokenizer=clip_tokenizer(),
        unet=unet(cross_attention_dim=16),
        scheduler=DDIMScheduler(**SD_BETAS, clip_sample=False, set_alpha_to_one=False),
    )


MAKERS: dict[str, Callable[[], Any]] = {
    "AuraFlowPipeline": _aura_flow,
    "BriaPipeline": _bria,
    "ChromaPipeline": _chroma,
    "CogView3PlusPipeline": _cogview3,
    "CogView4Pipeline": _cogview4,
    "FluxKontextPipeline": _flux_kontext,
    "FluxPipeline": tiny_models.flux,
    "HunyuanDiTPipeline": _hunyuan_dit,
    "HunyuanDiTPAGPipeline": _over("HunyuanDiTPAGPipeline", lambda: _hunyuan_dit(has_style=False)),
    "HunyuanImagePipeline": _hunyuan_image,
    "Kandinsky3Pipeline": _kandinsky3,
    "Kandinsky5T2IPipeline": _kandinsky5,
    "LDMTextToImagePipeline": _ldm,
    "LatentConsistencyModelPipeline": tiny_models.lcm,
    "Lumina2Pipeline": _lumina2,
    "LuminaPipeline": _lumina,
    "OvisImagePipeline": _ovis,
    "PixArtSigmaPAGPipeline": _over("PixArtSigmaPAGPipeline", _two_layers(tiny_models.pixart)),
    "PixArtAlphaPipeline": _over("PixArtAlphaPipeline", tiny_models.pixart),
    "PixArtSigmaPipeline": tiny_models.pixart,
    "QwenImagePipeline": _qwen_image,
    "SanaPAGPipeline": _over("SanaPAGPipeline", tiny_models.sana),
    "SanaPipeline": tiny_models.sana,
    "SanaSprintPipeline": _sana_sprint,
    "StableDiffusion3PAGPipeline": _over(
        "StableDiffusion3PAGPipeline", _two_layers(tiny_models.sd3)
    ),
    "StableDiffusion3Pipeline": tiny_models.sd3,
    "StableDiffusionXLPAGPipeline": _over("StableDiffusionXLPAGPipeline", tiny_models.sdxl),
    "StableDiffusionXLPipeline": tiny_models.sdxl,
    "ZImagePipeline": _z_image,
    "StableDiffusionPipeline": tiny_models.sd,
    "StableDiffusionPAGPipeline": _sd_variant("StableDiffusionPAGPipeline"),
    "StableDiffusionSAGPipeline": _sd_variant("StableDiffusionSAGPipeline"),
    "StableDiffusionModelEditingPipeline": _sd_variant("StableDiffusionModelEditingPipeline"),
    "SemanticStableDiffusionPipeline": _sd_variant("SemanticStableDiffusionPipeline"),
    "AltDiffusionPipeline": _sd_variant("AltDiffusionPipeline"),
}
"""Name of a text-to-image class -> makes its tiny pipeline."""
