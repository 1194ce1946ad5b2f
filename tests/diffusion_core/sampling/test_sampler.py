import dataclasses
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_models
from support.slow_cases import slow_except

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import DeviceError, OutOfMemory, SamplingError, SettingsError
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import DType, ModelSpec
from nightpress.diffusion_core.sampling.copy_to_host import Copy
from nightpress.diffusion_core.sampling.sampler import (
    Fault,
    ImageRequest,
    SampledBatch,
    Sampler,
    SamplingParams,
)

PARAMS = SamplingParams(width=64, height=32, num_inference_steps=3, guidance_scale=4.0)
UNGUIDED = dataclasses.replace(PARAMS, guidance_scale=1.0)

REQUESTS = (
    ImageRequest("a red fox, asleep", "", 11),
    ImageRequest("two ships and a tower", "", 2**53 - 1),
    ImageRequest("7", "", 0),
)
STEERED = tuple(
    dataclasses.replace(request, negative_prompt=negative)
    for request, negative in zip(REQUESTS, ("blur", "", "no hats, no cats"), strict=True)
)

Plain = Callable[..., Any]
Loaded = Callable[[str], LoadedModel]
LoadedOn = Callable[[str, str], LoadedModel]


def plain_images(
    pipeline: Any, requests: Sequence[ImageRequest], params: SamplingParams
) -> np.ndarray:
    """The images that plain diffusers makes in one call with the list of prompts, as uint8."""
    takes = inspect.signature(pipeline.__call__).parameters
    negatives = [request.negative_prompt for request in requests]
    arguments = {
        "prompt": [request.prompt for request in requests],
        "width": params.width,
        "height": params.height,
        "num_inference_steps": params.num_inference_steps,
        "guidance_scale": params.guidance_scale,
        "generator": [torch.Generator("cpu").manual_seed(r.seed) for r in requests],
        "output_type": "pil",
    }
    if any(negatives):
        arguments["negative_prompt"] = negatives
    if "use_resolution_binning" in takes:
        arguments |= {"use_resolution_binning": False, "clean_caption": False}
    return np.stack([np.asarray(image) for image in pipeline(**arguments).images])


def steered(family: str) -> tuple[ImageRequest, ...]:
    return REQUESTS if family in ("flux", "lcm") else STEERED


@pytest.mark.parametrize("params", [PARAMS, UNGUIDED], ids=["guided", "unguided"])
@pytest.mark.parametrize("family", slow_except(tiny_models.FAMILIES, "sd", "sdxl", "flux", "sana"))
def test_a_batch_of_one_is_exactly_the_image_of_plain_diffusers(
    family: str, params: SamplingParams, loaded_on: LoadedOn, plain: Plain, device: str
) -> None:
    sampler, pipeline = Sampler(loaded_on(family, device), batch_size=1), plain(family, device)
    for request in steered(family)[:2]:
        batch = sampler.sample([request], params)
        assert batch.faults == (None,)
        np.testing.assert_array_equal(batch.pixels, plain_images(pipeline, [request], params))


