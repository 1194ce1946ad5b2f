"""Each way to sample faster is batch-invariant, and refused for models that do not support it."""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.slow_cases import slow_except

from nightpress.diffusion_core import builtin
from nightpress.diffusion_core.acceleration import apply, attention, quantization
from nightpress.diffusion_core.acceleration.deepcache import reuse_deep_features
from nightpress.diffusion_core.errors import ModelError, SamplingError, SettingsError
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams

PARAMS = SamplingParams(width=64, height=32, num_inference_steps=6, guidance_scale=4.0)
REQUESTS = (
    ImageRequest("a red fox, asleep", "", 11),
    ImageRequest("two ships and a tower", "", 2**53 - 1),
    ImageRequest("7", "", 0),
)

FAMILIES = ("sd", "lcm", "sdxl", "sd3", "flux", "pixart", "sana")
U_NETS = frozenset({"sd", "lcm", "sdxl"})
CACHED = frozenset({"flux"})

SUPPORTED: dict[str, tuple[Any, frozenset[str]]] = {
    "attention_backend": ("_native_math", frozenset(FAMILIES)),
    "channels_last": (True, U_NETS | {"sana"}),
    "fuse_qkv_projections": (True, frozenset(FAMILIES) - {"sana"}),
    "vae_batch_size": (2, frozenset(FAMILIES)),
    "force_upcast": (False, frozenset()),
    "deep_features": ({"interval": 2}, U_NETS),
    "first_block_cache": ({"threshold": 0.5}, CACHED),
    "pyramid_attention_broadcast": ({}, CACHED),
    "taylorseer_cache": ({"cache_interval": 2, "disable_cache_before_step": 2}, CACHED),
}
"""Choice -> a value of it, and the families that support it."""

INVARIANT = [
    pytest.param(family, name, marks=[pytest.mark.slow] * (family not in ("sd", "flux")))
    for name, (_, families) in SUPPORTED.items()
    for family in sorted(families)
    if name != "first_block_cache"
]

Saved = Callable[[str], Path]
Loaded = Callable[[str], LoadedModel]


def spec_of(folder: Path, dtype: str = "auto", **speed: Any) -> ModelSpec:
    values = {"source": str(folder), "dtype": dtype, "speed": speed}
    return ModelSpec.model_validate(values)


def faster(folder: Path, dtype: str = "auto", **speed: Any) -> LoadedModel:
    return loading.load(folder, spec_of(folder, dtype, **speed), "cpu")


def pixels(loaded: LoadedModel, requests: Any = REQUESTS, batch_size: int = 3) -> np.ndarray:
    return Sampler(loaded, batch_size).sample(list(requests), PARAMS).pixels


def refusal(folder: Path, dtype: str = "auto", **speed: Any) -> str:
    with pytest.raises(ModelError) as caught:
        loading.describe(folder, spec_of(folder, dtype, **speed))
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.startswith(f"model.speed.{next(iter(speed))}: ")
    return text


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("family", slow_except(FAMILIES, "sd", "flux", "sana"))
def test_a_choice_that_a_model_does_not_support_is_refused_before_any_weight_is_read(
    saved: Saved, family: str, name: str
) -> None:
    value, families = SUPPORTED[name]
    if family in families:
        loading.describe(saved(family), spec_of(saved(family), **{name: value}))
    else:
        refusal(saved(family), **{name: value})


@pytest.mark.parametrize(("family", "name"), INVARIANT)
def test_an_image_depends_on_its_own_row_only_under_every_choice(
    saved: Saved, family: str, name: str
) -> None:
    loaded = faster(saved(family), **{name: SUPPORTED[name][0]})
    together = pixels(loaded)
    assert (pixels(loaded, REQUESTS[::-1])[::-1] == together).all()
    assert (pixels(loaded, REQUESTS[1:2]) == together[1:2]).all()


@pytest.mark.parametrize("family", slow_except(FAMILIES, "sd", "flux"))
def test_the_native_backend_and_chunks_as_large_as_the_batch_change_no_bit(
    saved: Saved, loaded: Loaded, family: str
) -> None:
    same = faster(saved(family), attention_backend="native", vae_batch_size=3)
    assert (pixels(same) == pixels(loaded(family))).all()


