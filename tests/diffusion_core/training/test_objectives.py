"""Properties of the training step, and tiny training runs."""

from collections.abc import Sequence

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from torch import Generator, Tensor, nn

from nightpress.diffusion_core.errors import SettingsError
from nightpress.diffusion_core.theory.noise import (
    FlowPath,
    NoiseProcess,
    NoiseSchedule,
    add_noise,
    snr,
)
from nightpress.diffusion_core.theory.prediction import (
    PREDICTION_TYPES,
    PredictionType,
    target,
    to_x0,
)
from nightpress.diffusion_core.training import (
    AutoencoderObjective,
    Ema,
    Objective,
    TimeSampling,
    autoencoder_terms,
    denoising_loss,
    gradient_difference,
    kl_to_standard_normal,
    min_snr_weight,
)

PROCESSES: list[NoiseProcess] = [
    NoiseSchedule(),
    NoiseSchedule(zero_terminal_snr=True),
    FlowPath(shift=3.0),
]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


class Oracle:
    """A denoiser that always predicts the target."""

    def __init__(self, objective: Objective, x0: Tensor, noise: Tensor) -> None:
        self.objective, self.x0, self.noise = objective, x0, noise

    def __call__(self, x_t: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        alpha, sigma = self.objective.schedule.alpha_sigma(timesteps)
        return target(self.objective.prediction_type, self.x0, self.noise, alpha, sigma)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_the_loss_is_zero_only_for_the_right_prediction(
    process: NoiseProcess, kind: PredictionType
) -> None:
    if kind == "epsilon" and process is not PROCESSES[0]:
        with pytest.raises(SettingsError, match="ends in pure noise"):
            Objective(process, kind)
        return
    objective = Objective(process, kind)
    x0, noise = torch.randn(2, 8, 4, 4, 4, generator=seeded())
    timesteps, text = objective.timesteps(torch.arange(8) / 8), torch.zeros(8, 1, 1)
    oracle = Oracle(objective, x0, noise)
    assert denoising_loss(oracle, objective, x0, noise, timesteps, text).item() == 0
    mistaken = Oracle(objective, x0 + 1, noise - 1)
    assert denoising_loss(mistaken, objective, x0, noise, timesteps, text).item() > 0.01


def test_without_weights_the_loss_is_the_mean_squared_error() -> None:
    objective = Objective(prediction_type="epsilon", min_snr_gamma=None)
    x0, noise = torch.randn(2, 4, 4, 4, 4, generator=seeded())
    wrong = Oracle(objective, x0, noise + 0.5)
    timesteps = torch.tensor([0, 1, 500, 999])
    loss = denoising_loss(wrong, objective, x0, noise, timesteps, torch.zeros(4, 1, 1))
    assert loss.item() == pytest.approx(0.25)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("process", PROCESSES, ids=str)
def test_min_snr_has_the_same_gradient_for_every_prediction_type(
    process: NoiseProcess, kind: PredictionType
) -> None:
    alpha, sigma = process.alpha_sigma(process.timesteps_at(torch.tensor([0.1, 0.4, 0.8])))
    x0, noise, error = torch.randn(3, 3, 4, 4, 4, generator=seeded())
    x_t = add_noise(x0, noise, alpha, sigma)
    wanted = target(kind, x0, noise, alpha, sigma)
    output = (wanted + error).requires_grad_()
    ours = min_snr_weight(kind, alpha, sigma, gamma=5.0) * (output - wanted).square()
    of_x0 = (to_x0(kind, output, x_t, alpha, sigma) - x0).square()
    papers = snr(alpha, sigma).clamp(max=5.0) * of_x0
    gradients = [torch.autograd.grad(loss.sum(), output)[0] for loss in (ours, papers)]
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_min_snr_is_finite_at_both_ends_of_the_path(kind: PredictionType) -> None:
    ends = torch.tensor([0.0, 1.0])
    weights = min_snr_weight(kind, 1 - ends, ends, gamma=5.0)
    assert bool(torch.isfinite(weights).all())


@pytest.mark.parametrize(("kind", "more"), [("epsilon", 0), ("v_prediction", 1)])
def test_min_snr_agrees_with_diffusers_training_scripts(kind: PredictionType, more: int) -> None:
    timesteps = torch.tensor([0, 100, 400, 999])
    ratio = compute_snr(DDPMScheduler(beta_schedule="linear"), timesteps)
    schedule = NoiseSchedule(kind="linear", beta_start=1e-4, beta_end=0.02)
    ours = min_snr_weight(kind, *schedule.alpha_sigma(timesteps), gamma=5.0).flatten()
    torch.testing.assert_close(ours, ratio.clamp(max=5.0) / (ratio + more), atol=0, rtol=1e-3)


def test_snr_agrees_with_diffusers_training_utilities() -> None:
    timesteps = torch.tensor([0, 400, 999])
    scheduler = DDPMScheduler(beta_schedule="linear")
    ours = snr(*NoiseSchedule(kind="linear", beta_start=1e-4, beta_end=0.02).alpha_sigma(timesteps))
    torch.testing.assert_close(ours.flatten(), compute_snr(scheduler, timesteps), atol=0, rtol=1e-3)


def test_kl_is_zero_only_for_a_standard_normal() -> None:
    zeros = torch.zeros(1, 4, 2, 2)
    assert kl_to_standard_normal(zeros, zeros).item() == 0
    assert kl_to_standard_normal(zeros + 1, zeros).item() == pytest.approx(0.5)
    assert kl_to_standard_normal(zeros, zeros - 2).item() > 0


def test_the_edge_term_measures_shape_and_not_brightness() -> None:
    picture = torch.rand(2, 3, 8, 8, generator=seeded())
    assert gradient_difference(picture + 0.3, picture).item() == pytest.approx(0, abs=1e-6)
    assert gradient_difference(picture.flip(-1), picture).item() > 0.1


def test_the_average_follows_quickly_at_first_and_converges() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model.parameters(), decay=0.9)
    before = ema.shadow[0].clone()
    with torch.no_grad():
        model.weight += 1
    ema.update(model.parameters())
    torch.testing.assert_close(ema.shadow[0], before + 1 - 2 / 11)
    for _ in range(200):
        ema.update(model.parameters())
    torch.testing.assert_close(ema.shadow[0], model.weight.detach())