def test_pixels_are_contiguous_in_memory_and_padding_is_left_out(
    loaded: Loaded,
) -> None:
    pixels = Sampler(loaded("sd"), batch_size=3).sample(REQUESTS[:2], UNGUIDED).pixels
    assert pixels.shape == (2, 32, 64, 3)
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize("params", [PARAMS, UNGUIDED], ids=["guided", "unguided"])
@pytest.mark.parametrize("family", slow_except(tiny_models.FAMILIES, "sd", "flux"))
def test_a_batch_is_what_plain_diffusers_makes_of_a_list_of_prompts(
    family: str, params: SamplingParams, loaded: Loaded, plain: Plain
) -> None:
    batch = Sampler(loaded(family), batch_size=3).sample(steered(family), params)
    expected = plain_images(plain(family), steered(family), params)
    # SDXL has zeros for a missing negative prompt, where a list can only say "".
    rows = [0, 2] if family == "sdxl" and params is PARAMS else [0, 1, 2]
    difference = np.abs(batch.pixels[rows].astype(int) - expected[rows].astype(int))
    assert difference.max() <= 1


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_bits_depend_neither_on_place_nor_on_other_images_nor_on_padding(
    family: str, loaded_on: LoadedOn, device: str
) -> None:
    sampler, requests = Sampler(loaded_on(family, device), batch_size=3), steered(family)
    expected = sampler.sample(requests, PARAMS).pixels
    for order in itertools.permutations(range(3)):
        pixels = sampler.sample([requests[place] for place in order], PARAMS).pixels
        np.testing.assert_array_equal(pixels, expected[list(order)])
    for place, request in enumerate(requests):
        np.testing.assert_array_equal(sampler.sample([request], PARAMS).pixels[0], expected[place])
        pair = sampler.sample([requests[0], request], PARAMS).pixels
        np.testing.assert_array_equal(pair[1], expected[place])


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_prompt_seed_and_guidance_each_change_the_image(family: str, loaded: Loaded) -> None:
    sampler, request = Sampler(loaded(family), batch_size=1), REQUESTS[0]
    base = sampler.sample([request], PARAMS).pixels
    others = [dataclasses.replace(request, prompt="else"), dataclasses.replace(request, seed=12)]
    changed = [sampler.sample([other], PARAMS).pixels for other in others]
    changed.append(sampler.sample([request], UNGUIDED).pixels)
    if family not in ("flux", "lcm"):
        negative = dataclasses.replace(request, negative_prompt="blur")
        changed.append(sampler.sample([negative], PARAMS).pixels)
    assert all((pixels != base).any() for pixels in changed)


def test_a_pipeline_of_another_kind_gets_strings_and_is_batch_invariant(loaded: Loaded) -> None:
    from diffusers import StableDiffusionPipeline

    class Unconventional(StableDiffusionPipeline):
        """Its `encode_prompt` hands over what no layout knows."""

        def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
            return list(super().encode_prompt(*args, **kwargs))

    pipeline = Unconventional(**loaded("sd").pipeline.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    sampler = Sampler(dataclasses.replace(loaded("sd"), pipeline=pipeline), batch_size=3)
    sampler.prepare(STEERED, PARAMS)  # which has nothing to do
    made = sampler.sample(STEERED, PARAMS).pixels
    np.testing.assert_array_equal(sampler.sample(STEERED[::-1], PARAMS).pixels[::-1], made)
    for place, request in enumerate(STEERED):
        np.testing.assert_array_equal(sampler.sample([request], PARAMS).pixels[0], made[place])
    encoded = Sampler(loaded("sd"), batch_size=3).sample(STEERED, PARAMS).pixels
    assert np.abs(made.astype(int) - encoded.astype(int)).max() <= 1


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "pixart"])
def test_preparing_prompts_during_another_batch_changes_no_bit_of_either(
    family: str, loaded: Loaded
) -> None:
    plain, ahead = (Sampler(loaded(family), batch_size=1) for _ in range(2))
    expected = [plain.sample([request], PARAMS).pixels for request in STEERED]
    with ThreadPoolExecutor(1) as thread:
        for place, request in enumerate(STEERED):
            coming = STEERED[place + 1 :]
            prepared = thread.submit(ahead.prepare, coming, PARAMS) if coming else None
            np.testing.assert_array_equal(ahead.sample([request], PARAMS).pixels, expected[place])
            if prepared is not None:
                prepared.result(20)


@pytest.mark.parametrize(
    ("speed", "expected"),
    [
        (SpeedSpec(compile="regional"), [False, True, False, True, True]),
        (SpeedSpec(attention_backend="_native_math"), [False] * 5),
        (SpeedSpec(attention_backend="native"), [True] * 5),
    ],
)
def test_no_thread_encodes_during_a_batch_that_changes_a_setting_of_all_threads(
    loaded: Loaded, speed: SpeedSpec, expected: list[bool]
) -> None:
    """Text encoders depend on `torch.compiler.is_compiling` and on `sdpa_kernel`."""
    switching = dataclasses.replace(loaded("sd"), speed=speed)
    sampler, wide = Sampler(switching, batch_size=1), dataclasses.replace(PARAMS, width=72)
    numbers, ahead, beside = itertools.count(), [], []

    def look(*_: Any) -> None:
        if not ahead:  # at the first step
            coming = [dataclasses.replace(REQUESTS[1], prompt=f"picture {next(numbers)}")]
            ahead.append(thread.submit(sampler.prepare, coming, PARAMS))
            beside.append(bool(wait(ahead, timeout=1.0).done))

    handle = switching.pipeline.unet.register_forward_pre_hook(look)
    try:
        with ThreadPoolExecutor(1) as thread:
            for params in (PARAMS, PARAMS, wide, wide, PARAMS):
                sampler.sample(REQUESTS[:1], params)
                ahead.pop().result(20)
    finally:
        handle.remove()
    assert beside == expected