@pytest.mark.parametrize(
    "family", slow_except(sorted(SUPPORTED["fuse_qkv_projections"][1]), "sd", "flux")
)
def test_fused_projections_change_no_bit_on_a_cpu_in_float32(
    saved: Saved, loaded: Loaded, family: str
) -> None:
    fused = faster(saved(family), fuse_qkv_projections=True)
    assert (pixels(fused) == pixels(loaded(family))).all()


@pytest.mark.parametrize(
    "speed",
    slow_except(
        [{"attention_backend": "native"}, {"fuse_qkv_projections": True}, {"vae_batch_size": 3}],
        {"fuse_qkv_projections": True},
    ),
)
def test_lossless_choices_change_no_bit_of_the_built_in_model(speed: dict[str, Any]) -> None:
    params = SamplingParams(128, 128, num_inference_steps=2, guidance_scale=3.0)
    there, here = (
        Sampler(faster(builtin.folder(), **chosen), 3).sample(list(REQUESTS), params).pixels
        for chosen in ({}, speed)
    )
    assert (there == here).all()


@pytest.mark.parametrize(
    ("family", "speed"),
    [
        ("sd", {"channels_last": True}),
        ("sana", {"channels_last": True}),
        ("pixart", {"attention_backend": "_native_math"}),
        ("sdxl", {"vae_batch_size": 1}),
    ],
)
def test_choices_that_only_reorder_sums_stay_within_one_level_of_255(
    saved: Saved, loaded: Loaded, family: str, speed: dict[str, Any]
) -> None:
    there, here = (pixels(m).astype(int) for m in (loaded(family), faster(saved(family), **speed)))
    assert np.abs(there - here).max() <= 1


def test_channels_last_is_the_memory_format_of_the_weights(saved: Saved) -> None:
    pipeline = faster(saved("sd"), channels_last=True).pipeline
    for layer in (pipeline.unet.conv_in, pipeline.vae.decoder.conv_in):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)


def test_deep_features_are_reused_as_in_a_block_around_the_call(
    saved: Saved, loaded: Loaded
) -> None:
    shallow = pixels(faster(saved("sd"), deep_features={"interval": 3, "branch": 1}))
    plain = loaded("sd")
    with reuse_deep_features(plain.pipeline.unet, 3, 1):
        by_hand = pixels(plain)
    assert (shallow == by_hand).all()
    assert (shallow != pixels(plain)).any()


def test_deep_features_start_anew_with_each_batch(saved: Saved) -> None:
    loaded = faster(saved("sd"), deep_features={"interval": 4})
    once = pixels(loaded)  # 6 steps: another batch would begin in the middle of an interval
    assert (pixels(loaded) == once).all()
    assert loaded.pipeline.unet.forward.__self__ is loaded.pipeline.unet


def test_a_branch_that_the_u_net_does_not_have_is_refused_with_those_it_has(saved: Saved) -> None:
    words = refusal(saved("sd"), deep_features={"interval": 2, "branch": 99})
    assert "branch 99: this U-Net has 0 to" in words


