"""Embedded metadata, read back by the rules of the programs that read it."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cat_facts import CAT

from nightpress.diffusion_core.conditioning.passes import Pass
from nightpress.diffusion_core.models.lora_files import LoraInfo
from nightpress.pipelines.image_files.embedded_metadata import (
    AI_GENERATED,
    embedded_from_json,
    embedded_from_xmp,
    facts_json,
    parameters_text,
    xmp_packet,
)
from nightpress.pipelines.records import InputInfo

FACTS = replace(
    CAT,
    prompt="a cat, on a mat",
    negative_prompt="blurry, dull",
    seed=2**53 - 1,
    width=640,
    height=512,
    scheduler="dpmsolver++-karras",
)

NAMES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
}


def a1111_pairs(text: str) -> dict[str, str]:
    """The last line of a parameters text, split as its readers split it."""
    pair = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    found = dict(pair.findall(text.rpartition("\n")[2]))
    return {k: json.loads(v) if v.startswith('"') else v for k, v in found.items()}


def test_the_parameters_are_laid_out_as_readers_of_a1111_expect() -> None:
    assert parameters_text(FACTS) == (
        "a cat, on a mat\n"
        "Negative prompt: blurry, dull\n"
        "Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, "
        "Seed: 9007199254740991, Size: 640x512, Model hash: 0123456789, Model: builtin, "
        "Version: nightpress"
    )


def test_clip_skip_is_written_as_a1111_counts_it() -> None:
    skipped = replace(FACTS, prompt_reading='{"clip_skip":1}')
    assert a1111_pairs(parameters_text(skipped))["Clip skip"] == "2"
    read = replace(FACTS, prompt_reading='{"long":"chunks","weights":"a1111"}')
    assert parameters_text(read) == parameters_text(FACTS)
    assert embedded_from_json(facts_json(skipped)) == skipped
    assert "prompt_reading" not in facts_json(FACTS)


def test_without_a_negative_prompt_there_is_no_line_for_it() -> None:
    text = parameters_text(replace(FACTS, negative_prompt="", scheduler="euler"))
    assert text.split("\n")[1].startswith("Steps: 20, Sampler: Euler, CFG scale: 7.5,")


def test_trailing_timesteps_have_the_name_that_a1111_uses() -> None:
    pairs = a1111_pairs(parameters_text(replace(FACTS, scheduler="euler-ancestral-trailing")))
    assert (pairs["Sampler"], pairs["Schedule type"]) == ("Euler a", "SGM Uniform")


def test_integers_are_written_without_a_decimal_point() -> None:
    assert a1111_pairs(parameters_text(replace(FACTS, guidance_scale=7.0)))["CFG scale"] == "7"


@pytest.mark.parametrize(
    "model", ["s3://bucket/models/sd, v1", 'C:\\models\\"my" one', "hub/model@main", "two\nlines"]
)
def test_a_model_name_with_commas_colons_or_quotes_survives_the_pairing(model: str) -> None:
    pairs = a1111_pairs(parameters_text(replace(FACTS, model=model)))
    assert (pairs["Model"], pairs["Version"]) == (model, "nightpress")


@given(st.text(), st.text())
def test_facts_survive_json_and_xmp_whatever_the_prompt(prompt: str, negative: str) -> None:
    facts = replace(FACTS, prompt=prompt, negative_prompt=negative)
    assert embedded_from_json(facts_json(facts)) == facts
    assert embedded_from_xmp(xmp_packet(facts)) == facts


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_the_texts_can_be_stored_whatever_the_prompt(prompt: str) -> None:
    facts = replace(FACTS, prompt=prompt)
    assert "\0" not in parameters_text(facts)
    assert "\0" not in facts_json(facts)
    parameters_text(facts).encode()
    facts_json(facts).encode()
    ElementTree.fromstring(xmp_packet(facts))


def test_the_xmp_says_that_a_model_made_it_and_from_which_prompt() -> None:
    facts = replace(FACTS, prompt='<b>&"quoted"</b>\r\nlove, \u2764\ufe0f 猫')
    root = ElementTree.fromstring(xmp_packet(facts))

    def value(path: str) -> str | None:
        return root.findtext(f".//{path}", namespaces=NAMES)

    assert value("ext:DigitalSourceType") == AI_GENERATED
    assert value("ext:AISystemUsed") == "builtin"
    assert value("ext:AISystemVersionUsed") == FACTS.model_fingerprint
    assert value("ext:AIPromptInformation") == facts.prompt
    assert value("xmp:CreatorTool") == "nightpress"
    assert value("dc:description/rdf:Alt/rdf:li") == facts.prompt


def test_facts_are_found_when_another_tool_has_rewritten_the_xmp() -> None:
    description = ElementTree.Element(
        "Description", {"{urn:nightpress:1.0#}facts": facts_json(FACTS)}
    )
    assert embedded_from_xmp(ElementTree.tostring(description)) == FACTS


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"text"', '{"image_id": "a"}', "[" * 100_000])
def test_other_json_holds_no_facts(text: str) -> None:
    assert embedded_from_json(text) is None


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"<open>",
        b"<x/>",
        b"\xff\xfe\x00",
        b'<?xml version="1.0" encoding="no-such"?><x/>',
        b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>',
    ],
)
def test_other_xmp_holds_no_facts(packet: bytes) -> None:
    assert embedded_from_xmp(packet) is None


def test_without_acceleration_the_facts_have_no_speed() -> None:
    assert "speed" not in facts_json(FACTS)
    assert embedded_from_json(facts_json(FACTS)) == FACTS


def test_speed_settings_survive_json_and_xmp() -> None:
    fast = replace(FACTS, speed='{"channels_last":true}')
    assert embedded_from_json(facts_json(fast)) == fast
    assert embedded_from_xmp(xmp_packet(fast)) == fast


PHOTO = InputInfo("init_image", "photos/a, b.png", "a" * 64, "cover")
CONDITIONED = replace(
    FACTS,
    mode="inpaint+control+reference",
    strength=0.65,
    controlnets=(LoraInfo("depth", "c0ffee" + "0" * 58, 0.8),),
    references=(LoraInfo("style", "d" * 64, 1.0),),
    inputs=(
        PHOTO,
        replace(PHOTO, role="mask_image"),
        replace(PHOTO, role="control_image.depth", fit="stretch"),
        InputInfo("reference_image", None, "b" * 64, "none"),
    ),
)


def test_what_conditioned_an_image_is_written_as_a1111_writes_it() -> None:
    pairs = a1111_pairs(parameters_text(CONDITIONED))
    assert pairs["Denoising strength"] == "0.65"
    assert (pairs["Mask mode"], pairs["Mask blur"]) == ("Inpaint masked", "0")
    assert pairs["ControlNet 0"] == (
        "Model: depth [c0ffee00], Weight: 0.8, Resize Mode: Just Resize"
    )
    assert pairs["ControlNet 1"].startswith("Model: style [dddddddd], Weight: 1, ")
    assert pairs["Size"] == "640x512"


def test_passes_are_written_as_a1111_writes_its_hires_fix() -> None:
    """Its `Size` is that of the first sampling, and its steps are those that are taken."""
    one = Pass(1.25, 0.35, 20, 512, 512, 640, 640)
    pairs = a1111_pairs(parameters_text(replace(FACTS, width=640, height=640, passes=(one,))))
    assert pairs["Size"] == "512x512"
    assert pairs["Hires upscale"] == "1.25"
    assert pairs["Hires steps"] == "7"
    assert pairs["Hires upscaler"] == "Lanczos"
    assert pairs["Denoising strength"] == "0.35"


def test_passes_after_the_first_are_numbered_and_rounded_sizes_are_spelled_out() -> None:
    first = Pass(1.3, 0.5, 4, 16, 16, 24, 24)
    second = Pass(2.0, 0.25, 8, 24, 24, 48, 48)
    facts = replace(CONDITIONED, width=48, height=48, passes=(first, second))
    pairs = a1111_pairs(parameters_text(facts))
    assert (pairs["Denoising strength"], pairs["Hires denoising strength"]) == ("0.65", "0.5")
    assert (pairs["Hires resize"], pairs["Hires 2 upscale"]) == ("24x24", "2")
    assert (pairs["Hires 2 steps"], pairs["Hires 2 denoising strength"]) == ("2", "0.25")


def test_facts_with_pictures_and_passes_survive_in_json_and_xmp() -> None:
    facts = replace(CONDITIONED, passes=(Pass(1.3, 0.5, 4, 16, 16, 640, 512),))
    assert embedded_from_json(facts_json(facts)) == facts
    assert embedded_from_xmp(xmp_packet(facts)) == facts
    assert b"photos/a, b.png" in xmp_packet(facts)


def test_an_image_of_text_alone_has_the_metadata_that_it_always_had() -> None:
    """Its bytes would change otherwise, and with them the hash that a run has recorded."""
    assert set(json.loads(facts_json(FACTS))) == {
        *("image_id", "id", "variant", "prompt", "negative_prompt", "seed", "width", "height"),
        *("num_inference_steps", "guidance_scale", "scheduler", "model", "model_fingerprint"),
        *("dtype", "batch_size", "loras"),
    }
