"""Speed configurations: their names, their combinations, and why some cannot be used."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.tuning import candidates as candidates_module
from nightpress.diffusion_core.tuning.candidates import TuningConfig, candidates, unsupported_reason

Saved = Callable[[str], Path]

BOTH = [("cpu", "float32"), ("cuda", "bfloat16")]


@pytest.mark.parametrize(
    ("config", "name"),
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
def test_a_config_is_named_after_its_settings(config: TuningConfig, name: str | None) -> None:
    assert config.name == (name or "compile full, quantization int8_weight_only")


@pytest.mark.parametrize(("device", "dtype"), BOTH)
def test_no_two_candidates_are_the_same_or_have_the_same_name(device: str, dtype: str) -> None:
    configs = candidates(device, dtype, 4, compiles=True)
    assert len(set(configs)) == len({config.name for config in configs}) == len(configs)
    assert all(config.fields for config in configs)
    assert all(config.dtype != dtype for config in configs)


@pytest.mark.parametrize(("device", "dtype"), BOTH)
def test_the_values_of_a_candidate_give_the_same_config_in_a_job(device: str, dtype: str) -> None:
    for config in candidates(device, dtype, 4, compiles=True):
        model = ModelSpec.model_validate(config.values)
        assert model.ways == config.speed
        assert model.dtype == (config.dtype or "auto")


@pytest.mark.parametrize(("device", "dtype"), BOTH)
def test_no_candidate_compiles_unless_it_may(device: str, dtype: str) -> None:
    with_, without = (candidates(device, dtype, 4, compiles) for compiles in (True, False))
    assert {config for config in with_ if config.speed.compile is None} == set(without)
    assert len(with_) > len(without)


def test_decoding_one_at_a_time_is_no_candidate_for_batches_of_one() -> None:
    one, four = (candidates("cpu", "float32", size, compiles=False) for size in (1, 4))
    assert set(four) - set(one) == {TuningConfig.of(vae_batch_size=1)}


def test_configs_that_set_different_fields_can_be_combined() -> None:
    one, other = (
        TuningConfig.of("bfloat16", channels_last=True),
        TuningConfig.of(deep_features={"interval": 2}),
    )
    both = TuningConfig.of("bfloat16", channels_last=True, deep_features={"interval": 2})
    assert one.combined_with(other) == other.combined_with(one) == both
    assert both.fields == {"dtype", "channels_last", "deep_features"}
    assert TuningConfig().combined_with(one) == one


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
def test_configs_that_conflict_cannot_be_combined(one: TuningConfig, other: TuningConfig) -> None:
    assert one.combined_with(other) is None
    assert other.combined_with(one) is None


def test_a_config_replaces_all_speed_settings_of_a_model() -> None:
    model = {"source": "a", "dtype": "float16", "speed": {"channels_last": True}}
    plain = {"source": "a", "dtype": "float16", "speed": {}}
    assert TuningConfig().applied_to(model) == plain
    assert TuningConfig("bfloat16").applied_to(model) == plain | {"dtype": "bfloat16"}
    fast = TuningConfig.of(compile="full").applied_to(model)
    assert ModelSpec.model_validate(fast).speed.chosen() == {"compile": "full"}


def spec_of(folder: Path, config: TuningConfig) -> ModelSpec:
    return ModelSpec.model_validate(config.applied_to({"source": str(folder), "dtype": "float32"}))


def test_a_model_without_speed_settings_is_always_supported(saved: Saved) -> None:
    assert unsupported_reason(saved("flux"), spec_of(saved("flux"), TuningConfig()), "cpu") is None


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        ("sd", TuningConfig.of(channels_last=True), None),
        ("sd", TuningConfig.of(taylorseer_cache={}), "takes no cache"),
        ("flux", TuningConfig.of(taylorseer_cache={}), None),
        ("flux", TuningConfig.of(deep_features={"interval": 2}), "model.speed.deep_features: "),
    ],
)
def test_a_model_supports_a_config_or_the_reason_is_given(
    saved: Saved, family: str, config: TuningConfig, words: str | None
) -> None:
    reason = unsupported_reason(saved(family), spec_of(saved(family), config), "cpu")
    if words is None:
        assert reason is None
    else:
        assert reason is not None
        assert words in reason
        assert len(reason.splitlines()) == 1


@pytest.mark.parametrize(
    ("capabilities", "has_bfloat16"),
    [
        ({"avx512_f": True}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_bfloat16_needs_a_cpu_that_has_bfloat16(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], has_bfloat16: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    reason = unsupported_reason(saved("sd"), spec_of(saved("sd"), TuningConfig("bfloat16")), "cpu")
    assert reason is None if has_bfloat16 else "no bfloat16 instructions" in str(reason)


@pytest.mark.parametrize("has_gpu", [False, True])
def test_nothing_compiles_without_a_compiler(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, has_gpu: bool
) -> None:
    """Not even beside a GPU that has all that it needs."""
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none_there() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: has_gpu)
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none_there)
    for config in (TuningConfig.of(compile="regional"), TuningConfig.of(compile="full")):
        reason = unsupported_reason(saved("sd"), spec_of(saved("sd"), config), "cpu")
        assert "needs a C++ compiler" in str(reason)


def test_on_the_cpu_of_a_gpu_machine_compiling_needs_no_triton(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "g++")
    spec = spec_of(saved("sd"), TuningConfig.of(compile="full"))
    assert unsupported_reason(saved("sd"), spec, "cpu") is None
    assert "needs Triton" in str(unsupported_reason(saved("sd"), spec, "cuda"))


def test_a_job_may_choose_every_attention_backend_and_quantization() -> None:
    from typing import get_args

    from nightpress.diffusion_core.acceleration.spec import AttentionBackend, Quantization

    named = {name for names in candidates_module.ATTENTION_BACKENDS.values() for name in names}
    assert named | {"native", "_native_math"} == set(get_args(AttentionBackend))
    tried = {config.speed.quantization for config in candidates("cpu", "float32", 1, True)}
    assert tried - {None} == set(get_args(Quantization))
