"""Embedded metadata is checked before it is used: anybody may have written it."""

from dataclasses import replace
from typing import Any

import pytest
from support.cat_facts import CAT

from nightpress.diffusion_core.conditioning.passes import Pass
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.pipelines.records import ImageFacts, InputInfo
from nightpress.pipelines.shards.sound_facts import require_sound

PHOTO = InputInfo("init_image", "photo.png", "a" * 64, "cover")
DEPTH = LoraInfo("depth", "b" * 64, 0.7)
LARGER = Pass(1.5, 0.4, 10, 32, 16, 48, 32)

CONDITIONED = replace(
    CAT,
    mode="outpaint+control+reference",
    strength=0.8,
    canvas=(0, 8, 16, 0),
    controlnets=(DEPTH,),
    references=(DEPTH,),
    inputs=(PHOTO, replace(PHOTO, role="reference_image", fit="none")),
    passes=(LARGER,),
)


def test_facts_with_pictures_are_sound_and_survive_as_json() -> None:
    assert require_sound(CONDITIONED) == CONDITIONED
    assert ImageFacts.from_dict(CONDITIONED.as_dict()) == CONDITIONED
    assert ImageFacts.from_dict(CONDITIONED.as_row()) == CONDITIONED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "video"}, "there is no mode 'video'"),
        ({"mode": "image+reference+control"}, "there is no mode"),
        ({"strength": 0.0}, "strength is 0, but must be above 0 and up to 1"),
        ({"strength": 1.5}, "strength is 1.5"),
        ({"strength": float("nan")}, "strength"),
        ({"canvas": (0, 0, 0)}, "canvas is [0, 0, 0], but must be 4 numbers"),
        ({"canvas": (24, 0, 24, 0)}, "that leave some of the image"),
        ({"canvas": (-8, 0, 0, 0)}, "canvas is [-8, 0, 0, 0]"),
        ({"inputs": (replace(PHOTO, fit="tile"),)}, "there is no fit 'tile'"),
        ({"inputs": (PHOTO,) * 300}, "inputs: 300 entries, but at most 256"),
        ({"passes": (LARGER,) * 9}, "passes: 9 entries, but at most 8"),
        ({"passes": (replace(LARGER, width=64),)}, "one ends at 64 x 32, not 48 x 32"),
        ({"passes": (replace(LARGER, from_width=64),)}, "begins with a larger image"),
        ({"passes": (replace(LARGER, from_width=0),)}, "begins with a larger image"),
        ({"passes": (replace(LARGER, num_inference_steps=10**9),)}, "steps from 1 to 10000"),
        ({"passes": (replace(LARGER, strength=7.0),)}, "strength must be above 0 and up to 1"),
        ({"width": 48.5}, "width"),
    ],
)
def test_facts_that_cannot_be_true_are_refused_in_one_line(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match="invalid embedded metadata") as caught:
        require_sound(replace(CONDITIONED, **changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
