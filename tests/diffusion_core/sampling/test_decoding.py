"""Images that overflow in a half-precision decoder: found late, decoded again alone in float32."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nightpress.diffusion_core.errors import OutOfMemory
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.copy_to_host import Copy, CopyStream
from nightpress.diffusion_core.sampling.decoding import Decoded, DecoderWatch
from nightpress.diffusion_core.sampling.sampler import (
    Fault,
    ImageRequest,
    Sampler,
    SamplingParams,
)

UNGUIDED = SamplingParams(width=64, height=32, num_inference_steps=3, guidance_scale=1.0)

REQUESTS = tuple(ImageRequest(text, "", seed) for seed, text in enumerate(("a fox", "a hut", "7")))


@contextmanager
def poisoned(module: Any, place: int, only_in: torch.dtype | None = None) -> Iterator[None]:
    """Replace one image of a module's output by NaN; if a type is given, only in that type."""

    def poison(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        if only_in in (None, output.dtype):
            output[place] = float("nan")
        return output

    handle = module.register_forward_hook(poison)
    try:
        yield
    finally:
        handle.remove()


def test_an_image_that_overflows_in_half_precision_is_decoded_again_in_float32(
    saved: Callable[[str], Path],
) -> None:
    half = loading.load(saved("sd"), ModelSpec(dtype="bfloat16"), "cpu")
    sampler = Sampler(half, batch_size=3)
    expected = sampler.sample(REQUESTS, UNGUIDED).pixels
    with poisoned(half.pipeline.vae.decoder.conv_out, 1, only_in=torch.bfloat16):
        batch = sampler.sample(REQUESTS, UNGUIDED)
    assert batch.faults == (None, None, None)
    np.testing.assert_array_equal(batch.pixels[[0, 2]], expected[[0, 2]])
    difference = np.abs(batch.pixels[1].astype(int) - expected[1].astype(int))
    assert 0 < difference.max() < 16
    assert half.pipeline.vae.dtype == torch.bfloat16
    np.testing.assert_array_equal(sampler.sample(REQUESTS, UNGUIDED).pixels, expected)


def test_a_batch_that_overflows_is_sampled_twice_and_later_ones_are_repaired_at_once(
    saved: Callable[[str], Path],
) -> None:
    half = loading.load(saved("sd"), ModelSpec(dtype="bfloat16"), "cpu")
    sampler, vae = Sampler(half, batch_size=3), half.pipeline.vae
    steps: list[str] = []
    decoded: list[tuple[torch.dtype, int]] = []
    half.pipeline.unet.register_forward_pre_hook(lambda *_: steps.append("step"))
    vae.decoder.register_forward_pre_hook(
        lambda _module, inputs: decoded.append((inputs[0].dtype, len(inputs[0])))
    )
    whole, one_again = (torch.bfloat16, 3), (torch.float32, 1)
    sampler.sample(REQUESTS, UNGUIDED)
    assert (len(steps), decoded) == (4, [whole])
    with poisoned(vae.decoder.conv_out, 0, only_in=torch.bfloat16):
        first = sampler.sample(REQUESTS, UNGUIDED).pixels
        assert (len(steps), decoded) == (12, [whole, whole, whole, one_again])
        second = sampler.sample(REQUESTS, UNGUIDED).pixels
    assert (len(steps), decoded[4:]) == (16, [whole, one_again])
    np.testing.assert_array_equal(first, second)


def test_batches_queued_before_an_overflow_was_known_are_sampled_again_one_by_one(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = loading.load(saved("sd"), ModelSpec(dtype="bfloat16"), "cpu")
    waits: list[str] = []
    event = SimpleNamespace(synchronize=lambda: waits.append("waited"))
    with poisoned(half.pipeline.vae.decoder.conv_out, 1, only_in=torch.bfloat16):
        expected = Sampler(half, batch_size=3).sample(REQUESTS, UNGUIDED).pixels
        monkeypatch.setattr(CopyStream, "copy_to_host", lambda _, tensor: Copy(tensor, event))
        sampler = Sampler(half, batch_size=3)
        sampler.prepare(REQUESTS, UNGUIDED)
        waits.clear()  # those for the prompts
        first, second = (sampler.sample(REQUESTS, UNGUIDED) for _ in range(2))
        assert waits == []
        assert not first.is_done
        assert first.must_be_repeated
        third = sampler.sample(REQUESTS, UNGUIDED)
        assert second.must_be_repeated
        assert not third.must_be_repeated
        for batch in (first, second, third):
            assert batch.settled().faults == (None, None, None)
            np.testing.assert_array_equal(batch.pixels, expected)


def test_an_image_that_is_not_finite_in_float32_either_is_a_fault(
    saved: Callable[[str], Path],
) -> None:
    half = loading.load(saved("sd"), ModelSpec(dtype="bfloat16"), "cpu")
    with poisoned(half.pipeline.vae.decoder.conv_out, 0):
        faults = Sampler(half, batch_size=2).sample(REQUESTS[:2], UNGUIDED).faults
    assert faults == (Fault.NON_FINITE, None)


def test_repaired_images_do_not_depend_on_which_others_overflow(
    saved: Callable[[str], Path],
) -> None:
    half = loading.load(saved("sd"), ModelSpec(dtype="bfloat16"), "cpu")
    sampler, last = Sampler(half, batch_size=3), half.pipeline.vae.decoder.conv_out
    with poisoned(last, 1, only_in=torch.bfloat16):
        alone = sampler.sample(REQUESTS, UNGUIDED).pixels
        with poisoned(last, 0, only_in=torch.bfloat16):
            together = sampler.sample(REQUESTS, UNGUIDED).pixels
    np.testing.assert_array_equal(alone[1], together[1])
    assert (alone[0] != together[0]).any()


def decoded_on_a_device_without_values(
    dtype: torch.dtype, watch: DecoderWatch
) -> list[torch.Tensor]:
    """What is found on a device whose tensors have no values to read."""
    latents = torch.zeros(2, 4, 8, 8, device="meta")
    vae = SimpleNamespace(dtype=dtype, decode=lambda given: (given,))
    with watch.around_call(SimpleNamespace(vae=vae), 2) as decoded:
        vae.decode(latents)
    return decoded.finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_watching_a_decoder_does_not_wait_for_the_device_before_one_overflows(
    dtype: torch.dtype,
) -> None:
    watch = DecoderWatch()
    (finite,) = decoded_on_a_device_without_values(dtype, watch)
    assert finite.device.type == "meta"
    overflow(watch)
    if dtype != torch.float32:
        with pytest.raises(RuntimeError, match="meta"):
            decoded_on_a_device_without_values(dtype, watch)


def overflow(watch: DecoderWatch) -> None:
    """Let a decoder overflow, so that repairs begin."""
    vae = SimpleNamespace(dtype=torch.bfloat16, decode=lambda given: (given * float("nan"),))
    with watch.around_call(SimpleNamespace(vae=vae), 1) as decoded:
        vae.decode(torch.ones(1, 4, 8, 8))
    assert not begins_repairs(watch, decoded, None, Fault.BLANK)
    assert begins_repairs(watch, decoded, Fault.NON_FINITE)


def begins_repairs(watch: DecoderWatch, decoded: Decoded, *faults: Fault | None) -> bool:
    """What a watch says of a batch whose values are in host memory."""
    return watch.begins_repairs(decoded, faults, any(map(bool, map(torch.any, decoded.overflowed))))


def test_a_batch_is_repeated_once_and_so_is_one_that_was_queued_before_repairs_began() -> None:
    watch = DecoderWatch()
    vae: Any = SimpleNamespace(dtype=torch.bfloat16)
    vae.to = lambda dtype: setattr(vae, "dtype", dtype)
    vae.decode = lambda given: (given / (vae.dtype == torch.float32),)
    calls = []
    for _ in range(2):
        with watch.around_call(SimpleNamespace(vae=vae), 1) as decoded:
            vae.decode(torch.ones(1, 4, 8, 8))
        calls.append(decoded)
    assert [begins_repairs(watch, each, Fault.NON_FINITE) for each in calls] == [True, True]
    with watch.around_call(SimpleNamespace(vae=vae), 1) as decoded:
        assert vae.decode(torch.ones(1, 4, 8, 8))[0].isfinite().all()
    assert not begins_repairs(watch, decoded, Fault.NON_FINITE)


def test_a_flagged_image_that_is_not_finite_is_repaired_before_it_is_judged() -> None:
    watch = DecoderWatch()
    vae = SimpleNamespace(dtype=torch.float16, decode=lambda given: (given * float("inf"),))
    with watch.around_call(SimpleNamespace(vae=vae), 2) as decoded:
        vae.decode(torch.ones(2, 4, 8, 8))
    assert begins_repairs(watch, decoded, None, Fault.FLAGGED)


def test_an_image_whose_latents_are_not_finite_cannot_be_repaired() -> None:
    watch = DecoderWatch()
    vae = SimpleNamespace(dtype=torch.float16, decode=lambda given: (given,))
    with watch.around_call(SimpleNamespace(vae=vae), 1) as found:
        vae.decode(torch.full((1, 4, 8, 8), float("nan")))
    assert not begins_repairs(watch, found, Fault.NON_FINITE)


def test_each_image_that_is_repaired_gets_its_own_arguments() -> None:
    """Some decoders take a timestep or a generator for each latent."""
    vae: Any = SimpleNamespace(dtype=torch.bfloat16)
    vae.to = lambda dtype: setattr(vae, "dtype", dtype)
    seen = []

    def decode(latents: torch.Tensor, times: torch.Tensor, generator: Any) -> tuple[torch.Tensor]:
        if vae.dtype == torch.float32:
            seen.append((latents.flatten().tolist(), times.tolist(), generator))
            return (latents,)
        return (latents.index_fill(0, torch.tensor([0, 2]), float("nan")),)

    vae.decode, watch = decode, DecoderWatch()
    overflow(watch)
    latents = torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16).view(3, 1, 1, 1)
    with watch.around_call(SimpleNamespace(vae=vae), 3) as found:
        decoded = vae.decode(latents, torch.tensor([7, 8, 9]), generator=["a", "b", "c"])[0]
    assert seen == [([1.0], [7], ["a"]), ([3.0], [9], ["c"])]
    assert decoded.flatten().tolist() == [1.0, 2.0, 3.0]
    assert found.finite[0].tolist() == [True, True, True]


def test_a_second_decoding_that_runs_out_of_memory_says_so_too() -> None:
    vae: Any = SimpleNamespace(dtype=torch.bfloat16)
    vae.to = lambda dtype: setattr(vae, "dtype", dtype)

    def decode(latents: torch.Tensor) -> tuple[torch.Tensor]:
        if latents.dtype == torch.float32:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return (latents * float("nan"),)

    vae.decode, watch = decode, DecoderWatch()
    overflow(watch)
    call = watch.around_call(SimpleNamespace(vae=vae), 1)
    with pytest.raises(OutOfMemory, match="allocate"), call:
        vae.decode(torch.ones(1, 4, 8, 8, dtype=torch.bfloat16))
    assert vae.dtype == torch.bfloat16
