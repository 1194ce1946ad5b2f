"""Configurations that follow from shapes are those that the makers of a family published."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support import ldm_checkpoints
from support.ldm_checkpoints import REFINER_BIGG, SD1_CLIP, SD2_CLIP, SDXL_BIGG, SDXL_CLIP, Tensors

from nightpress.diffusion_core.models.single_file import families
from nightpress.diffusion_core.models.single_file.configs import (
    inferred,
    pipeline_index,
    with_markers,
)
from nightpress.diffusion_core.models.single_file.families import Family, find_family
from nightpress.diffusion_core.models.single_file.reading import SingleFile
from nightpress.diffusion_core.models.tensor_headers import TensorHeader

OF_ALL = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2}
SD_BLOCKS = {
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "transformer_layers_per_block": 1,
}
LINEAR = {"use_linear_projection": True}
TEXT_TIME = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256, **LINEAR}

UNETS: dict[str, dict[str, Any]] = {
    "sd1": {
        **OF_ALL,
        **SD_BLOCKS,
        "sample_size": 64,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "use_linear_projection": False,
    },
    "sd2": {
        **OF_ALL,
        **SD_BLOCKS,
        **LINEAR,
        "sample_size": 64,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "upcast_attention": True,
    },
    "sdxl": {
        **OF_ALL,
        **TEXT_TIME,
        "sample_size": 128,
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "projection_class_embeddings_input_dim": 2816,
    },
    "refiner": {
        **OF_ALL,
        **TEXT_TIME,
        "sample_size": 128,
        "cross_attention_dim": 1280,
        "attention_head_dim": [6, 12, 24, 24],
        "block_out_channels": [384, 768, 1536, 1536],
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "transformer_layers_per_block": [1, 4, 4, 4],
        "projection_class_embeddings_input_dim": 2560,
    },
}
"""As published, but for the refiner's depth: 4 everywhere, also where there is no attention."""

TOKENS = {"vocab_size": 49408, "max_position_embeddings": 77}
TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    SD1_CLIP: ("CLIPTextModel", {"hidden_size": 768, "num_hidden_layers": 12}),
    SDXL_CLIP: ("CLIPTextModel", {"hidden_size": 768, "num_hidden_layers": 12}),
    SD2_CLIP: ("CLIPTextModel", {"hidden_size": 1024, "num_hidden_layers": 23}),
    SDXL_BIGG: ("CLIPTextModelWithProjection", {"hidden_size": 1280, "num_hidden_layers": 32}),
    REFINER_BIGG: ("CLIPTextModelWithProjection", {"hidden_size": 1280, "num_hidden_layers": 32}),
}
HEADS = {768: 12, 1024: 16, 1280: 20}
PREFIXES = {
    "sd1": [SD1_CLIP],
    "sd2": [SD2_CLIP],
    "sdxl": [SDXL_CLIP, SDXL_BIGG],
    "refiner": [REFINER_BIGG],
}
FAMILIES = {
    "sd1": families.SD1,
    "sd2": families.SD2,
    "sdxl": families.SDXL,
    "refiner": families.SDXL_REFINER,
}


def text_encoder(prefix: str) -> tuple[dict[str, Any], Tensors]:
    """The published configuration of a text encoder, and its tensors without memory."""
    import transformers

    class_name, own = TEXTS[prefix]
    width = own["hidden_size"]
    is_openai = prefix in (SD1_CLIP, SDXL_CLIP)
    config = TOKENS | {
        **own,
        "intermediate_size": 4 * width,
        "num_attention_heads": HEADS[width],
        "hidden_act": "quick_gelu" if is_openai else "gelu",
        "projection_dim": width,
    }
    kind = getattr(transformers, class_name)
    with torch.device("meta"):
        network = kind(transformers.CLIPTextConfig(**config))
        if is_openai:
            return config, ldm_checkpoints.hf_clip(network, prefix)
        return config, ldm_checkpoints.open_clip(network, prefix, unused_layer=prefix == SD2_CLIP)