def test_a_prompt_that_cannot_be_prepared_raises_what_sampling_raises(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = Sampler(loaded("sd"), batch_size=1)

    def fail(**_: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(sampler._conditioner, "_call", lambda *_, **given: fail(**given))
    for encode in (sampler.prepare, sampler.sample):
        with pytest.raises(OutOfMemory, match="out of memory"):
            encode(REQUESTS[:1], PARAMS)


def changing_output(model: LoadedModel, change: Callable[[torch.Tensor], Any]) -> LoadedModel:
    """The same model with a pipeline that returns something else than plain images."""
    from diffusers import StableDiffusionPipeline

    class Other(StableDiffusionPipeline):
        @functools.wraps(StableDiffusionPipeline.__call__)
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            output = super().__call__(*args, **kwargs)
            output.images = change(output.images)
            return output

    pipeline = Other(**model.pipeline.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return dataclasses.replace(model, pipeline=pipeline)


def test_a_pipeline_that_only_makes_numpy_images_is_supported(loaded: Loaded) -> None:
    other = changing_output(loaded("sd"), lambda images: images.permute(0, 2, 3, 1).numpy())
    made = Sampler(other, batch_size=1).sample(REQUESTS[:1], PARAMS).pixels
    expected = Sampler(loaded("sd"), batch_size=1).sample(REQUESTS[:1], PARAMS).pixels
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    ("change", "found"),
    [(lambda images: images[:, :, :16], r"\(1, 3, 16, 64\)"), (lambda _: None, "NoneType")],
)
def test_images_of_another_size_are_an_error_and_never_resized(
    change: Callable[[torch.Tensor], Any], found: str, loaded: Loaded
) -> None:
    sampler = Sampler(changing_output(loaded("sd"), change), batch_size=1)
    with pytest.raises(
        SamplingError, match=rf"returned {found}, expected images of shape \(1, 3, 32, 64\)"
    ):
        sampler.sample(REQUESTS[:1], PARAMS)


@pytest.mark.parametrize("scheduler", ["dpmsolver-sde", "euler-ancestral", "ddpm", "lcm"])
def test_samplers_that_add_noise_are_batch_invariant(
    scheduler: str, loaded_on: LoadedOn, device: str
) -> None:
    params = dataclasses.replace(PARAMS, scheduler=scheduler)
    sampler = Sampler(loaded_on("sd", device), batch_size=3)
    forth = sampler.sample(REQUESTS, params).pixels
    np.testing.assert_array_equal(sampler.sample(REQUESTS[::-1], params).pixels[::-1], forth)
    np.testing.assert_array_equal(sampler.sample(REQUESTS[1:2], params).pixels[0], forth[1])


def test_a_bfloat16_model_is_batch_invariant(saved: Callable[[str], Path]) -> None:
    spec = ModelSpec(source=str(saved("sd")), dtype="bfloat16")
    half = loading.load(saved("sd"), spec, "cpu")
    assert half.dtype == "bfloat16"
    sampler = Sampler(half, batch_size=3)
    forth = sampler.sample(STEERED, PARAMS).pixels
    np.testing.assert_array_equal(sampler.sample(STEERED[::-1], PARAMS).pixels[::-1], forth)
    np.testing.assert_array_equal(sampler.sample(STEERED[1:2], PARAMS).pixels[0], forth[1])


def test_a_change_of_settings_leaves_no_trace_in_a_sampler(loaded: Loaded) -> None:
    sampler = Sampler(loaded("sd"), batch_size=2)
    first = sampler.sample(REQUESTS[:2], PARAMS).pixels
    wide = dataclasses.replace(PARAMS, width=40, num_inference_steps=2, scheduler="heun")
    assert sampler.sample(REQUESTS[:1], wide).pixels.shape == (1, 32, 40, 3)
    np.testing.assert_array_equal(sampler.sample(REQUESTS[:2], PARAMS).pixels, first)


def test_sampling_does_not_touch_torchs_global_random_state(loaded: Loaded) -> None:
    state = torch.get_rng_state()
    Sampler(loaded("sd"), batch_size=1).sample(REQUESTS[:1], PARAMS)
    assert torch.equal(torch.get_rng_state(), state)


@contextmanager
def poisoned(module: Any, place: int, value: float) -> Iterator[None]:
    """Set one row of every output of a module to `value`."""

    def poison(_module: Any, _inputs: Any, output: Any) -> Any:
        whole = output if isinstance(output, torch.Tensor) else output[0]
        whole = whole.clone()
        whole[place] = value
        return whole if isinstance(output, torch.Tensor) else (whole, *output[1:])

    handle = module.register_forward_hook(poison)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_becomes_non_finite_is_a_fault_and_affects_no_other(
    value: float, loaded: Loaded
) -> None:
    sampler = Sampler(loaded("sd"), batch_size=3)
    expected = sampler.sample(REQUESTS, UNGUIDED).pixels
    with poisoned(loaded("sd").pipeline.unet, 1, value):
        batch = sampler.sample(REQUESTS, UNGUIDED)
    assert batch.faults == (None, Fault.NON_FINITE, None)
    assert not batch.pixels[1].any()
    np.testing.assert_array_equal(batch.pixels[[0, 2]], expected[[0, 2]])


def test_an_infinity_that_clamping_would_hide_is_a_fault(loaded: Loaded) -> None:
    sampler = Sampler(loaded("sd"), batch_size=2)
    with poisoned(loaded("sd").pipeline.vae.decoder.conv_out, 0, float("inf")):
        faults = sampler.sample(REQUESTS[:2], UNGUIDED).faults
    assert faults == (Fault.NON_FINITE, None)


def test_an_image_of_one_colour_is_a_fault(loaded: Loaded) -> None:
    sampler = Sampler(loaded("sd"), batch_size=2)
    with poisoned(loaded("sd").pipeline.vae.decoder.conv_out, 1, -1.0):
        faults = sampler.sample(REQUESTS[:2], UNGUIDED).faults
    assert faults == (None, Fault.BLANK)


def test_a_device_that_fails_during_the_copy_is_no_images_fault() -> None:
    class Failed:
        def synchronize(self) -> None:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    batch = SampledBatch(Copy(torch.zeros(1, 8, 8, 3), Failed()), (None,))
    with pytest.raises(DeviceError, match="unspecified launch failure"):
        _ = batch.pixels


def test_a_smaller_batch_equals_the_batch_of_a_smaller_sampler(loaded: Loaded) -> None:
    small = Sampler(loaded("sd"), batch_size=2).sample(REQUESTS[:2], PARAMS)
    reduced = Sampler(loaded("sd"), batch_size=3).sample(REQUESTS[:2], PARAMS, batch_size=2)
    np.testing.assert_array_equal(reduced.pixels, small.pixels)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 80 bytes"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED, no memory for cublasCreate(handle)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, memory"),
    ],
)
def test_running_out_of_memory_is_distinguished_from_other_failures(
    error: Exception, loaded: Loaded
) -> None:
    def fail(*_: Any) -> None:
        raise error

    handle = loaded("sd").pipeline.unet.register_forward_pre_hook(fail)
    try:
        with pytest.raises(OutOfMemory, match="memory"):
            Sampler(loaded("sd"), batch_size=1).sample(REQUESTS[:1], PARAMS)
    finally:
        handle.remove()


