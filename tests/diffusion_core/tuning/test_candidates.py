"""Ways of sampling faster: what they say, which go together, and what is against them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nightpress.diffusion_core.models.loading import ModelSpec
from nightpress.diffusion_core.tuning import candidates as candidates_module
from nightpress.diffusion_core.tuning.candidates import TuningConfig, candidates, refusal

Saved = Callable[[str], Path]

BOTH = [("cpu", "float32"), ("cuda", "bfloat16")]


@pytest.mark.parametrize(
    ("way", "name"),
    [
        (TuningConfig(), "nothing chosen"),
        (TuningConfig("bfloat16"), "bfloat16"),
        (TuningConfig.of(channels_last=True), "channels_last"),
        (
            TuningConfig.of(deep_features={"interval": 3, "branch": 2}),
            "deep_features interval 3 branch 2",
        ),
        (TuningConfig.of("float16", force_upcast=False), "float16, force_upcast false"),
        (TuningConfig.of(taylorseer_cache={}), "taylorseer_cache"),
        (TuningConfig.of(compile="full", quantization="int8_weight_only"), None),
    ],
)
def test_a_way_is_called_by_what_it_says(way: TuningConfig, name: str | None) -> None:
    assert way.name == (name or "compile full, quantization int8_weight_only")


@pytest.mark.parametrize(("device", "dtype"), BOTH)
def test_no_two_candidates_are_the_same_or_have_the_same_name(device: str, dtype: str) -> None:
    ways = candidates(device, dtype, 4, compiles=True)
    assert len(set(ways)) == len({way.name for way in ways}) == len(ways)
    assert all(way.fields for way in ways)
    assert all(way.dtype != dtype for way in ways)


@pytest.mark.parametrize(("device", "dtype"), BOTH)
def test_what_a_candidate_says_is_the_way_again_when_a_job_says_it(device: str, dtype: str) -> None:
    for way in candidates(device, dtype, 4, compiles=True):
        model = ModelSpec.model_validate(way.values)
        assert model.speed == way.speed
        assert model.dtype == (way.dtype or "auto")


@pytest.mark.parametrize(("device", "dtype"), BOTH)
def test_nothing_compiles_unless_it_may(device: str, dtype: str) -> None:
    with_, without = (candidates(device, dtype, 4, compiles) for compiles in (True, False))
    assert {way for way in with_ if way.speed.compile is None} == set(without)
    assert len(with_) > len(without)


def test_images_are_not_decoded_in_parts_where_one_is_sampled_at_once() -> None:
    one, four = (candidates("cpu", "float32", size, compiles=False) for size in (1, 4))
    assert set(four) - set(one) == {TuningConfig.of(vae_batch_size=1)}


def test_ways_that_decide_different_things_go_together() -> None:
    one, other = (
        TuningConfig.of("bfloat16", channels_last=True),
        TuningConfig.of(deep_features={"interval": 2}),
    )
    both = TuningConfig.of("bfloat16", channels_last=True, deep_features={"interval": 2})
    assert one.beside(other) == other.beside(one) == both
    assert both.fields == {"dtype", "channels_last", "deep_features"}
    assert TuningConfig().beside(one) == one


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TuningConfig("bfloat16"), TuningConfig("float16")),
        (
            TuningConfig.of(deep_features={"interval": 2}),
            TuningConfig.of(deep_features={"interval": 3}),
        ),
        (TuningConfig.of(compile="full"), TuningConfig.of(deep_features={"interval": 2})),
        (TuningConfig.of(compile="regional"), TuningConfig.of(taylorseer_cache={})),
        (TuningConfig.of(taylorseer_cache={}), TuningConfig.of(pyramid_attention_broadcast={})),
    ],
)
def test_ways_that_do_not_go_together_make_none(one: TuningConfig, other: TuningConfig) -> None:
    assert one.beside(other) is None
    assert other.beside(one) is None


def test_a_way_takes_the_place_of_all_that_a_model_chose_for_its_speed() -> None:
    model = {"source": "a", "dtype": "float16", "speed": {"channels_last": True}}
    plain = {"source": "a", "dtype": "float16", "speed": {}}
    assert TuningConfig().onto(model) == plain
    assert TuningConfig("bfloat16").onto(model) == plain | {"dtype": "bfloat16"}
    fast = TuningConfig.of(compile="full").onto(model)
    assert ModelSpec.model_validate(fast).speed.chosen() == {"compile": "full"}


def spec_of(folder: Path, way: TuningConfig) -> ModelSpec:
    return ModelSpec.model_validate(way.onto({"source": str(folder), "dtype": "float32"}))


def test_nothing_is_against_a_model_as_it_is(saved: Saved) -> None:
    assert refusal(saved("flux"), spec_of(saved("flux"), TuningConfig()), "cpu") is None


@pytest.mark.parametrize(
    ("family", "way", "words"),
    [
        ("sd", TuningConfig.of(channels_last=True), None),
        ("sd", TuningConfig.of(taylorseer_cache={}), "takes no cache"),
        ("flux", TuningConfig.of(taylorseer_cache={}), None),
        ("flux", TuningConfig.of(deep_features={"interval": 2}), "model.speed.deep_features: "),
    ],
)
def test_a_model_takes_a_way_or_it_is_said_why_not(
    saved: Saved, family: str, way: TuningConfig, words: str | None
) -> None:
    reason = refusal(saved(family), spec_of(saved(family), way), "cpu")
    if words is None:
        assert reason is None
    else:
        assert reason is not None
        assert words in reason
        assert len(reason.splitlines()) == 1


@pytest.mark.parametrize(
    ("told", "has_it"),
    [
        ({"avx512_f": True}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_half_precision_is_for_processors_that_have_it(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, told: dict[str, bool], has_it: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    reason = refusal(saved("sd"), spec_of(saved("sd"), TuningConfig("bfloat16")), "cpu")
    assert reason is None if has_it else "no bfloat16 of its own" in str(reason)


def test_nothing_compiles_where_there_is_no_compiler(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none_there() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none_there)
    for way in (TuningConfig.of(compile="regional"), TuningConfig.of(compile="full")):
        reason = refusal(saved("sd"), spec_of(saved("sd"), way), "cpu")
        assert "needs a C++ compiler" in str(reason)


def test_every_way_of_the_table_is_one_that_a_job_may_choose() -> None:
    from typing import get_args

    from nightpress.diffusion_core.acceleration.spec import AttentionBackend, Quantization

    named = {name for names in candidates_module.ATTENTION.values() for name in names}
    assert named | {"native", "_native_math"} == set(get_args(AttentionBackend))
    tried = {way.speed.quantization for way in candidates("cpu", "float32", 1, True)}
    assert tried - {None} == set(get_args(Quantization))