def vae() -> Tensors:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        network = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
        )
        return ldm_checkpoints.ldm_vae(network)


def full_size(name: str, **unet: Any) -> SingleFile:
    """A full-size model as a file would hold it, by its headers alone."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network = UNet2DConditionModel(**{**UNETS[name], **unet})
        tensors = ldm_checkpoints.ldm_unet(network) | vae()
    for prefix in PREFIXES[name]:
        tensors |= text_encoder(prefix)[1]
    return of_headers(tensors)


def of_headers(tensors: Tensors) -> SingleFile:
    headers = {name: TensorHeader(tuple(value.shape), "F16") for name, value in tensors.items()}
    return SingleFile(Path("x.safetensors"), "x.safetensors", headers)


@pytest.mark.parametrize("name", UNETS)
def test_the_configurations_of_full_size_models_are_those_published(name: str) -> None:
    file = full_size(name)
    family = find_family(file)
    assert family == FAMILIES[name]
    found = inferred(family, file, "unet")
    assert found is not None
    assert {key: found[key] for key in UNETS[name]} == UNETS[name]
    autoencoder = inferred(family, file, "vae")
    assert autoencoder is not None
    assert autoencoder["block_out_channels"] == [128, 256, 512, 512]
    assert autoencoder["layers_per_block"] == 2
    assert autoencoder["latent_channels"] == 4
    scaling = 0.13025 if name in ("sdxl", "refiner") else 0.18215
    assert autoencoder["scaling_factor"] == scaling
    for prefix in PREFIXES[name]:
        component = "text_encoder_2" if prefix in (SDXL_BIGG, REFINER_BIGG) else "text_encoder"
        expected, _ = text_encoder(prefix)
        own = inferred(family, file, component)
        assert own is not None
        assert {key: own[key] for key in expected} == expected


@pytest.mark.parametrize(("name", "expected"), [("sd1", families.SD1_INPAINT), ("sdxl", None)])
def test_nine_channels_are_for_inpainting(name: str, expected: Family | None) -> None:
    file = full_size(name, in_channels=9)
    assert find_family(file) == (expected or families.SDXL_INPAINT)
    found = inferred(find_family(file), file, "unet")
    assert found is not None
    assert found["in_channels"] == 9


def test_a_text_encoder_of_sd2_without_its_last_layer_has_all_the_layers_that_it_has() -> None:
    file = full_size("sd2")
    kept = {
        name: header
        for name, header in file.all_headers.items()
        if "text_projection" not in name and ".resblocks.23." not in name
    }
    found = inferred(families.SD2, SingleFile(file.path, file.name, kept), "text_encoder")
    assert found is not None
    assert found["num_hidden_layers"] == 23


def test_sd2_makes_larger_images_when_it_predicts_v() -> None:
    file = full_size("sd2")
    for prediction_type, side in (("epsilon", 64), ("v_prediction", 96)):
        found = inferred(families.SD2, file, "unet", prediction_type)
        assert found is not None
        assert found["sample_size"] == side


def test_nothing_tells_the_scheduler_of_sd2() -> None:
    assert inferred(families.SD2, full_size("sd2"), "scheduler") is None
    for family in (families.SD1, families.SDXL):
        scheduler = inferred(family, full_size("sd1"), "scheduler")
        assert scheduler is not None
        assert scheduler["beta_schedule"] == "scaled_linear"
        assert pipeline_index(family)["scheduler"][1] == scheduler["_class_name"]


def test_markers_change_only_what_they_say() -> None:
    scheduler = {"prediction_type": "epsilon", "beta_end": 0.012}
    file = full_size("sdxl")
    assert with_markers(scheduler, file) == scheduler
    marked = SingleFile(
        file.path, file.name, {**file.all_headers, "v_pred": TensorHeader((0,), "F32")}
    )
    assert with_markers(scheduler, marked) == scheduler | {"prediction_type": "v_prediction"}
    assert "v_pred" not in marked.headers