@pytest.mark.parametrize(("family", "dtype"), [("sdxl", "float16"), ("sana", "float32")])
@pytest.mark.filterwarnings("ignore:.*upcast_vae:FutureWarning")
def test_a_decoder_that_runs_out_of_memory_says_so_and_keeps_its_type(
    family: str, dtype: DType, saved: Callable[[str], Path]
) -> None:
    """SDXL's pipeline would leave it in float32, and Sana's would go on without an image."""
    whole = loading.load(saved(family), ModelSpec(dtype=dtype), "cpu")
    sampler, vae = Sampler(whole, batch_size=1), whole.pipeline.vae
    expected = sampler.sample(REQUESTS[:1], PARAMS).pixels

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    handle = vae.decoder.register_forward_pre_hook(fail)
    with pytest.raises(OutOfMemory, match=r"20\.00 GiB"):
        sampler.sample(REQUESTS[:1], PARAMS)
    handle.remove()
    assert str(vae.dtype) == f"torch.{dtype}"
    np.testing.assert_array_equal(sampler.sample(REQUESTS[:1], PARAMS).pixels, expected)


class FlagsTheSecond(torch.nn.Module):
    """A safety checker that always flags the second image, and blackens it as the real one does."""

    device, dtype = torch.device("cpu"), torch.float32

    def forward(self, images: torch.Tensor, clip_input: torch.Tensor) -> tuple[Any, list[bool]]:
        flags = [place == 1 for place in range(len(images))]
        images = images.clone()
        images[1] = 0
        return images, flags


