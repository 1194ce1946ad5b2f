"""Every patch still bites in a real sampling, and an upgrade that moves its target fails in words.

The first half samples with tiny models and sees that what a patch replaces or reads is really used.
The second half takes that away, as an upgrade might, and reads the error.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
import torch._dynamo
import torch._inductor.cpp_builder
import torch._inductor.exc
from diffusers.models import attention_dispatch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.cache_utils import CacheMixin
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from support import tiny_loras
from torch._dynamo.callback import callback_handler

from nightpress.diffusion_core import patching
from nightpress.diffusion_core.acceleration import apply, attention, compilation
from nightpress.diffusion_core.acceleration.clock import Clock
from nightpress.diffusion_core.acceleration.deepcache import reuse_deep_features
from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import IncompatibleLibrary, ModelError
from nightpress.diffusion_core.models import loading, lora_files, lora_switching
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.lora_files import LORA_FILE
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling import no_sync, schedulers
from nightpress.diffusion_core.sampling.sampler import (
    Fault,
    ImageRequest,
    SampledBatch,
    Sampler,
    SamplingParams,
)

PARAMS = SamplingParams(width=32, height=32, num_inference_steps=4, guidance_scale=4.0)
REQUESTS = [ImageRequest("a red fox", "", seed) for seed in (1, 2)]
TAYLORSEER = {"taylorseer_cache": {"cache_interval": 2, "disable_cache_before_step": 2}}

Loaded = Callable[[str], LoadedModel]
Patch = pytest.MonkeyPatch


def sample(model: LoadedModel, scheduler: str = "default") -> SampledBatch:
    params = dataclasses.replace(PARAMS, scheduler=scheduler)
    return Sampler(model, batch_size=2).sample(REQUESTS, params)


@dataclass(frozen=True)
class Models:
    """Tiny models with LoRAs, and with the choices of `model.speed`."""

    saved: Callable[[str], Path]
    loaded: Loaded
    plain: Callable[[str], Any]
    folder: Path

    def faster(self, family: str, **speed: Any) -> LoadedModel:
        spec = ModelSpec.model_validate({"source": str(self.saved(family)), "speed": speed})
        return loading.load(self.saved(family), spec, "cpu")

    def with_row_lora(self, family: str = "sd") -> LoadedModel:
        folder = tiny_loras.save(self.plain(family), self.folder / "ink")
        spec = ModelSpec(source=str(self.saved(family)), row_loras=[str(folder)])
        return loading.load(self.saved(family), spec, "cpu", [folder / LORA_FILE])


@pytest.fixture
def models(
    saved: Callable[[str], Path], loaded: Loaded, plain: Callable[[str], Any], tmp_path: Path
) -> Models:
    return Models(saved, loaded, plain, tmp_path)


def counting(monkeypatch: Patch, owner: Any, name: str) -> list[tuple[Any, ...]]:
    """The positional arguments of every call of a function, from now on."""
    calls: list[tuple[Any, ...]] = []
    function = getattr(owner, name)

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


# What each patch replaces or reads is used in a real sampling.


@pytest.mark.usefixtures("no_sync_on_cpu")
@pytest.mark.parametrize("name", ["ddpm", "dpmsolver-sde", "euler-ancestral", "lcm"])
def test_step_noise_comes_from_the_patched_randn_tensor(
    loaded: Loaded, monkeypatch: Patch, name: str
) -> None:
    uploads = counting(monkeypatch, no_sync, "upload")
    sample(loaded("sd"), name)
    assert len(uploads) >= PARAMS.num_inference_steps - 1


@pytest.mark.usefixtures("no_sync_on_cpu")
def test_steps_get_their_timesteps_from_the_copy_on_the_host(
    loaded: Loaded, monkeypatch: Patch
) -> None:
    step, storages = diffusers.DDIMScheduler.step, []

    @functools.wraps(step)
    def watched(self: Any, model_output: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        copy = self.timesteps.untyped_storage().data_ptr()
        storages.append(timestep.untyped_storage().data_ptr() == copy)
        return step(self, model_output, timestep, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(diffusers.DDIMScheduler, "step", watched)
        patch.setattr(no_sync, "upload_noise", lambda scheduler: None)
        sample(loaded("sd"), "ddim")
    assert storages == [True] * PARAMS.num_inference_steps


@pytest.mark.usefixtures("no_sync_on_cpu")
def test_unipc_solves_with_the_patched_torch_and_the_uploaded_sigmas(
    loaded: Loaded, monkeypatch: Patch
) -> None:
    unchecked = counting(monkeypatch, torch.linalg, "solve_ex")
    checked = counting(monkeypatch, torch.linalg, "solve")
    uploads = counting(monkeypatch, no_sync, "upload")
    sample(loaded("sd"), "unipc")
    assert unchecked
    assert not checked
    assert len(uploads) == 1


def test_images_are_decoded_in_chunks(models: Models) -> None:
    model, sizes = models.faster("sd", vae_batch_size=1), []
    decoder = model.pipeline.vae.decoder
    decoder.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    sample(model)
    assert sizes == [1, 1]


def test_the_decoder_is_watched_before_the_pipeline_clamps_its_output(loaded: Loaded) -> None:
    layer = loaded("sd").pipeline.vae.decoder.conv_out
    handle = layer.register_forward_hook(lambda *args: torch.full_like(args[2], float("inf")))
    try:
        assert sample(loaded("sd")).faults == (Fault.NON_FINITE, Fault.NON_FINITE)
    finally:
        handle.remove()


def test_the_forward_of_a_u_net_is_shallow_on_some_steps(models: Models) -> None:
    model = models.faster("sd", deep_features={"interval": 2})
    deep: list[Any] = []
    model.pipeline.unet.mid_block.register_forward_hook(lambda *args: deep.append(args))
    sample(model, "ddim")
    assert len(deep) == PARAMS.num_inference_steps // 2


def test_a_row_lora_is_loaded_whole_and_switched(models: Models, monkeypatch: Patch) -> None:
    seen: list[Any] = []
    require = lora_files._require_effect
    monkeypatch.setattr(
        lora_files, "_require_effect", lambda *args: (seen.append(args[3]), require(*args))
    )
    model = models.with_row_lora()
    assert seen[0].translated
    sampler = Sampler(model, batch_size=2)
    plain, with_lora = (
        sampler.sample(REQUESTS, dataclasses.replace(PARAMS, lora=lora)).pixels
        for lora in (None, "ink")
    )
    assert (plain != with_lora).any()


def test_weights_that_a_row_lora_overwrites_are_noticed(models: Models) -> None:
    folder = tiny_loras.save(models.plain("flux"), models.folder / "ink")
    norm = models.plain("flux").transformer.transformer_blocks[0].attn.norm_q.weight
    own = {"transformer.transformer_blocks.0.attn.norm_q.weight": torch.full_like(norm, 2.0)}
    save_file(load_file(folder / LORA_FILE) | own, folder / LORA_FILE)
    spec = ModelSpec(source="flux", row_loras=[str(folder)])
    with pytest.raises(ModelError, match="overwrites weights of the model"):
        loading.load(models.saved("flux"), spec, "cpu", [folder / LORA_FILE])


def test_a_processor_that_looks_its_backend_up_uses_the_one_that_was_set(
    models: Models, monkeypatch: Patch
) -> None:
    model = models.faster("flux", attention_backend="_native_math")
    backends = attention_dispatch._AttentionBackendRegistry._backends
    name = attention_dispatch.AttentionBackendName._NATIVE_MATH
    calls: list[Any] = []
    attend = backends[name]
    monkeypatch.setitem(backends, name, lambda **kw: (calls.append(kw), attend(**kw))[1])
    sample(model)
    assert calls


def test_a_processor_that_calls_torch_uses_the_pinned_kernel(
    models: Models, monkeypatch: Patch
) -> None:
    from torch.nn.attention import _cur_sdpa_kernel_backends

    model = models.faster("sd", attention_backend="_native_math")
    attend, kernels = torch.nn.functional.scaled_dot_product_attention, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        kernels.append(_cur_sdpa_kernel_backends())
        return attend(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    sample(model)
    assert [attention.KERNELS["_native_math"]] in kernels


def test_caches_are_hooked_into_layers_and_reset_before_each_call(
    models: Models, monkeypatch: Patch
) -> None:
    model = models.faster("flux", **TAYLORSEER)
    assert any(hasattr(layer, "_diffusers_hook") for layer in model.pipeline.transformer.modules())
    resets = counting(monkeypatch, CacheMixin, "_reset_stateful_cache")
    sample(model)
    assert resets[0] == (model.pipeline.transformer,)


def test_a_cache_is_told_the_timesteps_of_the_steps(models: Models, monkeypatch: Patch) -> None:
    told: list[float] = []
    timestep = Clock.timestep

    def watched(self: Clock) -> float:
        told.append(timestep(self))
        return told[-1]

    monkeypatch.setattr(Clock, "timestep", watched)
    model = models.faster("flux", pyramid_attention_broadcast={})
    sample(model)
    steps = model.pipeline.scheduler.timesteps.tolist()
    assert list(dict.fromkeys(told)) == steps


def test_the_blocks_that_a_network_repeats_are_those_that_diffusers_compiles(
    loaded: Loaded, monkeypatch: Patch
) -> None:
    unet, compiled = loaded("sd").pipeline.unet, []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block: compiled.append(block))
    unet.compile_repeated_blocks()
    assert compiled == apply._repeated_blocks(unet) != []


def test_projections_that_were_fused_are_marked_as_such(models: Models) -> None:
    layers = models.faster("sd", fuse_qkv_projections=True).pipeline.unet.modules()
    assert any(getattr(layer, "fused_projections", False) for layer in layers)


def test_compiled_models_are_called_under_the_limits_for_graphs(loaded: Loaded) -> None:
    model = dataclasses.replace(loaded("sd"), speed=SpeedSpec(compile="regional"))
    config, kernels, seen = torch._dynamo.config, torch._inductor.config, []

    def look(*_: Any) -> None:
        limits = (config.recompile_limit, config.fail_on_recompile_limit_hit)
        seen.append((*limits, kernels.deterministic))

    handle = model.pipeline.unet.register_forward_pre_hook(look)
    try:
        sample(model)
    finally:
        handle.remove()
    assert set(seen) == {(compilation.MAX_GRAPHS, True, True)}
    assert config.recompile_limit < compilation.MAX_GRAPHS


def test_compilation_during_a_sampling_is_noticed(models: Models) -> None:
    torch._dynamo.reset()
    model = loading.load(models.saved("sd"), ModelSpec(), "cpu")
    model.pipeline.unet.compile_repeated_blocks(backend="eager", dynamic=False)
    events: list[str] = []
    with compilation.on_compilation(lambda: events.append("begin"), lambda: events.append("end")):
        sample(model)
    torch._dynamo.reset()
    assert events
    assert events == ["begin", "end"] * (len(events) // 2)


# Each case takes away what a patch relies on, as an upgrade might, and returns what then must fail.

Case = Callable[[Models, Patch], Callable[[], Any]]
CASES: dict[str, tuple[Case, str, str]] = {}


def case(words: str, library: str = "diffusers") -> Callable[[Case], Case]:
    """Register a case with the words that the error must have."""

    def register(function: Case) -> Case:
        CASES[function.__name__] = (function, words, library)
        return function

    return register


def of_diffusers(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A function that stands for another version of one in diffusers."""
    function.__module__, function.__qualname__ = "diffusers", name
    return function


