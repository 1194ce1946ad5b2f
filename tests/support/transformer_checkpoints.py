"""Transformers in the layouts of their makers, made from diffusers' networks, and as GGUF files.

The inverse of what diffusers does when it reads such a file, written from the layouts themselves.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from support.ldm_checkpoints import Tensors
from torch import Tensor

FLUX_WIDTH = 3072
"""The only width of FLUX.1 that diffusers' converter knows."""

FLUX_OUTER = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}
FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
FLUX_NORMS = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
SD3_OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    "proj_out": "final_layer.linear",
}
SD3_BLOCK = {
    "norm1.linear": "x_block.adaLN_modulation.1",
    "norm1_context.linear": "context_block.adaLN_modulation.1",
    "attn.to_out.0": "x_block.attn.proj",
    "attn.to_add_out": "context_block.attn.proj",
    "ff.net.0.proj": "x_block.mlp.fc1",
    "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1",
    "ff_context.net.2": "context_block.mlp.fc2",
}
SANA_OUTER = {
    "patch_embed.proj": "x_embedder.proj",
    "time_embed.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_embed.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_embed.linear": "t_block.1",
    "caption_projection.linear_1": "y_embedder.y_proj.fc1",
    "caption_projection.linear_2": "y_embedder.y_proj.fc2",
    "caption_norm": "attention_y_norm",
    "proj_out": "final_layer.linear",
}
SANA_BLOCK = {
    "attn1.to_out.0": "attn.proj",
    "attn2.to_q": "cross_attn.q_linear",
    "attn2.to_out.0": "cross_attn.proj",
    "ff.conv_inverted": "mlp.inverted_conv.conv",
    "ff.conv_depth": "mlp.depth_conv.conv",
    "ff.conv_point": "mlp.point_conv.conv",
}


def flux(network: Any) -> Tensors:
    """A `FluxTransformer2DModel` in the layout of Black Forest Labs."""
    held = network.state_dict()
    made = _outer(held, FLUX_OUTER)
    made |= _swapped(held, "norm_out.linear", "final_layer.adaLN_modulation.1")
    for block in range(network.config.num_layers):
        own, new = f"transformer_blocks.{block}.", f"double_blocks.{block}."
        made |= _block(held, own, new, FLUX_DOUBLE)
        made |= _joined(held, own, f"{new}img_attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v")
        context = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
        made |= _joined(held, own, f"{new}txt_attn.qkv", *context)
        for norm, name in FLUX_NORMS.items():
            made[f"{new}{name}.scale"] = held[f"{own}{norm}.weight"]
    for block in range(network.config.num_single_layers):
        own, new = f"single_transformer_blocks.{block}.", f"single_blocks.{block}."
        made |= _block(held, own, new, {"norm.linear": "modulation.lin", "proj_out": "linear2"})
        parts = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        made |= _joined(held, own, f"{new}linear1", *parts)
        made[f"{new}norm.query_norm.scale"] = held[f"{own}attn.norm_q.weight"]
        made[f"{new}norm.key_norm.scale"] = held[f"{own}attn.norm_k.weight"]
    return _whole(made, held)


def sd3(network: Any) -> Tensors:
    """An `SD3Transformer2DModel` in the layout of Stability AI."""
    held = network.state_dict()
    made = _outer(held, SD3_OUTER) | {"pos_embed": held["pos_embed.pos_embed"]}
    made |= _swapped(held, "norm_out.linear", "final_layer.adaLN_modulation.1")
    for block in range(network.config.num_layers):
        own, new = f"transformer_blocks.{block}.", f"joint_blocks.{block}."
        made |= _block(held, own, new, SD3_BLOCK)
        parts = ("attn.to_q", "attn.to_k", "attn.to_v")
        made |= _joined(held, own, f"{new}x_block.attn.qkv", *parts)
        context = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
        made |= _joined(held, own, f"{new}context_block.attn.qkv", *context)
        if block == network.config.num_layers - 1:
            name = f"{new}context_block.adaLN_modulation.1"
            made |= _swapped(held, f"{own}norm1_context.linear", name)
    return _whole(made, held)