@pytest.mark.parametrize("name", ["pyramid_attention_broadcast", "taylorseer_cache"])
def test_a_cache_is_empty_when_a_batch_begins_even_after_a_failure(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    loaded = faster(saved("flux"), **{name: SUPPORTED[name][0]})
    before = pixels(loaded)
    step = "diffusers.FlowMatchEulerDiscreteScheduler.step"
    with monkeypatch.context() as broken:
        broken.setattr(step, _raise)
        with pytest.raises(SamplingError, match="no step"):
            pixels(loaded, REQUESTS[::-1])
    assert (pixels(loaded) == before).all()


def _raise(*_: Any, **__: Any) -> None:
    raise RuntimeError("no step")


@pytest.mark.parametrize("name", ["pyramid_attention_broadcast", "taylorseer_cache"])
def test_a_cache_computes_attention_on_fewer_steps(saved: Saved, name: str) -> None:
    all_steps = {"spatial_attention_timestep_skip_range": [0, 1001]}
    value = all_steps if name == "pyramid_attention_broadcast" else SUPPORTED[name][0]
    plain = _attention_calls(faster(saved("flux")))
    assert plain == 2 * PARAMS.num_inference_steps  # one block of each of its kinds
    assert _attention_calls(faster(saved("flux"), **{name: value})) < plain


def _attention_calls(loaded: LoadedModel) -> int:
    from diffusers.models.transformers import transformer_flux

    attend, calls = transformer_flux.dispatch_attention_fn, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return attend(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer_flux, "dispatch_attention_fn", counted)
        pixels(loaded)
    return len(calls)


def test_attention_is_reused_only_between_the_chosen_timesteps(
    saved: Saved, loaded: Loaded
) -> None:
    never = {"spatial_attention_timestep_skip_range": (1000, 1001)}
    outside = faster(saved("flux"), pyramid_attention_broadcast=never)
    assert (pixels(outside) == pixels(loaded("flux"))).all()


def test_a_first_block_cache_needs_batches_of_one_image(saved: Saved) -> None:
    loaded = faster(saved("flux"), first_block_cache={"threshold": 0.5})
    with pytest.raises(SettingsError, match="batch size 3: must be 1 with first_block_cache"):
        pixels(loaded)
    alone = [pixels(loaded, [request], 1) for request in REQUESTS]
    assert (pixels(loaded, REQUESTS[2:], 1) == alone[2]).all()


def test_the_backend_is_set_for_one_model_and_not_for_the_process(saved: Saved) -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    before = _AttentionBackendRegistry.get_active_backend()
    pipeline = faster(saved("flux"), attention_backend="_native_math").pipeline
    layer = pipeline.transformer.transformer_blocks[0].attn
    assert layer.processor._attention_backend == AttentionBackendName._NATIVE_MATH
    assert _AttentionBackendRegistry.get_active_backend() == before


def test_a_pinned_kernel_is_the_only_one_that_torch_may_use(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.nn.attention import _cur_sdpa_kernel_backends

    attend, kernels = torch.nn.functional.scaled_dot_product_attention, set()

    def watched(*args: Any, **kwargs: Any) -> Any:
        kernels.add(tuple(_cur_sdpa_kernel_backends()))
        return attend(*args, **kwargs)

    loaded = faster(saved("pixart"), attention_backend="_native_math")
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    pixels(loaded)
    assert (attention.KERNELS["_native_math"],) in kernels


@pytest.mark.parametrize("backend", ["flash", "sage", "xformers", "_native_cudnn"])
def test_a_backend_for_another_device_is_refused_with_those_for_this_one(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = refusal(saved("flux"), attention_backend=backend)
    assert "needs a CUDA device; on a CPU: native, _native_math, _native_flash" in words


def test_a_backend_that_is_not_installed_is_refused_with_what_is_missing(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "install `sageattention" in refusal(saved("flux"), attention_backend="sage")


def test_a_u_net_takes_only_the_kernels_of_torch(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    words = refusal(saved("sd"), attention_backend="sage")
    assert (
        "UNet2DConditionModel does not support sage, only native, _native_math, _native_flash"
        in words
    )


@pytest.mark.parametrize("part_size", [1, 2])
def test_a_decoder_gets_at_most_the_chosen_number_of_images_at_once(
    saved: Saved, part_size: int
) -> None:
    loaded = faster(saved("sd"), vae_batch_size=part_size)
    sizes: list[int] = []
    loaded.pipeline.vae.decoder.register_forward_pre_hook(
        lambda _, inputs: sizes.append(len(inputs[0]))
    )
    pixels(loaded)
    assert sizes == [part_size] * -(-3 // part_size)
    assert "decode" not in vars(loaded.pipeline.vae)


def test_a_decoder_in_half_precision_is_upcast_unless_that_is_turned_off(
    saved: Saved,
) -> None:
    kinds: dict[bool, set[torch.dtype]] = {}
    for needless in (True, False):
        speed = {} if needless else {"force_upcast": False}
        loaded = faster(saved("sdxl"), "float16", **speed)
        seen = kinds.setdefault(needless, set())
        loaded.pipeline.vae.decoder.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.add(inputs[0].dtype)
        )
        warned = pytest.warns(FutureWarning, match="upcast_vae") if needless else nullcontext()
        with warned:
            pixels(loaded)
    assert kinds == {True: {torch.float32}, False: {torch.float16}}


def test_an_upcast_that_does_not_happen_cannot_be_turned_off(saved: Saved) -> None:
    assert "only with model.dtype: float16" in refusal(saved("sdxl"), force_upcast=False)
    assert "does not decode in float32 with this VAE" in refusal(
        saved("sd"), "float16", force_upcast=False
    )


def test_quantization_without_torchao_is_refused_with_the_extra_to_install(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    words = refusal(saved("sd"), quantization="int8_weight_only", compile="full")
    assert "pip install 'nightpress[quantization]'" in words


def test_dynamic_float8_needs_a_model_in_bfloat16(saved: Saved) -> None:
    dynamic = {"quantization": "float8_dynamic_activation_float8_weight", "compile": "full"}
    for dtype in ("float16", "float32"):
        assert "needs model.dtype: bfloat16" in refusal(saved("sd"), dtype, **dynamic)
    with pytest.raises(ModelError, match=r"needs model\.dtype: bfloat16, not float32"):
        faster(saved("sd"), **dynamic)  # what auto means on a CPU


@pytest.mark.parametrize("family", slow_except(FAMILIES, "sd", "sd3", "flux"))
def test_layers_with_one_row_for_each_image_are_distinguished_from_those_of_tokens(
    saved: Saved, family: str
) -> None:
    loaded = loading.load(saved(family), spec_of(saved(family)), "cpu")
    denoiser = apply.Parts(loaded.pipeline, type(loaded.pipeline), "").denoiser
    rows: dict[str, int] = {}
    work: dict[str, int] = {}

    def look(name: str, layer: torch.nn.Linear, given: torch.Tensor) -> None:
        rows[name] = given.numel() // layer.in_features
        work[name] = given.numel() * layer.out_features

    for name, module in denoiser.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda layer, given, name=name: look(name, layer, given[0])
            )
    pixels(loaded)
    taken = [name for name in rows if quantization.takes_tokens(torch.nn.Linear(1, 1), name)]
    assert min(rows[name] for name in taken) > 2 * len(REQUESTS)
    assert sum(work[name] for name in taken) > 0.5 * sum(work.values())
    assert not quantization.takes_tokens(torch.nn.Conv2d(1, 1, 1), "ff.conv")


@pytest.mark.parametrize(
    "choice",
    [
        {"attention_backend": "_native_efficient"},
        {"quantization": "float8_weight_only", "compile": "full"},
    ],
)
def test_what_another_machine_will_do_is_not_required_of_this_one(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, choice: dict[str, Any]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "torchao", None)
    refusal(saved("sd"), **choice)
    loading.describe(saved("sd"), spec_of(saved("sd"), **choice), elsewhere=True)
    cached = spec_of(saved("sd"), first_block_cache={})
    with pytest.raises(ModelError, match="takes no cache in diffusers"):
        loading.describe(saved("sd"), cached, elsewhere=True)


@pytest.mark.parametrize(
    ("triton", "words"), [(False, "needs Triton"), (True, "needs a C compiler, such as gcc")]
)
def test_compiling_for_a_gpu_without_triton_or_a_compiler_is_refused(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, triton: bool, words: str
) -> None:
    from torch.utils import _triton

    folder = saved("sd")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_triton, "has_triton", lambda: triton)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert words in refusal(folder, compile="full")


def test_compiling_without_a_compiler_is_refused(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none_there() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none_there)
    assert "needs a C++ compiler, such as g++" in refusal(saved("sd"), compile="full")


def test_regional_compilation_needs_a_network_that_names_its_repeated_blocks(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import UNet2DConditionModel

    monkeypatch.setattr(UNet2DConditionModel, "_repeated_blocks", [])
    assert "names no repeated blocks; use compile: full" in refusal(saved("sd"), compile="regional")


def test_an_invalid_configuration_of_a_network_is_reported_in_one_line(
    saved: Saved, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(saved("sd"), folder)
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"down_block_types": ["MagicBlock"] * 2}))
    with pytest.raises(ModelError, match="unet: not a valid UNet2DConditionModel") as caught:
        loading.describe(folder, spec_of(folder, channels_last=True))
    assert len(str(caught.value).splitlines()) == 1
