"""The ControlNet and the LoRA that come with the built-in model, and how they were made."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from nightpress.diffusion_core import builtin
from nightpress.diffusion_core.builtin.recipe import example_pictures
from nightpress.diffusion_core.builtin.recipe.duotone import duotone
from nightpress.diffusion_core.builtin.recipe.evaluate_controlnet import Case, adherence_db
from nightpress.diffusion_core.builtin.recipe.ship_adapter import ship
from nightpress.diffusion_core.theory.colour_patches import colour_patches

EXAMPLE = Path("jobs/examples/conditioned")
LORA = builtin.lora_folder() / "pytorch_lora_weights.safetensors"


def test_the_controlnet_fits_the_model_and_changes_its_skip_connections() -> None:
    from diffusers import ControlNetModel

    controlnet = ControlNetModel.from_pretrained(builtin.controlnet_folder(), dtype=torch.float32)
    unet = json.loads((builtin.folder() / "unet/config.json").read_text())
    for key in ("in_channels", "cross_attention_dim", "addition_embed_type_num_heads"):
        assert controlnet.config[key] == unet[key]
    with torch.no_grad():
        down, mid = controlnet(
            torch.zeros(1, 8, 16, 16),
            torch.tensor([900]),
            torch.zeros(1, 32, 192),
            torch.zeros(1, 3, 128, 128),
            return_dict=False,
        )
    assert [tuple(each.shape[1:]) for each in (*down, mid)] == [
        *((128, 16, 16), (128, 16, 16), (128, 8, 8)),
        *((160, 8, 8), (160, 4, 4), (192, 4, 4), (192, 4, 4)),
    ]
    assert all(each.abs().max() > 0 for each in (*down, mid))


def test_both_are_half_precision_and_small() -> None:
    weights = builtin.controlnet_folder() / "diffusion_pytorch_model.safetensors"
    for path, limit in ((weights, 25_000_000), (LORA, 1_000_000)):
        assert path.stat().st_size < limit
        with safe_open(path, framework="pt") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def test_shipping_keeps_values_and_metadata_and_drops_local_paths(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    save_file({"a": torch.tensor([0.5, 2.0])}, source / "w.safetensors", {"format": "pt"})
    (source / "config.json").write_text('{"_name_or_path": "/home/x", "a": 1}')
    assert ship(source, tmp_path / "new") > 0
    with safe_open(tmp_path / "new/w.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("a").equal(torch.tensor([0.5, 2.0], dtype=torch.float16))
    assert json.loads((tmp_path / "new/config.json").read_text()) == {"a": 1}


def test_the_drawn_pictures_of_the_example_are_those_of_its_script() -> None:
    drawn = {
        name: example_pictures.patches(each) for name, each in example_pictures.LAYOUTS.items()
    }
    for name, picture in {**drawn, "mask": example_pictures.mask()}.items():
        with Image.open(EXAMPLE / f"{name}.png") as image:
            assert np.array_equal(np.asarray(image), np.asarray(picture))
            if name != "mask":
                assert np.array_equal(colour_patches(np.asarray(image), 8), np.asarray(image))


def test_adherence_is_the_psnr_of_the_patches() -> None:
    control = np.full((16, 16, 3), 100, np.uint8)
    image = np.full((16, 16, 3), 110, np.uint8)
    found = adherence_db([Case("x", control)], [image])
    assert abs(found - 10 * np.log10(255**2 / 100)) < 1e-6


def test_duotones_have_no_other_colours() -> None:
    pixels = np.asarray(duotone(Image.new("RGB", (4, 4), "white")))
    assert (pixels == (0xFD, 0xF0, 0xD5)).all()