def sana(network: Any) -> Tensors:
    """A `SanaTransformer2DModel` in the layout of NVIDIA, whose files hold two tensors more."""
    held = network.state_dict()
    made = _outer(held, SANA_OUTER)
    made["final_layer.scale_shift_table"] = held["scale_shift_table"]
    for block in range(network.config.num_layers):
        own, new = f"transformer_blocks.{block}.", f"blocks.{block}."
        made |= _block(held, own, new, SANA_BLOCK)
        made[f"{new}scale_shift_table"] = held[f"{own}scale_shift_table"]
        made |= _joined(held, own, f"{new}attn.qkv", "attn1.to_q", "attn1.to_k", "attn1.to_v")
        made |= _joined(held, own, f"{new}cross_attn.kv_linear", "attn2.to_k", "attn2.to_v")
    made = _whole(made, held)
    width = network.config.caption_channels
    return made | {
        "pos_embed": torch.zeros(1, 4, 8),
        "y_embedder.y_embedding": torch.ones(3, width),
    }


def _outer(held: Mapping[str, Tensor], names: Mapping[str, str]) -> Tensors:
    return _block(held, "", "", names)


def _block(held: Mapping[str, Tensor], own: str, new: str, names: Mapping[str, str]) -> Tensors:
    return {
        f"{new}{name}.{end}": held[f"{own}{layer}.{end}"]
        for layer, name in names.items()
        for end in ("weight", "bias")
        if f"{own}{layer}.{end}" in held
    }


def _joined(held: Mapping[str, Tensor], own: str, new: str, *layers: str) -> Tensors:
    """Layers over the same input, as one layer."""
    return {
        f"{new}.{end}": torch.cat([held[f"{own}{layer}.{end}"] for layer in layers])
        for end in ("weight", "bias")
        if f"{own}{layers[0]}.{end}" in held
    }


def _swapped(held: Mapping[str, Tensor], own: str, new: str) -> Tensors:
    """A modulation with its shift before its scale."""
    return {
        f"{new}.{end}": torch.cat(held[f"{own}.{end}"].chunk(2)[::-1]) for end in ("weight", "bias")
    }


def _whole(made: Tensors, held: Mapping[str, Tensor]) -> Tensors:
    """The same, once it is sure that every number of the network is in it."""
    numbers = [sum(each.numel() for each in tensors.values()) for tensors in (made, held)]
    assert numbers[0] == numbers[1], numbers
    return made


def narrow_flux_converter(width: int) -> Callable[..., Tensors]:
    """diffusers' own converter of FLUX.1 for a transformer of another width than 3072."""
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    code = convert_flux_transformer_checkpoint_to_diffusers.__code__
    assert FLUX_WIDTH in code.co_consts
    constants = tuple(width if value == FLUX_WIDTH else value for value in code.co_consts)
    return FunctionType(
        code.replace(co_consts=constants),
        convert_flux_transformer_checkpoint_to_diffusers.__globals__,
    )


def write_gguf(
    tensors: Mapping[str, Tensor], file: Path, kind: str = "Q8_0", architecture: str = "flux"
) -> Path:
    """Save tensors as a GGUF file, as quantising tools do it.

    Args:
        tensors: by their makers' names.
        file: the file to write.
        kind: ggml's name of the type of matrices whose rows are whole blocks; biases and norms stay
            in float32, and other matrices become F16.
        architecture: what the file says it is.
    """
    import gguf

    wanted = gguf.GGMLQuantizationType[kind]
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, value in tensors.items():
        values = value.float().numpy()
        if value.ndim == 2 and value.shape[-1] % block == 0 and re.search(r"weight$", name):
            writer.add_tensor(name, gguf.quantize(values, wanted), raw_dtype=wanted)
        else:
            writer.add_tensor(name, values.astype("float16") if value.ndim > 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
