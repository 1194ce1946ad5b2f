"""Tiny seeded models that edit images; weights are random, classes and code paths are real.

Their processors are stand-ins: the real ones need torchvision or files from the hub.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from support import tiny_models
from support.tiny_families import qwen_vae

IMAGE_TOKEN, VISION = 3, {"patch_size": 14, "merge_size": 2}
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>")
GRID = 4
"""Patches along each side of a picture, as the stand-in of Qwen's processor cuts it."""


def make(class_name: str) -> Any:
    """The tiny pipeline of a class, made from seed 0."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    pipeline = MAKERS[class_name]()
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()
    _fill(pipeline.transformer)
    torch.set_rng_state(state)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _fill(network: torch.nn.Module) -> None:
    """Make weights large enough that a change of a picture or a word changes the image's bytes."""
    for weight in network.parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape) * 2.5 / weight[0].numel() ** 0.5


def _kontext() -> Any:
    from diffusers import FluxKontextPipeline

    parts = tiny_models.flux().components
    return FluxKontextPipeline(**parts)


def _flux2_vae() -> Any:
    from diffusers import AutoencoderKLFlux2

    return AutoencoderKLFlux2(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=32,
    )


def _flux2_transformer(width: int) -> Any:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=width,
        axes_dims_rope=(4, 4, 4, 4),
        timestep_guidance_channels=16,
        guidance_embeds=False,
    )


def _flow() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


def _klein(class_name: str = "Flux2KleinPipeline") -> Any:
    import diffusers
    from transformers import Qwen3Config, Qwen3ForCausalLM

    encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=512,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=27,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=4,
        )
    )
    return getattr(diffusers, class_name)(
        scheduler=_flow(),
        vae=_flux2_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer(),
        transformer=_flux2_transformer(24),
        is_distilled=class_name == "Flux2KleinKVPipeline",
    )


def _flux2() -> Any:
    from diffusers import Flux2Pipeline
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    encoder = Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config={
                "model_type": "mistral",
                "vocab_size": 512,
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 30,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 4,
            },
            vision_config={
                "model_type": "pixtral",
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "head_dim": 4,
                "image_size": 28,
                "patch_size": 14,
            },
        )
    )
    return Flux2Pipeline(
        scheduler=_flow(),
        vae=_flux2_vae(),
        text_encoder=encoder,
        tokenizer=ChatProcessor(),
        transformer=_flux2_transformer(24),
    )


def _qwen(class_name: str) -> Any:
    import diffusers
    from diffusers import QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {
        "vocab_size": 512,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rope_parameters": {
            "mrope_section": [1, 1, 2],
            "rope_type": "default",
            "rope_theta": 1000000.0,
        },
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
    }
    encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE_TOKEN)
    )
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    return getattr(diffusers, class_name)(
        scheduler=_flow(),
        vae=qwen_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer(),
        processor=VisionProcessor(),
        transformer=transformer,
    )


MAKERS = {
    "FluxKontextPipeline": _kontext,
    "Flux2KleinPipeline": _klein,
    "Flux2KleinKVPipeline": lambda: _klein("Flux2KleinKVPipeline"),
    "Flux2Pipeline": _flux2,
    "QwenImageEditPipeline": lambda: _qwen("QwenImageEditPipeline"),
    "QwenImageEditPlusPipeline": lambda: _qwen("QwenImageEditPlusPipeline"),
}


def tokenizer() -> Any:
    """Qwen's, with one token a byte."""
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    pieces = [*SPECIALS, *bytes_to_unicode().values()]
    made = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>", "<|image_pad|>"],
    )
    made.chat_template = "{% for each in messages %}{{ each['content'] }}{% endfor %}"
    return made


class ChatProcessor:
    """Stands in for Pixtral's processor: one token a byte of the conversation, padded."""

    def apply_chat_template(
        self, messages: Sequence[Any], max_length: int, **_settings: Any
    ) -> dict[str, torch.Tensor]:
        texts = [repr(each).encode()[-max_length:] for each in messages]
        ids = [[value + len(SPECIALS) for value in text] for text in texts]
        return {
            "input_ids": torch.tensor([[0] * (max_length - len(own)) + own for own in ids]),
            "attention_mask": torch.tensor(
                [[0] * (max_length - len(own)) + [1] * len(own) for own in ids]
            ),
        }


class VisionProcessor:
    """Stands in for Qwen's processor: one token a byte, and a few patches of each picture."""

    def __init__(self) -> None:
        self._tokenizer = tokenizer()

    def __call__(self, text: Sequence[str], images: Any, padding: bool, return_tensors: str) -> Any:
        from transformers import BatchFeature

        pictures = images if isinstance(images, list) else [images]
        tokens = "<|image_pad|>" * (GRID // VISION["merge_size"]) ** 2
        texts = [each.replace("<|image_pad|>", tokens) for each in text]
        encoded = self._tokenizer(texts, padding=padding, return_tensors=return_tensors)
        patches = torch.cat([_patches(each) for each in pictures])
        grid = torch.tensor([[1, GRID, GRID]] * len(pictures))
        return BatchFeature(
            {**encoded, "pixel_values": patches, "image_grid_thw": grid}, tensor_type="pt"
        )


def _patches(picture: Any) -> torch.Tensor:
    """A picture as rows of patches, each with its two frames; (GRID * GRID, 1176)."""
    side = GRID * VISION["patch_size"]
    small = np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))
    values = torch.from_numpy(small.copy()).permute(2, 0, 1).float() / 255
    cut = values.reshape(3, GRID, VISION["patch_size"], GRID, VISION["patch_size"])
    flat = cut.permute(1, 3, 0, 2, 4).reshape(GRID * GRID, 3, 1, -1)
    return flat.expand(-1, -1, 2, -1).reshape(GRID * GRID, -1)
