"""How much time settings take, and how many graphs they make."""

from dataclasses import replace

from nightpress.diffusion_core.conditioning.passes import Pass
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.planning.batch_sizes import BatchSizes
from nightpress.pipelines.planning.layout import SettingsCount
from nightpress.pipelines.planning.shapes import costliest, num_shapes, sampling_s

SMALL = SamplingParams(64, 64, 20, 7.0)
LARGE = SamplingParams(128, 64, 20, 7.0)


def counts(*pairs: tuple[SamplingParams, int]) -> list[SettingsCount]:
    return [SettingsCount(settings, number) for settings, number in pairs]


def test_the_costliest_settings_are_those_that_take_most_time_together() -> None:
    assert costliest(counts((SMALL, 10), (LARGE, 6))).settings == LARGE
    assert costliest(counts((SMALL, 10), (LARGE, 4))).settings == SMALL


def test_time_follows_pixels_steps_and_guidance() -> None:
    unguided = replace(SMALL, guidance_scale=1.0)
    many = counts((SMALL, 10), (LARGE, 10), (unguided, 10), (replace(SMALL, scheduler="ddim"), 10))
    assert sampling_s(many, SMALL, 1.0) == 10 + 20 + 5 + 10


def test_steps_and_samplers_make_no_graph_of_their_own_and_sizes_and_guidance_do() -> None:
    sizes = BatchSizes(4)
    same = counts((SMALL, 1), (replace(SMALL, num_inference_steps=30, scheduler="ddim"), 1))
    assert num_shapes(same, sizes) == 1
    others = (LARGE, replace(SMALL, guidance_scale=1.0), replace(SMALL, lora="a", lora_scale=0.5))
    assert num_shapes([*same, *counts(*((each, 1) for each in others))], sizes) == 4


def test_each_pass_makes_a_graph_for_its_size() -> None:
    larger = replace(SMALL, passes=(Pass(2.0, 0.5, 10, 64, 64, 128, 128),))
    assert num_shapes(counts((larger, 1)), BatchSizes(4)) == 2
