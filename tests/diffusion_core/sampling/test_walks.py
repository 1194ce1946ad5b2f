"""Clips of models that make still images: walks between two seeds or two prompts."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support import tiny_families, tiny_models
from support.slow_cases import slow_except

from nightpress.diffusion_core.conditioning.passes import Pass
from nightpress.diffusion_core.errors import SamplingError, SettingsError
from nightpress.diffusion_core.models import loading
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.diffusion_core.sampling import decoding
from nightpress.diffusion_core.sampling.batch_result import clip_fault
from nightpress.diffusion_core.sampling.faults import Fault
from nightpress.diffusion_core.sampling.sampler import ImageRequest, Sampler, SamplingParams
from nightpress.diffusion_core.sampling.walks import (
    BetweenSeeds,
    blend,
    generator_of,
    interpolating,
)
from nightpress.diffusion_core.theory.interpolation import lerp, slerp

STILL = SamplingParams(width=64, height=32, num_inference_steps=2, guidance_scale=4.0)
WALK = dataclasses.replace(STILL, num_frames=5)
ROW = ImageRequest("a red fox, asleep", "", 11)
BOTH = dataclasses.replace(ROW, to_seed=12, to_prompt="two ships and a tower")
SEEDS = dataclasses.replace(ROW, to_seed=12)
PROMPTS = dataclasses.replace(ROW, to_prompt="two ships and a tower")
END = ImageRequest("two ships and a tower", "", 12)

Loaded = Callable[[str], LoadedModel]


def distances(clip: np.ndarray) -> list[float]:
    """The mean difference between each frame and the next."""
    pairs = zip(clip[:-1].astype(int), clip[1:].astype(int), strict=True)
    return [float(np.abs(one - two).mean()) for one, two in pairs]


@pytest.mark.parametrize("family", slow_except(tiny_models.FAMILIES, "sd", "flux", "sana"))
def test_the_ends_of_a_walk_are_bit_for_bit_the_still_images(family: str, loaded: Loaded) -> None:
    sampler = Sampler(loaded(family), batch_size=3)
    batch = sampler.sample([BOTH], WALK)
    assert batch.pixels.shape == (1, 5, 32, 64, 3)
    assert batch.faults == (None,)
    start, end = sampler.sample([ROW, END], STILL).pixels
    np.testing.assert_array_equal(batch.pixels[0, 0], start)
    np.testing.assert_array_equal(batch.pixels[0, -1], end)


@pytest.mark.parametrize("family", slow_except(tiny_models.FAMILIES, "sd", "flux"))
def test_each_frame_of_a_walk_depends_on_its_place_alone(family: str, loaded: Loaded) -> None:
    """Not on the clips beside it, nor on which frames share its batch."""
    sampler = Sampler(loaded(family), batch_size=3)
    alone = [sampler.sample([request], WALK).pixels[0] for request in (SEEDS, PROMPTS, BOTH)]
    together = sampler.sample([BOTH, SEEDS, PROMPTS], WALK).pixels
    for clip, expected in zip(together, (alone[2], alone[0], alone[1]), strict=True):
        np.testing.assert_array_equal(clip, expected)
    longer = sampler.sample([SEEDS], dataclasses.replace(WALK, num_frames=9)).pixels[0]
    np.testing.assert_array_equal(longer[::2], alone[0])  # at the same places of the walk


@pytest.mark.parametrize("request_", [SEEDS, PROMPTS, BOTH], ids=["seeds", "prompts", "both"])
def test_a_walk_moves_at_every_frame(request_: ImageRequest, loaded: Loaded) -> None:
    clip = Sampler(loaded("sd"), batch_size=2).sample([request_], WALK).pixels[0]
    assert min(distances(clip)) > 0


def test_a_frame_between_two_seeds_is_what_diffusers_makes_of_the_noise_between(
    loaded: Loaded,
) -> None:
    model = loaded("sd")
    clip = Sampler(model, batch_size=1).sample([SEEDS], WALK).pixels[0]
    first, second = (torch.randn(1, 4, 16, 32, generator=seeded(seed)) for seed in (11, 12))
    made = model.pipeline(
        ROW.prompt,
        width=64,
        height=32,
        num_inference_steps=2,
        guidance_scale=4.0,
        latents=slerp(first, second, 0.25),
        output_type="pil",
    ).images[0]
    np.testing.assert_array_equal(clip[1], np.asarray(made))


def test_a_frame_between_two_prompts_is_what_diffusers_makes_of_the_embedding_between(
    loaded: Loaded,
) -> None:
    model = loaded("sd")
    clip = Sampler(model, batch_size=1).sample([PROMPTS], WALK).pixels[0]
    encoded = [
        model.pipeline.encode_prompt(text, torch.device("cpu"), 1, True)
        for text in (PROMPTS.prompt, str(PROMPTS.to_prompt))
    ]
    made = model.pipeline(
        prompt_embeds=lerp(encoded[0][0], encoded[1][0], 0.75),
        negative_prompt_embeds=encoded[0][1],
        width=64,
        height=32,
        num_inference_steps=2,
        guidance_scale=4.0,
        generator=seeded(11),
        output_type="pil",
    ).images[0]
    np.testing.assert_array_equal(clip[3], np.asarray(made))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "scheduler", slow_except(["ddpm", "euler-ancestral", "dpmsolver-sde", "lcm"], "ddpm")
)
def test_noise_that_a_step_adds_is_interpolated_too(scheduler: str, loaded: Loaded) -> None:
    sampler = Sampler(loaded("sd"), batch_size=2)
    noisy = dataclasses.replace(STILL, scheduler=scheduler)
    clip = sampler.sample([SEEDS], dataclasses.replace(noisy, num_frames=65)).pixels[0]
    start, end = sampler.sample([ROW, dataclasses.replace(ROW, seed=12)], noisy).pixels
    np.testing.assert_array_equal(clip[0], start)
    np.testing.assert_array_equal(clip[-1], end)
    jump = float(np.abs(start.astype(int) - end.astype(int)).mean())
    assert max(distances(clip)) < jump / 8  # a step's noise of one seed would make one jump


def test_random_numbers_between_two_seeds_are_fresh_at_every_draw() -> None:
    frame = dataclasses.replace(SEEDS, at=0.5)
    generator = generator_of(frame)
    first, second = seeded(11), seeded(12)
    assert isinstance(generator, BetweenSeeds)
    with interpolating([frame]):
        drawn = [torch.randn(1, 8, generator=generator) for _ in range(2)]
        plain = torch.randn(1, 8, generator=seeded(11))
    for each in drawn:
        one, two = (torch.randn(1, 8, generator=other) for other in (first, second))
        assert torch.equal(each, slerp(one, two, 0.5))
    assert torch.equal(plain, torch.randn(1, 8, generator=seeded(11)))
    assert not torch.equal(drawn[0], drawn[1])


def test_random_numbers_that_are_not_normal_are_refused_between_two_seeds() -> None:
    frame = dataclasses.replace(SEEDS, at=0.5)
    with interpolating([frame]), pytest.raises(SamplingError, match=r"to_seed.*torch\.rand,"):
        torch.rand(1, generator=generator_of(frame))


def test_a_walk_may_be_sampled_again_larger(loaded: Loaded) -> None:
    larger = dataclasses.replace(STILL, passes=(Pass(2.0, 0.5, 2, 64, 32, 128, 64),))
    sampler = Sampler(loaded("sd"), batch_size=2)
    clip = sampler.sample([BOTH], dataclasses.replace(larger, num_frames=3)).pixels[0]
    start, end = sampler.sample([ROW, END], larger).pixels
    assert clip.shape == (3, 64, 128, 3)
    np.testing.assert_array_equal(clip[0], start)
    np.testing.assert_array_equal(clip[-1], end)


def test_a_prepared_walk_encodes_nothing_while_it_is_sampled(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("sd")
    expected = Sampler(model, batch_size=2).sample([BOTH], WALK).pixels
    sampler = Sampler(model, batch_size=2)
    sampler.prepare([BOTH], WALK)
    monkeypatch.setattr(model.pipeline.text_encoder, "forward", None)
    np.testing.assert_array_equal(sampler.sample([BOTH], WALK).pixels, expected)


def test_a_class_that_gets_strings_walks_between_seeds_and_not_between_prompts(
    tmp_path: Path,
) -> None:
    folder = tiny_families.save("QwenImagePipeline", tmp_path)
    sampler = Sampler(loading.load(folder, ModelSpec(source=str(folder)), "cpu"), batch_size=2)
    assert not sampler.walks_prompts
    params = dataclasses.replace(STILL, num_frames=3)
    clip = sampler.sample([SEEDS], params).pixels[0]
    np.testing.assert_array_equal(clip[0], sampler.sample([ROW], STILL).pixels[0])
    assert min(distances(clip)) > 0
    with pytest.raises(SettingsError, match="to_prompt: QwenImagePipeline"):
        sampler.sample([PROMPTS], params)


def test_tokens_of_one_prompt_alone_keep_their_embedding_where_there_are_masks() -> None:
    start = {
        "prompt_embeds": torch.tensor([[[0.0], [2.0], [100.0], [100.0]]]),
        "prompt_attention_mask": torch.tensor([[1, 1, 0, 0]]),
    }
    end = {
        "prompt_embeds": torch.tensor([[[4.0], [300.0], [5.0], [300.0]]]),
        "prompt_attention_mask": torch.tensor([[1, 0, 1, 0]]),
    }
    mixed = blend(start, end, 0.25)
    assert mixed["prompt_embeds"][0, :3, 0].tolist() == [1.0, 2.0, 5.0]
    assert mixed["prompt_attention_mask"].tolist() == [[1, 1, 1, 0]]
    assert mixed["prompt_attention_mask"].dtype == torch.int64


def test_a_walk_of_one_colour_is_blank(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("sd")
    decode = model.pipeline.vae.decode

    def grey(latents: torch.Tensor, **values: object) -> tuple[torch.Tensor]:
        return (torch.zeros_like(decode(latents, **values)[0]),)

    monkeypatch.setattr(model.pipeline.vae, "decode", grey)
    assert Sampler(model, batch_size=2).sample([SEEDS], WALK).faults == (Fault.BLANK,)


def test_a_walk_whose_frames_are_equal_is_a_fault_of_its_own(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded("sd")
    decode = model.pipeline.vae.decode

    def ramp(latents: torch.Tensor, **values: object) -> tuple[torch.Tensor]:
        images = decode(latents, **values)[0]
        return (torch.linspace(-1, 1, images.shape[-1]).expand_as(images).clone(),)

    monkeypatch.setattr(model.pipeline.vae, "decode", ramp)
    assert Sampler(model, batch_size=2).sample([SEEDS], WALK).faults == (Fault.STILL,)


def test_one_frame_that_is_not_finite_spoils_a_walk(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    finite, calls = decoding.all_finite, []

    def one_is_not(values: torch.Tensor) -> torch.Tensor:
        calls.append(len(values))
        return finite(values) if len(calls) > 1 else torch.tensor([False] + [True] * 3)

    monkeypatch.setattr(decoding, "all_finite", one_is_not)
    batch = Sampler(loaded("sd"), batch_size=4).sample([SEEDS], WALK)
    assert batch.faults == (Fault.NON_FINITE,)
    assert not batch.pixels[0, 0].any()
    assert batch.pixels[0, 1].any()


@pytest.mark.parametrize(
    ("frames", "is_still", "expected"),
    [
        ((None, None), False, None),
        ((None, None), True, Fault.STILL),
        ((Fault.BLANK, None), False, None),
        ((Fault.BLANK, Fault.BLANK), True, Fault.BLANK),
        ((Fault.BLANK, Fault.NON_FINITE), True, Fault.NON_FINITE),
        ((None, Fault.FLAGGED, Fault.NON_FINITE), False, Fault.FLAGGED),
    ],
)
def test_the_fault_of_a_clip_follows_from_its_frames(
    frames: tuple[Fault | None, ...], is_still: bool, expected: Fault | None
) -> None:
    assert clip_fault(frames, is_still) is expected


@pytest.mark.parametrize(
    ("request_", "params", "reason"),
    [
        (ROW, WALK, "makes still images; .* nightpress walk"),
        (SEEDS, dataclasses.replace(WALK, num_frames=1), "num_frames 1: a walk has at least 2"),
        (SEEDS, dataclasses.replace(WALK, num_frames=0), "num_frames 0: a walk has at least 2"),
        (dataclasses.replace(ROW, to_seed=11), WALK, "are its seed and prompt"),
        (dataclasses.replace(ROW, to_prompt=ROW.prompt, to_seed=11), WALK, "are its seed and"),
        (SEEDS, STILL, "to_seed is the end of a walk: it needs num_frames"),
        (PROMPTS, STILL, "to_prompt is the end of a walk: it needs num_frames"),
    ],
)
def test_a_walk_that_goes_nowhere_is_refused(
    request_: ImageRequest, params: SamplingParams, reason: str, loaded: Loaded
) -> None:
    with pytest.raises(SettingsError, match=reason):
        Sampler(loaded("sd"), batch_size=1).sample([request_], params)


def test_the_cost_of_a_clip_counts_its_frames() -> None:
    assert STILL.cost == 64 * 32 * 2
    assert WALK.cost == 5 * STILL.cost
    larger = dataclasses.replace(WALK, passes=(Pass(2.0, 0.5, 4, 64, 32, 128, 64),))
    assert larger.cost == 5 * (STILL.cost + 128 * 64 * 2)
