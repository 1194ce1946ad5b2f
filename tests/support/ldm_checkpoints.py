"""Single files in the layouts of LDM, OpenCLIP and ComfyUI, made from diffusers' networks.

The inverse of what diffusers does when it reads such a file, written from the layouts themselves.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]

UNET, VAE = "model.diffusion_model.", "first_stage_model."
SD1_CLIP = "cond_stage_model.transformer."
SD2_CLIP = "cond_stage_model.model."
SDXL_CLIP, SDXL_BIGG = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
REFINER_BIGG = "conditioner.embedders.0.model."

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
VAE_NAMES = (
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("mid_block.resnets.0", "mid.block_1"),
    ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0", "mid.attn_1"),
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
    ("resnets", "block"),
    ("downsamplers.0", "downsample"),
    ("upsamplers.0", "upsample"),
)
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def ldm_unet(network: Any, prefix: str = UNET) -> Tensors:
    """A `UNet2DConditionModel` in LDM's layout."""
    per_block = network.config.layers_per_block + 1
    with_attention = [
        index
        for index, kind in enumerate(network.config.up_block_types)
        if kind.startswith("CrossAttn")
    ]
    return {
        prefix + _unet_name(name, per_block, with_attention): value
        for name, value in network.state_dict().items()
    }


def _unet_name(name: str, per_block: int, with_attention: list[int]) -> str:
    layer, _, end = name.rpartition(".")
    if layer in OUTER:
        return f"{OUTER[layer]}.{end}"
    if match := re.match(r"mid_block\.(\w+\.\d)\.(.+)", name):
        return f"middle_block.{MIDDLE[match[1]]}.{_resnet(match[1], match[2])}"
    match = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", name)
    assert match is not None, name
    way, block, kind, place, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    first = block * per_block + (1 if way == "down" else 0)
    blocks = "input_blocks" if way == "down" else "output_blocks"
    if kind == "downsamplers":
        return f"{blocks}.{first + per_block - 1}.0.op.{end}"
    if kind == "upsamplers":
        slot = 2 if block in with_attention else 1
        return f"{blocks}.{first + per_block - 1}.{slot}.conv.{end}"
    slot = 0 if kind == "resnets" else 1
    return f"{blocks}.{first + place}.{slot}.{_resnet(kind, rest)}"


def _resnet(kind: str, rest: str) -> str:
    if not kind.startswith("resnets"):
        return rest
    layer, _, end = rest.rpartition(".")
    return f"{RESNET[layer]}.{end}"


def ldm_vae(network: Any, prefix: str = VAE) -> Tensors:
    """An `AutoencoderKL` in LDM's layout, whose attention is made of 1 x 1 convolutions."""
    last = len(network.config.block_out_channels) - 1
    made = {}
    for name, value in network.state_dict().items():
        new = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
        new = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{last - int(match[1])}", new)
        for old, ldm in VAE_NAMES:
            new = re.sub(rf"(^|\.){re.escape(old)}(?=\.)", rf"\g<1>{ldm}", new)
        is_attention = "attn_1" in new and new.endswith(".weight") and value.ndim == 2
        made[prefix + new] = value[:, :, None, None].clone() if is_attention else value
    return made


def hf_clip(network: Any, prefix: str = SD1_CLIP) -> Tensors:
    """A CLIP text encoder in transformers' layout, as LDM keeps the one of SD 1.x."""
    return {prefix + _with_text_model(name): value for name, value in network.state_dict().items()}


def _with_text_model(name: str) -> str:
    is_inside = name.startswith(("text_model.", "text_projection"))
    return name if is_inside else f"text_model.{name}"


def open_clip(network: Any, prefix: str, unused_layer: bool = False) -> Tensors:
    """A CLIP text encoder in OpenCLIP's layout.

    Args:
        network: the text encoder.
        prefix: what the names begin with.
        unused_layer: add a last layer, as in SD 2.x, which uses the one before it.
    """
    held = {_with_text_model(name): value for name, value in network.state_dict().items()}
    made: Tensors = {}
    for name, value in held.items():
        if name.startswith("text_model.encoder.layers."):
            made |= _open_clip_layer(name, value, held)
    number = network.config.num_hidden_layers
    if unused_layer:
        last = {k: v for k, v in made.items() if f"resblocks.{number - 1}." in k}
        made |= {
            k.replace(f"resblocks.{number - 1}.", f"resblocks.{number}."): v.clone()
            for k, v in last.items()
        }
    embeddings = "text_model.embeddings"
    made["positional_embedding"] = held[f"{embeddings}.position_embedding.weight"]
    made["token_embedding.weight"] = held[f"{embeddings}.token_embedding.weight"]
    for end in ("weight", "bias"):
        made[f"ln_final.{end}"] = held[f"text_model.final_layer_norm.{end}"]
    width = made["token_embedding.weight"].shape[1]
    projection = held.get("text_projection.weight")
    made["text_projection"] = torch.eye(width) if projection is None else projection.T.contiguous()
    made["logit_scale"] = torch.tensor(4.6)
    return {prefix + name: value for name, value in made.items()}


def _open_clip_layer(name: str, value: Tensor, held: Mapping[str, Tensor]) -> Tensors:
    number, rest = name.removeprefix("text_model.encoder.layers.").split(".", 1)
    block = f"transformer.resblocks.{number}"
    layer, _, end = rest.rpartition(".")
    if layer in OPEN_CLIP:
        return {f"{block}.{OPEN_CLIP[layer]}.{end}": value}
    stem = name.rpartition(".self_attn.")[0] + ".self_attn"
    parts = [held[f"{stem}.{part}.{end}"] for part in ("q_proj", "k_proj", "v_proj")]
    return {f"{block}.attn.in_proj_{end}": torch.cat(parts)}


def sd1(pipeline: Any) -> Tensors:
    """A whole SD 1.x."""
    return (
        ldm_unet(pipeline.unet) | ldm_vae(pipeline.vae) | hf_clip(pipeline.text_encoder, SD1_CLIP)
    )


def sd2(pipeline: Any) -> Tensors:
    """A whole SD 2.x."""
    text = open_clip(pipeline.text_encoder, SD2_CLIP, unused_layer=True)
    return ldm_unet(pipeline.unet) | ldm_vae(pipeline.vae) | text


def sdxl(pipeline: Any) -> Tensors:
    """A whole SDXL, or its refiner."""
    made = ldm_unet(pipeline.unet) | ldm_vae(pipeline.vae)
    if pipeline.text_encoder is None:
        return made | open_clip(pipeline.text_encoder_2, REFINER_BIGG)
    made |= hf_clip(pipeline.text_encoder, SDXL_CLIP)
    return made | open_clip(pipeline.text_encoder_2, SDXL_BIGG)


def write(tensors: Mapping[str, Tensor], file: Path, dtype: torch.dtype | None = None) -> Path:
    """Save tensors as one safetensors file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            name: (value.to(dtype) if dtype and value.is_floating_point() else value).contiguous()
            for name, value in tensors.items()
        },
        file,
    )
    return file
