"""Configurations of Stable Diffusion that follow from the shapes of a single file's tensors.

What shapes do not tell, such as the number of attention heads, is what the makers of a family
published with it.
"""

import re
from collections.abc import Mapping
from typing import Any

from nightpress.diffusion_core.models.single_file import families
from nightpress.diffusion_core.models.single_file.families import Family
from nightpress.diffusion_core.models.single_file.reading import SingleFile

Config = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]

HEAD_WIDTH = 64
"""Channels of an attention head in SD 2.x, in SDXL and in every CLIP of theirs."""

NUM_HEADS_OF_SD1 = 8

WRITTEN_BY = "0.42.0"
"""The version of diffusers whose `model_index.json` this is; a part of the model's fingerprint."""

BETAS: Config = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "prediction_type": "epsilon",
}


def pipeline_index(family: Family) -> Config:
    """The content of `model_index.json` for a family whose configurations follow from its file."""
    empty = [None, None]
    clip, tokenizer = ["transformers", "CLIPTextModel"], ["transformers", "CLIPTokenizer"]
    common: Config = {
        "_class_name": family.pipelines[0],
        "_diffusers_version": WRITTEN_BY,
        "vae": ["diffusers", "AutoencoderKL"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "feature_extractor": empty,
        "image_encoder": empty,
    }
    if family.pipelines == families.OF_SD1:
        return common | {
            "text_encoder": clip,
            "tokenizer": tokenizer,
            "scheduler": ["diffusers", "PNDMScheduler"],
            "safety_checker": empty,
            "requires_safety_checker": False,
        }
    is_refiner = family.pipelines == families.REFINER
    return common | {
        "text_encoder": empty if is_refiner else clip,
        "tokenizer": empty if is_refiner else tokenizer,
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": tokenizer,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "force_zeros_for_empty_prompt": not is_refiner,
        **({"requires_aesthetics_score": True} if is_refiner else {}),
    }


def inferred(
    family: Family, file: SingleFile, component: str, prediction_type: str = "epsilon"
) -> Config | None:
    """The configuration of a component; None if the file does not tell it.

    Args:
        family: one that `is_inferred`.
        file: its tensors.
        component: diffusers' name of a network, or `scheduler`.
        prediction_type: that of the scheduler; SD 2.x that predicts v makes 768 x 768 pixels.
    """
    if component == "scheduler":
        return None if "scheduler" in family.asked else _scheduler(family)
    part, headers = file.parts.get("denoiser" if component == "unet" else component, (None, {}))
    if part is None:
        return None
    shapes = {name.removeprefix(part.prefix): each.shape for name, each in headers.items()}
    match part.layout:
        case "denoiser":
            return _unet(family, shapes, prediction_type)
        case "vae":
            return _vae(family, shapes)
        case "clip":
            return _clip({name.removeprefix("text_model."): s for name, s in shapes.items()})
        case "open_clip":
            return _open_clip(shapes)
    return None


def with_markers(scheduler: Mapping[str, Any], file: SingleFile) -> Config:
    """A scheduler's configuration with what the file's markers say of it."""
    changed = dict(scheduler)
    if "v_pred" in file.markers:
        changed["prediction_type"] = "v_prediction"
    if "ztsnr" in file.markers:
        changed |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return changed


def _scheduler(family: Family) -> Config:
    """Source: the scheduler_config.json published with SD 1.5 and with SDXL."""
    if family.pipelines == families.OF_SD1:
        own = {"skip_prk_steps": True, "set_alpha_to_one": False, "clip_sample": False}
        return {"_class_name": "PNDMScheduler", **BETAS, **own}
    return {"_class_name": "EulerDiscreteScheduler", **BETAS, "timestep_spacing": "leading"}


def _unet(family: Family, shapes: Shapes, prediction_type: str) -> Config:
    """A U-Net, whose input blocks are counted from 1; one with `op` ends a resolution."""
    blocks: list[list[int]] = [[]]
    for number in range(1, 1 + _highest(shapes, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{number}.0.op.weight" in shapes:
            blocks.append([])
        else:
            blocks[-1].append(number)
    widths = [shapes[f"input_blocks.{each[0]}.0.out_layers.3.weight"][0] for each in blocks]
    depths = [_depth(shapes, f"input_blocks.{each[0]}.1.") for each in blocks]
    middle = _depth(shapes, "middle_block.1.")
    kinds = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    layers = [depth or 1 for depth in depths[:-1]] + [depths[-1] or middle]
    projection = next(s for name, s in shapes.items() if name.endswith(".1.proj_in.weight"))
    context = next(s[-1] for name, s in shapes.items() if name.endswith("attn2.to_k.weight"))
    is_sd1 = family.title.startswith(families.SD1.title)
    config: Config = {
        "sample_size": _sample_size(family, prediction_type),
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "down_block_types": kinds,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(kinds)],
        "block_out_channels": widths,
        "layers_per_block": len(blocks[0]),
        "cross_attention_dim": context,
        "attention_head_dim": NUM_HEADS_OF_SD1 if is_sd1 else [w // HEAD_WIDTH for w in widths],
        "use_linear_projection": len(projection) == 2,
        "transformer_layers_per_block": layers if max(layers) > 1 else 1,
    }
    if family.pipelines == families.OF_SD1:
        return config if is_sd1 else config | {"upcast_attention": True}
    return config | {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": shapes["label_emb.0.0.weight"][1],
    }


def _sample_size(family: Family, prediction_type: str) -> int:
    if family.pipelines != families.OF_SD1:
        return 128
    return 96 if "scheduler" in family.asked and prediction_type == "v_prediction" else 64


def _vae(family: Family, shapes: Shapes) -> Config:
    number = 1 + _highest(shapes, r"encoder\.down\.(\d+)\.")
    widths = [shapes[f"encoder.down.{each}.block.0.conv1.weight"][0] for each in range(number)]
    is_xl = family.pipelines != families.OF_SD1
    return {
        "sample_size": 1024 if is_xl else 512,
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * number,
        "up_block_types": ["UpDecoderBlock2D"] * number,
        "layers_per_block": 1 + _highest(shapes, r"encoder\.down\.0\.block\.(\d+)\."),
        "scaling_factor": 0.13025 if is_xl else 0.18215,
    }


def _clip(shapes: Shapes) -> Config:
    """The text encoder of CLIP ViT-L/14, in transformers' layout."""
    return _text_encoder(
        shapes["embeddings.token_embedding.weight"],
        shapes["embeddings.position_embedding.weight"],
        shapes["encoder.layers.0.mlp.fc1.weight"],
        1 + _highest(shapes, r"encoder\.layers\.(\d+)\."),
        "quick_gelu",
    )


def _open_clip(shapes: Shapes) -> Config:
    """The text encoder of an OpenCLIP."""
    return _text_encoder(
        shapes["token_embedding.weight"],
        shapes["positional_embedding"],
        shapes["transformer.resblocks.0.mlp.c_fc.weight"],
        1 + _highest(shapes, r"transformer\.resblocks\.(\d+)\."),
        "gelu",
    )


def _text_encoder(
    tokens: tuple[int, ...],
    positions: tuple[int, ...],
    widening: tuple[int, ...],
    layers: int,
    activation: str,
) -> Config:
    vocabulary, width = tokens
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": widening[0],
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // HEAD_WIDTH, 1),
        "max_position_embeddings": positions[0],
        "projection_dim": width,
        "hidden_act": activation,
        "bos_token_id": 0,
        "eos_token_id": 2,  # as published, though the last token is another; the pooling knows
        "pad_token_id": 1,
    }


def _depth(shapes: Shapes, block: str) -> int:
    """The number of transformer layers of a block; 0 without attention."""
    return 1 + _highest(shapes, re.escape(block) + r"transformer_blocks\.(\d+)\.")


def _highest(shapes: Shapes, pattern: str) -> int:
    """The highest number that a pattern finds at the beginning of a name; -1 if it finds none."""
    found = (re.match(pattern, name) for name in shapes)
    return max((int(match[1]) for match in found if match), default=-1)