def no_code(name: str) -> Callable[..., Any]:
    """A function of diffusers that uses no name at all."""
    return of_diffusers(lambda *_, **__: None, name)


def install(models: Models, name: str) -> Any:
    return no_sync.install(schedulers.make(name, models.loaded("sd").scheduler_config))


@case("there is no diffusers.utils.torch_utils.randn_tensor")
def randn_tensor_is_gone(models: Models, patch: Patch) -> Callable[[], Any]:
    patch.delattr("diffusers.utils.torch_utils.randn_tensor")
    return lambda: install(models, "ddpm")


@case("no longer uses randn_tensor")
def a_step_draws_noise_otherwise(models: Models, patch: Patch) -> Callable[[], Any]:
    def step(self: Any, model_output: Any, timestep: Any, sample: Any, generator: Any) -> Any:
        return torch.randn(sample.shape, generator=generator)

    patch.setattr(diffusers.DDPMScheduler, "step", of_diffusers(step, "DDPMScheduler.step"))
    return lambda: install(models, "ddpm")


@case("HeunDiscreteScheduler: step does not begin with model_output and timestep")
def a_step_takes_its_timestep_elsewhere(models: Models, patch: Patch) -> Callable[[], Any]:
    def step(self: Any, timestep: Any, model_output: Any, sample: Any) -> Any:
        return sample

    patch.setattr(diffusers.HeunDiscreteScheduler, "step", step)
    return lambda: install(models, "heun")


