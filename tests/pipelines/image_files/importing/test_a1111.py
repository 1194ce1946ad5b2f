"""Texts of A1111 and Forge become settings, and what has no counterpart is noted."""

import json

import pytest

from nightpress.pipelines.image_files.importing.a1111 import made_by_a1111
from nightpress.pipelines.image_files.importing.a1111_text import (
    MAX_TEXT_CHARS,
    parse_parameters,
)
from nightpress.pipelines.image_files.importing.made_image import MadeImage, UnreadableImage

PLAIN = """girl with an artist's beret, determined, blue eyes, ((eyeshadow)), detailed
Negative prompt: ugly, fat, (((deformed))), [blurry], bad anatomy
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 965400086, Size: 512x768, Model hash: 45dee52b"""

SDXL = """cinematic photo of a lighthouse, <lora:add-detail-xl:0.8> storm <lora:ink:1>
Negative prompt: lowres
Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 5.5, Seed: 3141592653, \
Size: 832x1216, Model hash: 31e35c80fc, Model: sd_xl_base_1.0, \
VAE hash: 235745af8d, VAE: sdxl_vae.safetensors, \
Lora hashes: "add-detail-xl: 9c783c8ce46c, ink: 1a2b3c4d5e6f", Version: v1.10.1"""

HIRES = """a castle
Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1, Size: 512x512, Model: dream, \
Denoising strength: 0.4, Clip skip: 2, Hires upscale: 2, Hires steps: 12, \
Hires upscaler: 4x-UltraSharp, Version: v1.6.0"""

FORGE = """a sign that says "hello, world"
Steps: 20, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 7, \
Size: 896x1152, Model hash: 4610115bb0, Model: flux1-dev-bnb-nf4, \
Version: f2.0.1v1.10.1-previous-224"""

EXTENSIONS = """portrait, <hypernet:foo:1>
Negative prompt: easynegative
Steps: 25, Sampler: DPM++ SDE Karras, CFG scale: 7, Seed: 11, Size: 512x512, Model: dream, \
ENSD: 31337, ADetailer model: face_yolov8n.pt, \
ADetailer prompt: "smile, \\"wide\\": yes", ADetailer confidence: 0.3, \
ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny [d14c016b], Weight: 1", \
TI hashes: "easynegative: c74b4e810b03", Version: v1.9.4"""

TEMPLATE = """a red cat
Negative prompt: blur
Steps: 20, Sampler: DDIM, CFG scale: 7, Seed: 5, Size: 512x512, Version: v1.9.4
Template: a {red|blue} cat
Negative Template: blur"""


def made(text: str) -> MadeImage:
    return made_by_a1111("a.png", text)


def notes(image: MadeImage) -> list[str]:
    return list(map(str, image.notes))


def test_a_plain_text_is_carried_over_whole() -> None:
    image = made(PLAIN)
    assert image.settings == {
        "prompt": "girl with an artist's beret, determined, blue eyes, ((eyeshadow)), detailed",
        "negative_prompt": "ugly, fat, (((deformed))), [blurry], bad anatomy",
        "num_inference_steps": 20,
        "scheduler": "euler-ancestral",
        "guidance_scale": 7.0,
        "seed": 965400086,
        "width": 512,
        "height": 768,
    }
    assert (image.model, image.model_hash, image.notes) == (None, "45dee52b", [])


def test_loras_leave_the_prompt_with_their_scales_and_hashes() -> None:
    image = made(SDXL)
    assert image.settings["prompt"] == "cinematic photo of a lighthouse, storm"
    assert image.settings["scheduler"] == "dpmsolver++-karras"
    assert [(each.name, each.scale, each.sha256) for each in image.loras] == [
        ("add-detail-xl", 0.8, "9c783c8ce46c"),
        ("ink", 1.0, "1a2b3c4d5e6f"),
    ]
    assert (image.model, image.model_hash) == ("sd_xl_base_1.0", "31e35c80fc")
    assert notes(image) == [
        "left out: VAE hash: 235745af8d",
        "left out: VAE: sdxl_vae.safetensors",
    ]


@pytest.mark.parametrize(
    ("tag", "scale", "note"),
    [
        ("<lora:ink>", 1.0, None),
        ("<lora:sub/ink.safetensors:0.5>", 0.5, None),
        ("<lora:ink:0.5:0.9>", 0.5, "only the first of its settings is taken"),
        ("<lora:ink:strong>", None, "has no scale that is a number"),
        ("<lora:ink:nan>", None, "has no scale that is a number"),
        ("<lora:ink:0.5><lora:ink:0.7>", 0.5, "comes twice; the first is taken"),
    ],
)
def test_every_form_of_a_lora_is_read_or_noted(
    tag: str, scale: float | None, note: str | None
) -> None:
    image = made(f"a fox {tag}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64")
    assert image.settings["prompt"] == "a fox"
    assert [(each.name, each.scale) for each in image.loras] == ([("ink", scale)] if scale else [])
    said = notes(image)
    assert len(said) == (note is not None)
    assert note is None or note in said[0]


def test_hires_fix_is_a_pass_that_takes_the_same_steps() -> None:
    image = made(HIRES)
    (again,) = image.passes
    assert (again.scale, again.strength) == (2.0, 0.4)
    assert int(again.num_inference_steps * again.strength) == 12
    assert image.clip_skip == 2
    assert notes(image) == ["differs: upscaler: 4x-UltraSharp is taken as Lanczos"]


