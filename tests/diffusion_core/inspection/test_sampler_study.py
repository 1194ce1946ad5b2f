"""Samplers and numbers of steps compared with their reference."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.inspection.sampler_study import (
    FLOW_SAMPLERS,
    SAMPLERS,
    STEP_COUNTS,
    SamplerResult,
    SamplerTrial,
    plan_study,
    rmse,
    run_study,
)
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.loading import LoadedModel, describe
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler

PARAMS = SamplingParams(width=32, height=32, num_inference_steps=9, guidance_scale=3.0)
REQUEST = ImageRequest("a red fox, asleep", "", 11)
Loaded = Callable[[str], LoadedModel]
Described = Callable[[str], ModelInfo]


@pytest.fixture(scope="module")
def described(saved: Callable[[str], Path]) -> Described:
    return lambda family: describe(saved(family), ModelSpec(source=family))


@pytest.fixture(scope="module")
def results(loaded: Loaded, described: Described) -> list[SamplerResult]:
    study = plan_study(described("sd"), ("ddim", "euler", "heun"), (2, 20), reference_steps=20)
    return list(run_study(study, loaded("sd"), REQUEST, PARAMS))


def test_the_reference_has_no_distance_to_itself(results: list[SamplerResult]) -> None:
    assert results[0].trial == results[0].compared_with == SamplerTrial("ddim", 20)
    assert results[0].rmse == 0
    assert math.isinf(results[0].psnr)
    again = next(r for r in results[1:] if r.trial == SamplerTrial("ddim", 20))
    np.testing.assert_array_equal(again.pixels, results[0].pixels)


def test_every_trial_runs_once_in_the_planned_order(results: list[SamplerResult]) -> None:
    names = [str(result.trial) for result in results]
    assert names == [
        "ddim 20",
        "ddpm 20",
        "ddpm, other noise 20",
        *[f"{name} {count}" for name in ("ddim", "euler", "heun") for count in (2, 20)],
    ]
    assert [r.num_evaluations for r in results] == [20, 20, 20, 2, 20, 2, 20, 3, 39]
    assert all(result.seconds > 0 and result.fault is None for result in results)


def test_more_steps_come_closer_to_the_reference(results: list[SamplerResult]) -> None:
    by_trial = {result.trial: result.rmse for result in results[1:]}
    for name in ("ddim", "euler", "heun"):
        assert by_trial[SamplerTrial(name, 20)] < by_trial[SamplerTrial(name, 2)]


def test_ddpm_arrives_elsewhere_and_is_compared_with_itself(
    results: list[SamplerResult],
) -> None:
    plain, other = results[1:3]
    assert other.compared_with == plain.trial
    assert other.rmse == pytest.approx(rmse(other.pixels, plain.pixels))
    assert min(plain.rmse, other.rmse) > 1


def test_a_trial_makes_the_image_of_a_run(results: list[SamplerResult], loaded: Loaded) -> None:
    for result in results:
        if not result.trial.other_step_noise:
            params = dataclasses.replace(
                PARAMS,
                scheduler=result.trial.scheduler,
                num_inference_steps=result.trial.num_inference_steps,
            )
            made = Sampler(loaded("sd"), batch_size=1).sample([REQUEST], params).pixels[0]
            np.testing.assert_array_equal(result.pixels, made)


def test_a_flow_is_compared_with_its_own_samplers(loaded: Loaded, described: Described) -> None:
    study = plan_study(described("sd3"), step_counts=(2,), reference_steps=6)
    assert study.samplers == FLOW_SAMPLERS
    results = list(run_study(study, loaded("sd3"), REQUEST, PARAMS))
    assert [str(r.trial) for r in results] == [
        "flow-euler 6",
        "flow-euler 2",
        "dpmsolver++ 2",
        "unipc 2",
    ]


def test_defaults_suit_the_model(described: Described) -> None:
    study = plan_study(described("sd"))
    assert (study.samplers, study.step_counts) == (SAMPLERS, STEP_COUNTS)
    assert study.reference == SamplerTrial("ddim", 1000)
    assert plan_study(described("flux")).samplers == ("flow-euler", "dpmsolver++", "unipc")


@pytest.mark.parametrize(
    ("family", "samplers", "counts", "message"),
    [
        ("sd", ("k_lms",), (5,), "scheduler 'k_lms': sd supports default, ddpm, "),
        ("sd", ("flow-euler",), (5,), "scheduler 'flow-euler'"),
        ("sd", ("ddim",), (5, 1001), "steps 1001: ddim takes 1 to 1000"),
        ("sd", ("lcm",), (51,), "steps 51: lcm takes 1 to 50"),
        ("lcm", (), (5,), "none of them is deterministic"),
    ],
)
def test_impossible_trials_are_refused_before_any_runs(
    family: str,
    samplers: tuple[str, ...],
    counts: tuple[int, ...],
    message: str,
    described: Described,
) -> None:
    with pytest.raises(SettingsError, match=message):
        plan_study(described(family), samplers, counts)


def test_distances_are_in_levels_and_decibels() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert rmse(black, black + 255) == 255
    one_off = rmse(black, black + 1)
    assert one_off == 1
    result = SamplerResult(SamplerTrial("a", 1), SamplerTrial("b", 1), 1, 1.0, one_off, None, black)
    assert result.psnr == pytest.approx(48.13, abs=0.01)
