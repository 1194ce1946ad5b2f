from typing import Any

import pytest
import torch

from nightpress.diffusion_core.models.latent_scaling import scale_latents, unscale_latents

LATENTS = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
STATISTICS = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 2.0, 0.5, 1.5]}


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"scaling_factor": 0.18215},
        {"scaling_factor": 0.3611, "shift_factor": 0.1159},
        {"scaling_factor": None, "shift_factor": None, "latents_mean": None, "latents_std": None},
        STATISTICS,
        {**STATISTICS, "scaling_factor": 0.5},
    ],
)
def test_unscaling_undoes_scaling(config: dict[str, Any]) -> None:
    scaled = scale_latents(LATENTS, config)
    torch.testing.assert_close(unscale_latents(scaled, config), LATENTS)


def test_latents_are_shifted_and_scaled_as_the_configuration_says() -> None:
    scaled = scale_latents(LATENTS, {"scaling_factor": 0.5, "shift_factor": 0.25})
    assert torch.equal(scaled, (LATENTS - 0.25) * 0.5)


def test_each_channel_has_statistics_of_its_own_in_videos_too() -> None:
    video = LATENTS.unsqueeze(2)
    scaled = scale_latents(video, STATISTICS)
    assert torch.equal(scaled[:, 1], (video[:, 1] + 0.2) / 2.0)