@pytest.mark.parametrize(
    ("hires", "scale", "taken"),
    [
        ("Hires upscale: 1.5, Hires upscaler: Lanczos", 1.5, 28),
        ("Hires resize: 1024x1024, Hires upscaler: Lanczos", 2.0, 28),
        ("Hires resize: 0x768, Hires steps: 9, Hires upscaler: Lanczos", 1.5, 9),
    ],
)
def test_hires_fix_may_name_a_size_and_no_steps(hires: str, scale: float, taken: int) -> None:
    rest = HIRES.partition("Denoising")[0]
    (again,) = made(f"{rest}Denoising strength: 0.35, {hires}, Version: v1.6.0").passes
    assert again.scale == scale
    assert int(again.num_inference_steps * again.strength) == taken


def test_forges_text_of_a_flow_model_has_its_guidance_and_its_euler() -> None:
    image = made(FORGE)
    assert image.is_flow
    assert image.settings["scheduler"] == "flow-euler"
    assert image.settings["guidance_scale"] == 3.5
    assert image.settings["prompt"] == 'a sign that says "hello, world"'
    assert image.notes == []


def test_everything_without_a_counterpart_is_noted_by_name() -> None:
    image = made(EXTENSIONS)
    assert "scheduler" not in image.settings
    said = notes(image)
    assert said[0] == "left out: hypernetwork: <hypernet:foo:1>"
    assert said[1] == (
        "left out: sampler: sampler 'DPM++ SDE Karras' of other programs has no equal here; the "
        "nearest: dpmsolver-sde-karras, dpmsolver++-karras"
    )
    assert 'left out: ADetailer: model: face_yolov8n.pt; prompt: smile, "wide": yes; ' in said[3]
    assert [each.what for each in image.notes] == [
        *("hypernetwork", "sampler", "ENSD", "ADetailer", "ControlNet 0", "TI hashes")
    ]


def test_lines_behind_the_settings_are_noted() -> None:
    image = made(TEMPLATE)
    assert image.settings["prompt"] == "a red cat"
    assert image.settings["scheduler"] == "ddim"
    assert notes(image) == [
        "left out: Template: a {red|blue} cat",
        "left out: Negative Template: blur",
    ]


def test_prompts_have_several_lines_and_may_look_like_settings() -> None:
    text = (
        "Steps: a staircase, many: steps, of: stone\nsecond line\n"
        "Negative prompt: bad hands: yes\nSteps: 3, Sampler: none, in: fog, of: war\n\n"
        "Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64"
    )
    parsed = parse_parameters(text)
    assert parsed.prompt == "Steps: a staircase, many: steps, of: stone\nsecond line"
    assert parsed.negative_prompt == "bad hands: yes\nSteps: 3, Sampler: none, in: fog, of: war"
    assert parsed.settings["Steps"] == "20"
    assert parse_parameters(text.replace("\n", "\r\n")) == parsed


@pytest.mark.parametrize("value", ["a, b", 'say "hi"', "x: y", "back\\slash", "line\nbreak", "a"])
def test_a_quoted_value_comes_back_as_it_was(value: str) -> None:
    line = f"Steps: 20, Sampler: Euler, Odd key: {json.dumps(value)}, Seed: 1"
    assert parse_parameters(f"p\n{line}").settings["Odd key"] == value


def test_pieces_that_are_no_pairs_are_noted() -> None:
    image = made('p\nSteps: 20, Sampler: Euler, Seed: 1, odd piece, Broken: "no end, Seed: 2')
    assert "left out: text: odd piece" in notes(image)
    assert 'left out: Broken: "no end' in notes(image)
    assert "left out: Seed: 2" in notes(image)


def test_image_to_image_names_no_picture_so_that_is_said() -> None:
    image = made(PLAIN.replace("Model hash", "Denoising strength: 0.6, Mask blur: 4, Model hash"))
    assert "strength" not in image.settings
    assert notes(image) == [
        "left out: image to image: strength 0.6; the text does not name the picture, so set "
        "init_image",
        "left out: Mask blur: 4",
    ]


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ("Seed: 965400086", f"Seed: {2**63}", f"left out: seed: {2**63} is not between 0 and"),
        ("Seed: 965400086", "Seed: -1", "left out: seed: -1 is not between 0 and 2^53 - 1"),
        ("Seed: 965400086, ", "", "left out: seed: there is none"),
        ("Steps: 20,", "Steps: 0,", "left out: Steps: 0"),
        ("Steps: 20,", "Steps: 99999999999999999999,", "left out: Steps: 99999999999999999999"),
        ("CFG scale: 7", "CFG scale: nan", "left out: CFG scale: nan"),
        ("Size: 512x768", "Size: big", "left out: Size: big"),
        ("Sampler: Euler a", "Sampler: Eulur", "left out: sampler: there is no sampler 'Eulur'"),
    ],
)
def test_a_value_that_cannot_be_taken_is_noted(old: str, new: str, note: str) -> None:
    assert any(each.startswith(note) for each in notes(made(PLAIN.replace(old, new))))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no line of settings"),
        ("a list of words\nsecond", "no line of settings"),
        ("a fox\nSteps: many", "no line of settings"),
        ("x" * (MAX_TEXT_CHARS + 1), "its text has 200,001 characters; at most 200,000 are read"),
    ],
)
def test_a_text_that_no_row_can_be_made_of_is_refused(text: str, why: str) -> None:
    with pytest.raises(UnreadableImage, match=why) as caught:
        made(text)
    assert "\n" not in str(caught.value)


def test_a_text_of_nightpress_itself_is_read_without_weights() -> None:
    image = made("a (fox)\nSteps: 20, Sampler: DDIM, CFG scale: 3, Seed: 1, Version: nightpress")
    assert not image.reads_weights
    assert made(PLAIN).reads_weights
