"""The example job of conditioned images shows what it says, with the built-in model."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from support.conditioned_runs import made_example

from nightpress.diffusion_core.theory.colour_patches import colour_patches
from nightpress.diffusion_core.theory.psnr import mean_squared_error, psnr_db
from nightpress.pipelines import Run

Pixels = npt.NDArray[np.uint8]

EXAMPLE = Path("jobs/examples/conditioned.yaml")
PICTURES = EXAMPLE.with_suffix("")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The example with two steps for each image."""
    output = tmp_path_factory.mktemp("press")
    return made_example(EXAMPLE, output, num_steps=2, batch_size=2)


def psnr(one: Pixels, other: Pixels) -> float:
    return psnr_db(mean_squared_error(one, other))


def facts_by_id(run: Run) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in run.metadata.to_table().to_pylist()}


def pixels(run: Run, facts: dict[str, Any]) -> Pixels:
    with run.image(facts["image_id"]) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.slow
def test_it_shows_every_mode_of_the_built_in_model(run: Run) -> None:
    images = facts_by_id(run)
    assert len(images) == 16
    assert {each["mode"] for each in images.values()} == {
        *("text", "image", "inpaint", "outpaint", "text+control", "image+control")
    }
    loras = {key for key, each in images.items() if each["loras"]}
    assert loras == {"image-lora", "control-lora", "lora"}
    assert [each["name"] for each in images["control"]["controlnets"]] == ["patches"]


def test_inpainting_keeps_the_picture_where_the_mask_is_black(run: Run) -> None:
    found = pixels(run, facts_by_id(run)["inpaint"])
    with Image.open(PICTURES / "house.png") as house, Image.open(PICTURES / "mask.png") as mask:
        before, kept = np.asarray(house.convert("RGB")), np.asarray(mask.convert("L")) < 128
    assert psnr(found[kept], before[kept]) > psnr(found[~kept], before[~kept]) + 6


def test_the_controlnet_brings_images_closer_to_the_patches(run: Run) -> None:
    images = facts_by_id(run)
    with Image.open(PICTURES / "heart.png") as heart:
        asked = np.asarray(heart.convert("RGB"))
    found = [
        psnr(colour_patches(pixels(run, images[key]), 8), asked)
        for key in ("control-3", "control-half", "text")
    ]
    assert found[0] > found[1] > found[2]
