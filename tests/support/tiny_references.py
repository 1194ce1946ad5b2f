"""Random IP-Adapters of the tiny models in the layouts of the published ones, and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from nightpress.diffusion_core.conditioning.spec import Pixels

ENCODER = {"hidden_size": 32, "projection_dim": 24}
TOKENS_OF_PLUS = 3


def save(
    pipeline: Any, folder: Path, kind: str = "base", seed: int = 0, name: str = "ip.safetensors"
) -> Path:
    """Save an IP-Adapter for a pipeline, and an image encoder beside it; returns the folder.

    Args:
        pipeline: a tiny pipeline with a U-Net or FLUX' transformer.
        folder: of the adapter.
        kind: `base`, `plus` (of hidden states) or `faceid`.
        seed: of the weights.
        name: of the weight file.
    """
    random = torch.Generator().manual_seed(seed)
    if hasattr(pipeline, "unet"):
        projection = PROJECTIONS[kind](pipeline.unet.config.cross_attention_dim)
        tensors = of_unet(pipeline.unet) | {f"image_proj.{k}": v for k, v in projection.items()}
    else:
        tensors = of_flux(pipeline.transformer)
    folder.mkdir(parents=True, exist_ok=True)
    values = {key: torch.randn(shape, generator=random) * 0.5 for key, shape in tensors.items()}
    save_file(values, folder / name)
    if not (folder / "image_encoder").exists():
        save_encoder(folder / "image_encoder")
    return folder


def save_encoder(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """Save a tiny image encoder of CLIP."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        **(ENCODER | settings),
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    torch.set_rng_state(state)
    return folder


def of_unet(unet: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the keys and values for each cross-attention of a U-Net."""
    layers = [n for n in unet.attn_processors if n.endswith("attn2.processor")]
    shapes = {}
    for number, name in enumerate(layers):
        weight = unet.get_submodule(name.removesuffix(".processor")).to_k.weight
        for part in ("to_k_ip", "to_v_ip"):
            shapes[f"ip_adapter.{2 * number + 1}.{part}.weight"] = tuple(weight.shape)
    return shapes


def of_flux(transformer: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors of an adapter for FLUX, as XLabs names them."""
    width, inner = transformer.config.joint_attention_dim, transformer.inner_dim
    shapes: dict[str, tuple[int, ...]] = {
        "ip_adapter_proj_model.proj.weight": (4 * width, ENCODER["projection_dim"]),
        "ip_adapter_proj_model.proj.bias": (4 * width,),
        "ip_adapter_proj_model.norm.weight": (width,),
        "ip_adapter_proj_model.norm.bias": (width,),
    }
    for block in range(transformer.config.num_layers):
        for part in ("k", "v"):
            stem = f"double_blocks.{block}.processor.ip_adapter_double_stream_{part}_proj"
            shapes |= {f"{stem}.weight": (inner, width), f"{stem}.bias": (inner,)}
    return shapes


def _base(width: int) -> dict[str, tuple[int, ...]]:
    return {
        "proj.weight": (4 * width, ENCODER["projection_dim"]),
        "proj.bias": (4 * width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }


def _plus(width: int) -> dict[str, tuple[int, ...]]:
    hidden = 8
    shapes: dict[str, tuple[int, ...]] = {
        "latents": (1, TOKENS_OF_PLUS, hidden),
        "proj_in.weight": (hidden, ENCODER["hidden_size"]),
        "proj_in.bias": (hidden,),
        "proj_out.weight": (width, hidden),
        "proj_out.bias": (width,),
        "norm_out.weight": (width,),
        "norm_out.bias": (width,),
    }
    for layer in range(4):
        shapes |= {
            f"layers.{layer}.0.norm1.weight": (hidden,),
            f"layers.{layer}.0.norm1.bias": (hidden,),
            f"layers.{layer}.0.norm2.weight": (hidden,),
            f"layers.{layer}.0.norm2.bias": (hidden,),
            f"layers.{layer}.0.to_q.weight": (64, hidden),
            f"layers.{layer}.0.to_kv.weight": (128, hidden),
            f"layers.{layer}.0.to_out.weight": (hidden, 64),
            f"layers.{layer}.1.0.weight": (hidden,),
            f"layers.{layer}.1.0.bias": (hidden,),
            f"layers.{layer}.1.1.weight": (4 * hidden, hidden),
            f"layers.{layer}.1.3.weight": (hidden, 4 * hidden),
        }
    return shapes


def _faceid(width: int) -> dict[str, tuple[int, ...]]:
    return {
        "proj.0.weight": (48, 24),
        "proj.0.bias": (48,),
        "proj.2.weight": (4 * width, 48),
        "proj.2.bias": (4 * width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }


PROJECTIONS: Mapping[str, Any] = {"base": _base, "plus": _plus, "faceid": _faceid}


def picture(seed: int, width: int = 40, height: int = 30) -> Pixels:
    """A picture of noise; (height, width, 3)."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)
