"""Families are told by the names and shapes of tensors."""

from pathlib import Path

import pytest

from nightpress.diffusion_core.errors import IncompatibleLibrary, UnsupportedModel
from nightpress.diffusion_core.models.single_file import families
from nightpress.diffusion_core.models.single_file.families import find_family
from nightpress.diffusion_core.models.single_file.reading import SingleFile
from nightpress.diffusion_core.models.tensor_headers import TensorHeader

Shapes = dict[str, tuple[int, ...]]

UNET = "model.diffusion_model."
KEY_NORM = "double_blocks.0.img_attn.norm.key_norm.scale"


def file(shapes: Shapes, prefix: str = "") -> SingleFile:
    headers = {prefix + name: TensorHeader(shape, "F16") for name, shape in shapes.items()}
    return SingleFile(Path("x.safetensors"), "x.safetensors", headers)


def unet(channels: int = 4, context: int = 768, **more: tuple[int, ...]) -> SingleFile:
    names: Shapes = {
        f"{UNET}input_blocks.0.0.weight": (320, channels, 3, 3),
        f"{UNET}out.2.weight": (4, 320, 3, 3),
        f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, context),
    }
    return file(names | {name.replace("__", "."): shape for name, shape in more.items()})


@pytest.mark.parametrize(
    ("context", "title"),
    [(768, "SD 1.x"), (1024, "SD 2.x"), (2048, "SDXL"), (1280, "the refiner of SDXL")],
)
def test_a_unet_alone_is_told_by_the_width_of_its_text(context: int, title: str) -> None:
    assert find_family(unet(context=context)).title == title


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (5, "with a depth map"),
        (7, "that makes pictures larger"),
        (8, "that edits pictures"),
        (13, "with 13 channels of input"),
    ],
)
def test_a_unet_that_sees_more_than_latents_is_refused(channels: int, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        find_family(unet(channels))


def test_playground_is_told_by_the_mean_of_its_latents() -> None:
    assert find_family(unet(context=2048, edm_mean=(4,))) == families.PLAYGROUND


@pytest.mark.parametrize("prefix", ["", UNET])
@pytest.mark.parametrize(
    ("shapes", "title"),
    [
        ({KEY_NORM: (128,)}, "FLUX.1 schnell"),
        (
            {KEY_NORM: (128,), "guidance_in.in_layer.bias": (3,), "img_in.weight": (3, 64)},
            "FLUX.1 dev",
        ),
        (
            {KEY_NORM: (128,), "guidance_in.in_layer.bias": (3,), "img_in.weight": (3, 384)},
            "FLUX.1 Fill",
        ),
        ({"joint_blocks.0.context_block.adaLN_modulation.1.bias": (64,)}, "SD3"),
        ({"joint_blocks.37.x_block.mlp.fc1.weight": (64, 2)}, "SD 3.5 large"),
        ({"distilled_guidance_layer.in_proj.bias": (3,), KEY_NORM: (128,)}, "Chroma"),
    ],
)
def test_transformers_are_told_as_diffusers_tells_them(
    shapes: Shapes, title: str, prefix: str
) -> None:
    family = find_family(file(shapes, prefix))
    assert family.title == title
    assert family.example is not None
    assert "a folder with its configurations and tokenizers" in family.needed()


def test_sana_is_not_taken_for_pixart() -> None:
    cross = {
        f"blocks.0.cross_attn.{name}_linear.{end}": (2, 2)
        for name in ("q", "kv")
        for end in ("weight", "bias")
    }
    assert find_family(file(cross)).title == "Sana"
    with pytest.raises(UnsupportedModel, match="it is PixArt"):
        find_family(file(cross | {"t_block.1.weight": (2, 2), "blocks.0.mlp.fc1.weight": (2, 2)}))


def test_a_model_of_videos_is_refused() -> None:
    shapes = {"head.modulation": (1, 2), "patch_embedding.weight": (1536, 16, 1, 2, 2)}
    with pytest.raises(UnsupportedModel, match=r"wan-t2v-1\.3B, which makes no images from text"):
        find_family(file(shapes))


def test_an_upgrade_that_moves_the_inference_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("diffusers.loaders.single_file_utils.infer_diffusers_model_type")
    with pytest.raises(IncompatibleLibrary, match="tell the family of a model in one file"):
        find_family(file({KEY_NORM: (128,)}))