class Extractor:
    """Just enough of a CLIP image processor."""

    def __call__(self, images: Any, return_tensors: str) -> Any:
        from transformers import BatchFeature

        return BatchFeature({"pixel_values": torch.zeros(len(images), 3, 8, 8)})


def test_an_image_that_the_safety_checker_flags_is_a_fault(loaded: Loaded) -> None:
    expected = Sampler(loaded("sd"), batch_size=3).sample(REQUESTS, PARAMS).pixels
    pipeline = loaded("sd").pipeline
    checked = type(pipeline)(
        **(
            pipeline.components
            | {"safety_checker": FlagsTheSecond(), "feature_extractor": Extractor()}
        )
    )
    checked.set_progress_bar_config(disable=True)
    guarded = dataclasses.replace(loaded("sd"), pipeline=checked)
    batch = Sampler(guarded, batch_size=3).sample(REQUESTS, PARAMS)
    assert batch.faults == (None, Fault.FLAGGED, None)
    assert not batch.pixels[1].any()
    np.testing.assert_array_equal(batch.pixels[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 60}, "width 60 is not a multiple of 8"),
        ({"height": 0}, "height 0 is not a multiple of 8"),
        ({"num_inference_steps": 1001}, "takes 1 to 1000"),
        ({"num_inference_steps": 0}, "takes 1 to 1000"),
        ({"num_inference_steps": 51, "scheduler": "lcm"}, "takes 1 to 50"),
        ({"scheduler": "flow-euler"}, "flow-matching"),
        ({"scheduler": "fastest"}, "scheduler 'fastest': must be one of default, ddpm"),
    ],
)
def test_settings_that_the_model_does_not_support_are_refused_with_those_it_does(
    changes: dict[str, Any], message: str, loaded: Loaded
) -> None:
    with pytest.raises(SettingsError, match=message):
        Sampler(loaded("sd"), batch_size=1).sample(
            REQUESTS[:1], dataclasses.replace(PARAMS, **changes)
        )


def test_flux_refuses_a_negative_prompt_that_it_would_ignore(loaded: Loaded) -> None:
    with pytest.raises(SettingsError, match="FluxPipeline takes no negative prompt"):
        Sampler(loaded("flux"), batch_size=1).sample(STEERED[:1], PARAMS)


def test_more_requests_than_a_batch_holds_are_refused(loaded: Loaded) -> None:
    with pytest.raises(SettingsError, match="3 requests; a batch holds 1 to 2"):
        Sampler(loaded("sd"), batch_size=2).sample(REQUESTS, PARAMS)


def test_an_error_of_a_pipeline_becomes_one_line_with_its_cause(loaded: Loaded) -> None:
    huge = dataclasses.replace(PARAMS, width=8 * 128, height=8)
    with pytest.raises(SamplingError, match="StableDiffusion3Pipeline: ValueError") as caught:
        Sampler(loaded("sd3"), batch_size=1).sample(REQUESTS[:1], huge)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)