def test_the_average_can_replace_the_weights() -> None:
    model = nn.Linear(2, 2)
    ema = Ema(model.parameters())
    kept = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.zero_()
    ema.copy_to(model.parameters())
    assert torch.equal(model.weight, kept)


def test_the_average_agrees_with_diffusers() -> None:
    model = nn.Linear(3, 3)
    ours = Ema(model.parameters(), decay=0.9)
    theirs = EMAModel(model.parameters(), decay=0.9)
    for _ in range(150):
        with torch.no_grad():
            model.weight += 0.1
        ours.update(model.parameters())
        theirs.step(model.parameters())
    torch.testing.assert_close(ours.shadow, theirs.shadow_params, atol=0.02, rtol=1e-3)


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(Objective(prediction_type="epsilon"), marks=pytest.mark.slow),
        Objective(NoiseSchedule(zero_terminal_snr=True), "v_prediction"),
        pytest.param(
            Objective(prediction_type="sample", min_snr_gamma=None), marks=pytest.mark.slow
        ),
        Objective(FlowPath(), "flow_prediction", None, TimeSampling("logit_normal")),
    ],
    ids=lambda objective: objective.prediction_type,
)
def test_a_tiny_denoiser_learns_two_images(objective: Objective) -> None:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    pictures, words = torch.randn(2, 2, 8, 8, generator=seeded(1)), torch.eye(2, 8)[:, None]
    optimizer = torch.optim.AdamW(unet.parameters(), lr=5e-3)

    def answer(x_t: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        return unet(x_t, timesteps, text).sample

    def step(seed: int) -> float:
        which = torch.randint(2, (8,), generator=seeded(seed))
        noise = torch.randn(8, 2, 8, 8, generator=seeded(seed))
        timesteps = objective.timesteps(torch.rand(8, generator=seeded(seed)))
        loss = denoising_loss(answer, objective, pictures[which], noise, timesteps, words[which])
        return stepped(loss, optimizer)

    losses = [step(seed) for seed in range(50)]
    assert mean(losses[-10:]) < 0.6 * mean(losses[:5])


def test_a_tiny_autoencoder_learns_one_image() -> None:
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    picture = torch.rand(1, 3, 16, 16, generator=seeded()).round() * 2 - 1
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=3e-3)

    def step() -> float:
        posterior = autoencoder.encode(picture).latent_dist
        output = autoencoder.decode(posterior.mean).sample
        terms = autoencoder_terms(
            AutoencoderObjective(), picture, output, posterior.mean, posterior.logvar
        )
        return stepped(terms["loss"], optimizer)

    losses = [step() for _ in range(60)]
    assert losses[-1] < 0.7 * losses[0]


def stepped(loss: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """Backpropagate, clip the gradient's norm, step; returns the loss."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    return loss.item()


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
