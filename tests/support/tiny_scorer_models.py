"""Tiny networks with random weights that scorers read: CLIP, SigLIP and image classifiers."""

import json
from pathlib import Path
from typing import Any

import torch
from support import tiny_models

LABELS = ("cat", "dog", "bird")


def save_clip(folder: Path, seed: int = 0) -> Path:
    """Save a CLIP with its tokenizer and image processor."""
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    text = tiny_models.clip_text().config.to_dict()
    config = CLIPConfig(text_config=text, vision_config=_vision(), projection_dim=16)
    _save_seeded(lambda: CLIPModel(config), folder, seed)
    tiny_models.clip_tokenizer().save_pretrained(folder)
    size = {"shortest_edge": 32}
    CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_siglip(folder: Path, seed: int = 0) -> Path:
    """Save a SigLIP, whose texts are padded to 16 tokens."""
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = tiny_models.t5_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 16,
        "projection_size": 16,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = SiglipConfig(text_config=text, vision_config=_vision())
    _save_seeded(lambda: SiglipModel(config), folder, seed)
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_naflex(folder: Path, seed: int = 0) -> Path:
    """Save a SigLIP 2 that keeps the aspect ratio of images, in at most 16 patches."""
    from transformers import Siglip2Config, Siglip2Model
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    save_siglip(folder, seed)
    text = json.loads((folder / "config.json").read_text())["text_config"]
    text["model_type"] = "siglip2_text_model"
    vision = _vision() | {"num_patches": 16}
    config = Siglip2Config(text_config=text, vision_config=vision)
    _save_seeded(lambda: Siglip2Model(config), folder, seed)
    Siglip2ImageProcessorPil(patch_size=16, max_num_patches=16).save_pretrained(folder)
    return folder


def save_classifier(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Save a ViT that tells `LABELS` apart.

    Args:
        folder: where.
        seed: of the weights.
        settings: of its configuration, such as `problem_type`.
    """
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    defaults = {"id2label": dict(enumerate(LABELS))}
    config = ViTConfig(**_vision(), **(defaults | settings))
    _save_seeded(lambda: ViTForImageClassification(config), folder, seed)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_vit(folder: Path, seed: int = 0) -> Path:
    """Save a ViT without a head, which has a pooling layer."""
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    _save_seeded(lambda: ViTModel(ViTConfig(**_vision())), folder, seed)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def _vision() -> dict[str, Any]:
    return {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "image_size": 32,
        "patch_size": 16,
    }


def _save_seeded(make: Any, folder: Path, seed: int) -> None:
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    network = make()
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(0.0, 0.2)
    network.save_pretrained(folder)
    torch.set_rng_state(state)