@case("step is called more often than there are timesteps")
def a_pipeline_steps_more_often(models: Models, patch: Patch) -> Callable[[], Any]:
    scheduler, x = install(models, "ddim"), torch.zeros(1, 4, 8, 8)
    scheduler.set_timesteps(2)
    return lambda: [scheduler.step(x, time, x) for time in (999, 500, 1)]


@case("set_timesteps leaves no attribute timesteps")
def a_scheduler_has_no_list_of_timesteps(models: Models, patch: Patch) -> Callable[[], Any]:
    scheduler, x = install(models, "ddim"), torch.zeros(1, 4, 8, 8)
    del scheduler.timesteps
    return lambda: scheduler.step(x, 999, x)


@case("there is no diffusers.schedulers.scheduling_unipc_multistep.UniPCMultistepScheduler.multi")
def unipc_has_no_such_update(models: Models, patch: Patch) -> Callable[[], Any]:
    patch.delattr(diffusers.UniPCMultistepScheduler, "multistep_uni_p_bh_update")
    return lambda: install(models, "unipc")


@case("UniPCMultistepScheduler.step no longer uses multistep_uni_p_bh_update")
def unipc_does_not_call_its_updates(models: Models, patch: Patch) -> Callable[[], Any]:
    def step(self: Any, model_output: Any, timestep: Any, sample: Any) -> Any:
        return sample

    owner = diffusers.UniPCMultistepScheduler
    patch.setattr(owner, "step", of_diffusers(step, "UniPCMultistepScheduler.step"))
    return lambda: install(models, "unipc")


