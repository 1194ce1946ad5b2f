"""Laws of guidance, and of the dropping of prompts that makes it possible."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Generator, Tensor

from nightpress.diffusion_core.theory.guidance import drop_text, guide, rescale
from nightpress.diffusion_core.theory.noise import NoiseSchedule
from nightpress.diffusion_core.theory.prediction import PREDICTION_TYPES, PredictionType, convert


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def answers() -> tuple[Tensor, Tensor]:
    conditional, unconditional = torch.randn(2, 3, 4, 8, 8, generator=seeded())
    return conditional, unconditional


def test_scale_one_gives_the_conditional_output_and_zero_the_unconditional() -> None:
    conditional, unconditional = answers()
    torch.testing.assert_close(guide(conditional, unconditional, 1.0), conditional)
    assert torch.equal(guide(conditional, unconditional, 0.0), unconditional)


def test_guidance_is_the_equation_of_the_paper() -> None:
    conditional, unconditional = answers()
    w = 6.5
    paper = (1 + w) * conditional - w * unconditional
    torch.testing.assert_close(guide(conditional, unconditional, 1 + w), paper)


def test_guidance_changes_nothing_if_both_outputs_agree() -> None:
    same, _ = answers()
    assert torch.equal(guide(same, same, 7.5), same)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_guidance_commutes_with_converting_the_prediction_type(kind: PredictionType) -> None:
    conditional, unconditional = answers()
    x_t = torch.randn(3, 4, 8, 8, generator=seeded(1))
    alpha, sigma = NoiseSchedule().alpha_sigma(torch.tensor([100, 400, 700]))

    def as_kind(answer: Tensor) -> Tensor:
        return convert("v_prediction", kind, answer, x_t, alpha, sigma)

    torch.testing.assert_close(
        guide(as_kind(conditional), as_kind(unconditional), 4.0),
        as_kind(guide(conditional, unconditional, 4.0)),
        atol=1e-3,
        rtol=1e-3,
    )


@pytest.mark.parametrize("guidance_rescale", [0.0, 0.3, 0.7, 1.0])
def test_rescaling_agrees_with_diffusers(guidance_rescale: float) -> None:
    conditional, unconditional = answers()
    guided = guide(conditional, unconditional, 7.5)
    torch.testing.assert_close(
        rescale(guided, conditional, guidance_rescale),
        rescale_noise_cfg(guided, conditional, guidance_rescale),
    )


def test_full_rescaling_restores_the_conditional_contrast() -> None:
    conditional, unconditional = answers()
    guided = guide(conditional, unconditional, 7.5)
    assert bool((guided.std(dim=(1, 2, 3)) > 2 * conditional.std(dim=(1, 2, 3))).all())
    contrast = rescale(guided, conditional, 1.0).std(dim=(1, 2, 3))
    torch.testing.assert_close(contrast, conditional.std(dim=(1, 2, 3)))


@pytest.mark.parametrize(("probability", "left"), [(0.0, 1.0), (1.0, 0.0), (0.25, 0.75)])
def test_prompts_are_dropped_with_the_given_probability(probability: float, left: float) -> None:
    kept = [bool(text) for text in drop_text(["x"] * 2000, probability, seeded())]
    assert sum(kept) / len(kept) == pytest.approx(left, abs=0.03)


def test_dropping_keeps_order_and_length() -> None:
    prompts = [str(i) for i in range(50)]
    dropped = drop_text(prompts, 0.5, seeded())
    assert [text for text in dropped if text] == [p for p in prompts if p in dropped]
    assert len(dropped) == 50
