"""Tiny training jobs, and the images that they train on: discs in four colours."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support import tiny_models

from nightpress.pipelines.training.spec import TrainSpec, train_spec

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 180, 60),
    "blue": (40, 60, 220),
    "gold": (240, 190, 0),
}
SIDE = 32

AUTOENCODER = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "latent_channels": 4,
    "mid_block_add_attention": False,
    "force_upcast": False,
}
UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 16,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": 16,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
}


def draw_images(folder: Path, num: int = 12) -> Path:
    """Write an image folder with a caption file beside each image."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for i in range(num):
        name, colour = list(COLOURS.items())[i % len(COLOURS)]
        pixels = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
        centre = 10 + i % 5 * 3
        pixels[(rows - centre) ** 2 + (columns - 16) ** 2 < 64] = colour
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(f"a {name} disc")
    return folder


def save_parts(folder: Path) -> Path:
    """Write an untrained autoencoder, text encoder and tokenizer for `denoiser_job`."""
    import torch

    torch.manual_seed(0)
    from diffusers import AutoencoderKL

    settings = {k: v for k, v in AUTOENCODER.items() if k != "_class_name"}
    AutoencoderKL(**settings).save_pretrained(folder / "vae")
    tiny_models.clip_text().save_pretrained(folder / "text_encoder")
    tiny_models.clip_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def autoencoder_job(root: Path, **sections: Any) -> TrainSpec:
    """An autoencoder job over twelve images: six steps with a batch of four."""
    return _job(root, {"recipe": "autoencoder", "model": {"autoencoder": AUTOENCODER}}, sections)


def denoiser_job(root: Path, **sections: Any) -> TrainSpec:
    """A denoiser job like `autoencoder_job`; it needs `save_parts(root / "parts")`."""
    parts = root / "parts"
    model = {
        "autoencoder": str(parts / "vae"),
        "denoiser": UNET,
        "text_encoder": str(parts / "text_encoder"),
        "tokenizer": str(parts / "tokenizer"),
        "train_text_encoder": True,
        "frozen_parameters": ["token_embedding"],
    }
    return _job(root, {"recipe": "denoiser", "model": model}, sections)


def _job(root: Path, values: dict[str, Any], sections: dict[str, Any]) -> TrainSpec:
    job = {
        "name": "tiny",
        "data": {"source": str(root / "pictures")},
        "output": str(root / "runs"),
        "cluster": {"workers": 1},
        **values,
    }
    defaults: dict[str, Any] = {
        "training": {
            "resolution": SIDE,
            "train_batch_size": 4,
            "max_train_steps": 6,
            "learning_rate": 1e-3,
            "checkpointing_steps": 2,
            "logging_steps": 1,
            "ema_decay": 0.9,
        },
        "samples": {"every_steps": 0, "num_images": 2, "num_inference_steps": 2},
    }
    for key in defaults.keys() | sections.keys():
        value = sections.get(key)
        if isinstance(value, dict):
            job[key] = {**defaults.get(key, job.get(key) or {}), **value}
        else:
            job[key] = defaults[key] if value is None else value
    return train_spec(job)