@case("UniPCMultistepScheduler.multistep_uni_c_bh_update no longer uses linalg")
def unipc_solves_otherwise(models: Models, patch: Patch) -> Callable[[], Any]:
    def update(self: Any, model_output: Any, **_: Any) -> Any:
        return self.sigmas

    owner, name = diffusers.UniPCMultistepScheduler, "multistep_uni_c_bh_update"
    patch.setattr(owner, name, of_diffusers(update, f"UniPCMultistepScheduler.{name}"))
    return lambda: install(models, "unipc")


@case("AutoencoderKL.decode")
def vae_decode_is_gone(models: Models, patch: Patch) -> Callable[[], Any]:
    model = models.loaded("sd")
    patch.delattr(diffusers.AutoencoderKL, "decode")
    return lambda: sample(model)


@case("StableDiffusionPipeline decodes without vae.decode")
def a_pipeline_does_not_call_vae_decode(models: Models, patch: Patch) -> Callable[[], Any]:
    model = models.loaded("sd")
    output = SimpleNamespace(images=torch.zeros(2, 3, 32, 32))

    @functools.wraps(diffusers.StableDiffusionPipeline.__call__)
    def call(*_: Any, **__: Any) -> Any:
        return output

    patch.setattr(diffusers.StableDiffusionPipeline, "__call__", call)
    return lambda: sample(model)


