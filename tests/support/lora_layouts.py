"""The layouts in which trainers and other programs save LoRAs, made from diffusers' own layout."""

from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def kohya(tensors: Mapping[str, Tensor], te: str = "lora_te1") -> Tensors:
    """kohya's layout of a LoRA of a U-Net: `lora_unet_down_blocks_0_....lora_down.weight`.

    Each layer gets an alpha that is not its rank, and CLIP the four layers of an attention.

    Args:
        tensors: diffusers' layout of the U-Net's layers.
        te: what the layers of CLIP begin with.
    """
    made: Tensors = {}
    for name, value in tensors.items():
        stem = "lora_" + name.partition(".lora_")[0].replace(".", "_")
        end = "lora_down" if name.endswith("lora_A.weight") else "lora_up"
        made[f"{stem}.{end}.weight"] = value.clone()
        made[f"{stem}.alpha"] = torch.tensor(1.5)
    return made | clip(f"{te}_text_model_", "_")


def clip(prefix: str, dot: str) -> Tensors:
    """The four layers of an attention of a tiny CLIP."""
    made: Tensors = {}
    for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
        name = prefix + dot.join(["encoder", "layers", "0", "self_attn", projection])
        made |= pair(name, 16, 16, "lora_down", "lora_up")
        made[f"{name}.alpha"] = torch.tensor(1.0)
    return made


def pair(layer: str, rows: int, columns: int, down: str, up: str, rank: int = 2) -> Tensors:
    """The two factors of one layer, in which `down` and `up` name them."""
    generator = torch.Generator().manual_seed(len(layer))
    return {
        f"{layer}.{down}.weight": torch.randn(rank, columns, generator=generator),
        f"{layer}.{up}.weight": torch.randn(rows, rank, generator=generator),
    }


def flux_kohya(prefix: str = "lora_unet_", dot: str = "_") -> Tensors:
    """Layers of the tiny FLUX in kohya's layout, or with other arguments in ComfyUI's."""
    sizes = {"img_attn_qkv": (96, 32), "img_attn_proj": (32, 32), "txt_attn_qkv": (96, 32)}
    made: Tensors = {}
    for layer, size in sizes.items():
        kind, part, rest = layer.split("_")
        name = f"{prefix}double_blocks{dot}0{dot}{kind}_{part}{dot}{rest}"
        made |= pair(name, *size, "lora_down", "lora_up")
        made[f"{name}.alpha"] = torch.tensor(1.0)
    return made


def flux_t5(prefix: str, dot: str, zero: bool = False) -> Tensors:
    """A layer of the tiny FLUX' T5, which diffusers does not load."""
    name = dot.join([f"{prefix}encoder", "block", "0", "layer", "0", "SelfAttention", "q"])
    made = pair(name, 32, 32, "lora_down", "lora_up") | {f"{name}.alpha": torch.tensor(1.0)}
    if zero:
        made[f"{name}.lora_up.weight"].zero_()
    return made


def flux_comfy() -> Tensors:
    """ComfyUI's layout: `diffusion_model.double_blocks.0....`, and CLIP."""
    clip_l = "text_encoders.clip_l.transformer.text_model."
    return flux_kohya("diffusion_model.", ".") | clip(clip_l, ".")


def flux_xlabs() -> Tensors:
    """XLabs' layout: `double_blocks.0.processor.qkv_lora1.down.weight`."""
    made: Tensors = {}
    for layer, size in {
        "qkv_lora1": (96, 32),
        "qkv_lora2": (96, 32),
        "proj_lora1": (32, 32),
    }.items():
        made |= pair(f"double_blocks.0.processor.{layer}", *size, "down", "up")
    return made | pair("single_blocks.0.processor.proj_lora", 32, 160, "down", "up")
