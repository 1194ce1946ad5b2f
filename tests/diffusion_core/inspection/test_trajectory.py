"""Recorded images are those of a run, for every family of models and every sampler."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import tiny_models
from support.slow_cases import slow_except

from nightpress.diffusion_core import builtin
from nightpress.diffusion_core.conditioning.spec import Pixels
from nightpress.diffusion_core.errors import SamplingError, SettingsError, UnsupportedModel
from nightpress.diffusion_core.inspection.trajectory import (
    Frame,
    WatchedSampler,
    alpha_sigma_of,
    frames,
)
from nightpress.diffusion_core.models import loading, samplers
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler

PARAMS = SamplingParams(width=64, height=32, num_inference_steps=4, guidance_scale=3.0)
REQUEST = ImageRequest("a red fox, asleep", "", 11)
Loaded = Callable[[str], LoadedModel]


def distance(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


def watched(loaded: LoadedModel, params: SamplingParams, num_frames: int = 100) -> list[Frame]:
    return list(frames(loaded, REQUEST, params, num_frames))


@pytest.fixture(scope="module")
def shipped() -> LoadedModel:
    return loading.load(builtin.folder(), ModelSpec(), "cpu")


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_last_frame_is_the_image_of_a_run(family: str, loaded: Loaded) -> None:
    made = Sampler(loaded(family), batch_size=1).sample([REQUEST], PARAMS).pixels[0]
    seen = watched(loaded(family), PARAMS)
    np.testing.assert_array_equal(seen[-1].noisy, made)
    np.testing.assert_array_equal(seen[-1].guess, made)
    assert seen[-1].step == seen[-1].num_steps == len(seen) - 1


@pytest.mark.parametrize(
    "sampler",
    slow_except(
        samplers.DIFFUSION_SAMPLERS, "default", "ddpm", "dpmsolver++", "euler-ancestral", "unipc"
    ),
)
def test_every_sampler_can_be_recorded_and_noise_only_falls(sampler: str, loaded: Loaded) -> None:
    seen = watched(loaded("sd"), dataclasses.replace(PARAMS, scheduler=sampler))
    sigmas = [frame.sigma for frame in seen]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[0] > 0.9
    assert sigmas[-1] == 0
    if sampler != "default":  # PNDM, which warms up with a step of its own
        assert len(seen) == PARAMS.num_inference_steps + 1


@pytest.mark.parametrize(
    ("family", "sampler"),
    [
        *[
            ("sd", name)
            for name in samplers.DIFFUSION_SAMPLERS
            if name not in ("default", "ddim", "ddim-trailing")
        ],
        ("sd3", "flow-euler"),
        ("flux", "flow-euler"),
        ("sd3", "dpmsolver++"),
        ("sana", "default"),
        ("pixart", "default"),
    ],
)
def test_the_prediction_before_the_last_step_is_the_image(
    family: str, sampler: str, loaded: Loaded
) -> None:
    params = dataclasses.replace(PARAMS, scheduler=sampler)
    seen = watched(loaded(family), params)
    np.testing.assert_allclose(seen[-2].guess, seen[-1].guess, atol=1)
    assert distance(seen[0].guess, seen[-1].guess) > 0.5


@pytest.mark.parametrize("sampler", slow_except(["default", "euler", "ddpm"], "default"))
def test_predictions_of_a_trained_model_approach_the_image(
    sampler: str, shipped: LoadedModel
) -> None:
    params = SamplingParams(64, 64, 8, 3.0, sampler)
    seen = list(frames(shipped, ImageRequest("a red apple", "", 0), params, 9))
    left = [distance(frame.guess, seen[-1].guess) for frame in seen]
    assert left[0] > left[4] > left[-2]
    assert left[0] > 5 * left[-2]


def test_all_samplers_start_from_the_same_noise(loaded: Loaded) -> None:
    firsts = [
        watched(loaded("sd"), dataclasses.replace(PARAMS, scheduler=name), 2)[0].noisy
        for name in ("ddim", "dpmsolver++", "heun", "ddpm")
    ]
    assert all(distance(first, firsts[0]) <= 1 for first in firsts)


@pytest.mark.parametrize(
    ("num_frames", "steps"), [(2, [0, 10]), (3, [0, 5, 10]), (6, [0, 2, 4, 6, 8, 10])]
)
def test_few_frames_are_evenly_spaced(num_frames: int, steps: list[int], loaded: Loaded) -> None:
    params = dataclasses.replace(PARAMS, scheduler="ddim", num_inference_steps=10)
    assert [frame.step for frame in watched(loaded("sd"), params, num_frames)] == steps


def test_progress_is_reported_for_every_call(loaded: Loaded) -> None:
    calls: list[tuple[int, int]] = []
    params = dataclasses.replace(PARAMS, scheduler="heun")
    list(frames(loaded("sd"), REQUEST, params, 2, lambda done, total: calls.append((done, total))))
    assert calls == [(call, 7) for call in range(7)]  # two calls a step, and one in the last


def test_other_step_noise_changes_ddpm_and_not_ddim(loaded: Loaded) -> None:
    def made(sampler: str, step_noise: int | None) -> Pixels:
        watching = WatchedSampler(loaded("sd"))
        watching.step_noise = step_noise
        params = dataclasses.replace(PARAMS, scheduler=sampler)
        pixels: Pixels = watching.sample([REQUEST], params).pixels[0]
        return pixels

    assert distance(made("ddpm", None), made("ddpm", 5)) > 1
    np.testing.assert_array_equal(made("ddpm", 5), made("ddpm", 5))
    np.testing.assert_array_equal(made("ddim", None), made("ddim", 5))


def test_fewer_than_two_frames_are_refused(loaded: Loaded) -> None:
    with pytest.raises(SettingsError, match="frames 1: must be at least 2"):
        watched(loaded("sd"), PARAMS, 1)


def test_an_image_that_is_not_finite_is_an_error(loaded: Loaded) -> None:
    with pytest.raises(SamplingError, match="sampling made no image: its values are not finite"):
        watched(loaded("sd"), dataclasses.replace(PARAMS, guidance_scale=3e38))


def test_a_pipeline_with_unknown_decoding_is_refused(loaded: Loaded) -> None:
    from diffusers import StableDiffusionPipeline

    class Mirrored(StableDiffusionPipeline):
        """Flips its images after decoding."""

        @functools.wraps(StableDiffusionPipeline.__call__)
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            output = super().__call__(*args, **kwargs)
            output.images = output.images.flip(-1)
            return output

    pipeline = Mirrored(**loaded("sd").pipeline.components, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    with pytest.raises(UnsupportedModel, match="Mirrored decodes its latents in an unknown way"):
        watched(dataclasses.replace(loaded("sd"), pipeline=pipeline), PARAMS)


def test_a_scheduler_whose_step_has_other_arguments_is_refused(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightpress.diffusion_core.sampling import schedulers

    make = schedulers.make

    def moved(name: str, config: Any) -> Any:
        scheduler = make(name, config)
        step = scheduler.step
        scheduler.step = lambda output, timestep, sample, **rest: step(
            output, timestep, sample, **rest
        )
        return scheduler

    monkeypatch.setattr(schedulers, "make", moved)
    with pytest.raises(UnsupportedModel, match=r"step has no argument model_output"):
        watched(loaded("sd"), PARAMS)


def test_a_scheduler_without_a_noise_level_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="neither sigmas nor alphas"):
        alpha_sigma_of(object(), 0)