@pytest.mark.parametrize("name", ["downsamplers", "resnets"])
def test_a_block_of_a_u_net_without_its_layers_fails_in_words(
    models: Models, monkeypatch: Patch, name: str
) -> None:
    unet = loading.load(models.saved("sd"), ModelSpec(), "cpu").pipeline.unet
    for block in unet.down_blocks if name == "downsamplers" else unet.up_blocks:
        delattr(block, name)
    for attentive in unet.up_blocks:
        if name == "resnets" and hasattr(attentive, "attentions"):
            delattr(attentive, "attentions")
    with (
        pytest.raises(
            IncompatibleLibrary, match=rf"^diffusers .*Block2D\.{name}; .* deep features"
        ),
        reuse_deep_features(unet, 2, branch=2),
    ):
        pass


@case("there is no diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
def lora_state_dict_is_gone(models: Models, patch: Patch) -> Callable[[], Any]:
    model = models.loaded("sd")
    for owner in diffusers.StableDiffusionPipeline.__mro__:
        if "lora_state_dict" in vars(owner):
            patch.delattr(owner, "lora_state_dict")
    return lambda: lora_files._load_lora(
        model.pipeline, (lora_files.LoraSpec(source="x"), Path("x")), "x", "x", False
    )


@case("load_lora_weights no longer calls lora_state_dict")
def load_lora_weights_reads_files_otherwise(models: Models, patch: Patch) -> Callable[[], Any]:
    patch.setattr(diffusers.StableDiffusionPipeline, "load_lora_weights", no_code("load"))
    return lambda: models.with_row_lora()


@case("no longer uses _overwritten_params")
def flux_keeps_expanded_weights_elsewhere(models: Models, patch: Patch) -> Callable[[], Any]:
    name = "_maybe_expand_transformer_param_shape_or_error_"
    patch.setattr(diffusers.loaders.FluxLoraLoaderMixin, name, no_code(name))
    return lambda: models.with_row_lora()


@case("no longer uses _transformer_norm_layers")
def flux_keeps_overwritten_norms_elsewhere(models: Models, patch: Patch) -> Callable[[], Any]:
    loader = diffusers.loaders.FluxLoraLoaderMixin
    patch.setattr(loader, "load_lora_weights", no_code("load_lora_weights"))
    return lambda: models.with_row_lora()


@case("there is no diffusers.loaders.FluxLoraLoaderMixin")
def the_loader_of_flux_is_gone(models: Models, patch: Patch) -> Callable[[], Any]:
    model = models.loaded("sd")
    patch.delattr(diffusers.loaders, "FluxLoraLoaderMixin")
    patch.delitem(diffusers.loaders._class_to_module, "FluxLoraLoaderMixin")
    return lambda: lora_files._overwritten_weights(model.pipeline)


@case("_active_adapter", "peft")
def the_layers_of_peft_do_not_say_which_adapter_acts(
    models: Models, patch: Patch
) -> Callable[[], Any]:
    model = models.with_row_lora()
    for layer in model.pipeline.unet.modules():
        if isinstance(layer, BaseTunerLayer):
            patch.delattr(layer, "_active_adapter")
    patch.delattr(BaseTunerLayer, "_active_adapter")
    patch.setattr(lora_switching, "_LAYERS", {})
    return lambda: model.row_loras.use_for_denoising("ink")


@case("set_scale", "peft")
def the_layers_of_peft_have_no_scale(models: Models, patch: Patch) -> Callable[[], Any]:
    model = models.with_row_lora()
    for owner in (LoraLayer, BaseTunerLayer):
        patch.delattr(owner, "set_scale", raising=False)
    patch.setattr(lora_switching, "_LAYERS", {})
    return lambda: model.row_loras.use_for_denoising("ink")


@case("_execution_device")
def pipelines_do_not_say_where_they_are(models: Models, patch: Patch) -> Callable[[], Any]:
    model = models.faster("sd")
    patch.delattr(diffusers.DiffusionPipeline, "_execution_device")
    return lambda: Sampler(model, batch_size=2)


@case("there is no peft.tuners.tuners_utils.BaseTunerLayer", "peft")
def the_layers_of_peft_are_gone(models: Models, patch: Patch) -> Callable[[], Any]:
    model = models.with_row_lora()
    patch.delattr("peft.tuners.tuners_utils.BaseTunerLayer")
    return lambda: lora_switching.num_layers_with("row_0", model.pipeline.unet)


@case("adapter_layer_names", "peft")
def the_layers_of_peft_do_not_name_their_adapters(
    models: Models, patch: Patch
) -> Callable[[], Any]:
    model = models.with_row_lora()
    for owner in (LoraLayer, BaseTunerLayer):
        patch.delattr(owner, "adapter_layer_names")
    return lambda: lora_switching.num_layers_with("row_0", model.pipeline.unet)


@case("no longer uses _attention_backend")
def processors_keep_their_backend_elsewhere(models: Models, patch: Patch) -> Callable[[], Any]:
    patch.setattr(AttentionModuleMixin, "set_attention_backend", no_code("set"))
    return lambda: models.faster("flux", attention_backend="native")


@case("there is no diffusers.models.attention_dispatch.AttentionBackendName")
def backends_have_no_names(models: Models, patch: Patch) -> Callable[[], Any]:
    patch.delattr(attention_dispatch, "AttentionBackendName")
    return lambda: models.faster("flux", attention_backend="native")


@case("attention_dispatch._check_attention_backend_requirements")
def backends_cannot_be_checked(models: Models, patch: Patch) -> Callable[[], Any]:
    patch.delattr(attention_dispatch, "_check_attention_backend_requirements")
    return lambda: models.faster("flux", attention_backend="native")


@case("FluxTransformer2DModel._reset_stateful_cache")
def caches_cannot_be_reset(models: Models, patch: Patch) -> Callable[[], Any]:
    model = models.faster("flux", **TAYLORSEER)
    patch.delattr(CacheMixin, "_reset_stateful_cache")
    return lambda: sample(model)


@case("no longer uses _diffusers_hook")
def layers_keep_their_hooks_elsewhere(models: Models, patch: Patch) -> Callable[[], Any]:
    name = "check_if_exists_or_initialize"
    patch.setattr(diffusers.hooks.HookRegistry, name, no_code(name))
    return lambda: models.faster("flux", **TAYLORSEER)


@case("FlowMatchEulerDiscreteScheduler.step_index")
def schedulers_do_not_count_their_steps(models: Models, patch: Patch) -> Callable[[], Any]:
    clock = Clock(SimpleNamespace(scheduler=diffusers.FlowMatchEulerDiscreteScheduler()))
    patch.delattr(diffusers.FlowMatchEulerDiscreteScheduler, "step_index")
    return clock.timestep


@case("fused_projections")
def fused_layers_are_not_marked(models: Models, patch: Patch) -> Callable[[], Any]:
    model = models.loaded("sd")
    parts = apply.Parts(copy.deepcopy(model.pipeline), type(model.pipeline))
    patch.setattr(diffusers.UNet2DConditionModel, "fuse_qkv_projections", no_code("fuse"))
    for layer in parts.denoiser.modules():
        if hasattr(layer, "fused_projections"):
            del layer.fused_projections
    return lambda: apply.apply_speed(parts, SpeedSpec(fuse_qkv_projections=True))


@case("UNet2DConditionModel._repeated_blocks")
def networks_do_not_name_the_blocks_they_repeat(models: Models, patch: Patch) -> Callable[[], Any]:
    for owner in (diffusers.UNet2DConditionModel, diffusers.ModelMixin):
        patch.delattr(owner, "_repeated_blocks")
    return lambda: models.faster("sd", compile="regional")


@case("FluxPipeline._pack_latents")
def flux_does_not_pack_its_latents(models: Models, patch: Patch) -> Callable[[], Any]:
    patch.delattr(diffusers.FluxPipeline, "_pack_latents")
    return lambda: loading.describe(models.saved("flux"), ModelSpec())


@case("torch._inductor.cpp_builder.get_cpp_compiler", "torch")
def the_compiler_cannot_be_looked_up(models: Models, patch: Patch) -> Callable[[], Any]:
    patch.delattr("torch._inductor.cpp_builder.get_cpp_compiler")
    return lambda: compilation.require_compiler("cpu")


@case("torch.utils._triton.has_triton", "torch")
def triton_cannot_be_looked_up(models: Models, patch: Patch) -> Callable[[], Any]:
    patch.delattr("torch.utils._triton.has_triton")
    return lambda: compilation.require_compiler("cuda")


@case("torch._inductor.runtime.cache_dir_utils.default_cache_dir", "torch")
def the_folder_of_compiled_code_is_unknown(models: Models, patch: Patch) -> Callable[[], Any]:
    patch.delattr("torch._inductor.runtime.cache_dir_utils.default_cache_dir")
    return compilation.keep_compiled_code


@case("there is no torch._inductor.exc.InductorError.inner_exception", "torch")
def an_error_of_inductor_has_no_cause(models: Models, patch: Patch) -> Callable[[], Any]:
    error = torch._inductor.exc.InductorError(ImportError("/a.so: file too short"), None)
    del error.inner_exception
    return lambda: compilation.remove_damaged_code(error)


@pytest.mark.parametrize(
    "name",
    ["register_start_callback", "remove_end_callback", "start_callbacks", "end_callbacks"],
)
def test_callbacks_of_torch_that_have_moved_fail_in_words(monkeypatch: Patch, name: str) -> None:
    owner = callback_handler if name in vars(callback_handler) else type(callback_handler)
    monkeypatch.delattr(owner, name)
    with (
        pytest.raises(IncompatibleLibrary, match=rf"\.{name}; .* notice when torch compiles"),
        compilation.on_compilation(lambda: None, lambda: None),
    ):
        pass


@case("there is no torch._dynamo.callback.callback_handler", "torch")
def torch_has_no_callbacks(models: Models, patch: Patch) -> Callable[[], Any]:
    patch.delattr("torch._dynamo.callback.callback_handler")
    return lambda: compilation.on_compilation(lambda: None, lambda: None).__enter__()


@case("there is no torch._dynamo.exc.FailOnRecompileLimitHit", "torch")
def the_limit_for_graphs_raises_something_else(models: Models, patch: Patch) -> Callable[[], Any]:
    patch.delattr("torch._dynamo.exc.FailOnRecompileLimitHit")
    return lambda: compilation.one_graph_per_shape().__enter__()


@pytest.mark.parametrize(
    "name",
    ["recompile_limit", "accumulated_recompile_limit", "fail_on_recompile_limit_hit"],
)
def test_a_setting_of_torch_that_has_moved_fails_in_words(monkeypatch: Patch, name: str) -> None:
    settings = {"recompile_limit", "accumulated_recompile_limit", "fail_on_recompile_limit_hit"}
    others = {"__module__": "torch._dynamo"} | dict.fromkeys(settings - {name})
    monkeypatch.setattr(torch._dynamo, "config", type("config", (), others))
    with (
        pytest.raises(IncompatibleLibrary, match=rf"\.{name}; .* one graph for each shape"),
        compilation.one_graph_per_shape(),
    ):
        pass


@pytest.mark.parametrize("name", CASES)
def test_an_upgrade_that_moves_a_patched_thing_fails_in_words(
    name: str, models: Models, monkeypatch: Patch
) -> None:
    prepare, words, library = CASES[name]
    with monkeypatch.context() as patch:
        act = prepare(models, patch)
        with pytest.raises(IncompatibleLibrary) as caught:
            act()
    text = str(caught.value)
    assert words in text
    assert text.startswith(f"{library} ")
    assert text.endswith(f"was written for {library} {patching.READ_AGAINST[library]}")
    assert "\n" not in text
