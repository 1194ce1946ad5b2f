"""Which choices work together, and that the text of a choice is complete."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.models.spec import ModelSpec

CHOICES: dict[str, Any] = {
    "attention_backend": "_native_math",
    "channels_last": True,
    "compile": "regional",
    "fuse_qkv_projections": True,
    "vae_batch_size": 2,
    "force_upcast": False,
    "deep_features": {"interval": 3, "branch": 1},
    "first_block_cache": {"threshold": 0.1},
    "pyramid_attention_broadcast": {"spatial_attention_timestep_skip_range": [0, 900]},
    "taylorseer_cache": {"cache_interval": 4},
}


def test_nothing_is_chosen_by_default() -> None:
    assert SpeedSpec().chosen() == {}
    assert SpeedSpec().as_text() is None
    assert ModelSpec().speed == "auto"
    assert ModelSpec().ways == SpeedSpec()


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_survives_being_written_and_read(name: str) -> None:
    spec = SpeedSpec.model_validate({name: CHOICES[name]})
    text = spec.as_text()
    assert text is not None
    assert SpeedSpec.from_text(text) == spec
    assert list(json.loads(text)) == [name]


def test_defaults_are_written_down_so_that_later_ones_do_not_matter() -> None:
    text = SpeedSpec.model_validate({"deep_features": {"interval": 2}}).as_text()
    assert text == '{"deep_features":{"branch":0,"interval":2}}'


def test_equal_choices_are_equal_text() -> None:
    one = SpeedSpec.model_validate({"channels_last": True, "compile": "full"})
    other = SpeedSpec.model_validate({"compile": "full", "channels_last": True})
    assert one.as_text() == other.as_text() == '{"channels_last":true,"compile":"full"}'


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"quantization": "int8_weight_only"}, "set compile too"),
        ({"taylorseer_cache": {}, "pyramid_attention_broadcast": {}}, "only one cache can be on"),
        ({"taylorseer_cache": {}, "compile": "full"}, "taylorseer_cache decides at each step"),
        ({"deep_features": {"interval": 2}, "compile": "full"}, "compile: regional"),
        ({"deep_features": {"interval": 1}}, "greater than or equal to 2"),
        ({"deep_features": {}}, "Field required"),
        ({"attention_backend": "magic"}, "'native', '_native_math'"),
        ({"force_upcast": True}, "should be False"),
        ({"vae_batch_size": 0}, "greater than or equal to 1"),
        ({"first_block_cache": {"threshold": 1.5}}, "less than or equal to 1"),
        ({"chanels_last": True}, "Extra inputs"),
    ],
)
def test_choices_that_do_not_work_together_are_refused_in_words(
    values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match="1 validation error") as caught:
        SpeedSpec.model_validate(values)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["fuse_qkv_projections", "quantization"])
def test_a_choice_that_would_ignore_loras_is_refused_with_loras(name: str) -> None:
    speed = {"fuse_qkv_projections": {"fuse_qkv_projections": True}}.get(
        name, {"quantization": "int8_weight_only", "compile": "full"}
    )
    with pytest.raises(ValidationError, match=rf"speed\.{name} would ignore the loras"):
        ModelSpec.model_validate({"loras": ["a.safetensors"], "speed": speed})


@pytest.mark.parametrize("text", ["", "no", "[1]", '{"speed":1}', '{"compile":"hard"}'])
def test_invalid_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="speed: ") as caught:
        SpeedSpec.from_text(text)
    assert len(str(caught.value).splitlines()) == 1
