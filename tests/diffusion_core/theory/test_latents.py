"""Scaling of latents between autoencoders and denoisers."""

from typing import Any

import pytest
import torch

from nightpress.diffusion_core.theory.latents import denormalize, normalize

CONFIGS: list[dict[str, Any]] = [
    {},
    {"scaling_factor": 0.18215},
    {"scaling_factor": 1.5, "shift_factor": 0.06},
    {"scaling_factor": 0.5, "latents_mean": [1.0, -1.0], "latents_std": [2.0, 3.0]},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_denormalizing_is_the_inverse_of_normalizing(config: dict[str, Any]) -> None:
    latents = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(denormalize(config, normalize(config, latents)), latents)


def test_means_and_deviations_apply_to_each_channel() -> None:
    latents = torch.tensor([3.0, 2.0]).view(1, 2, 1, 1)
    normalized = normalize(CONFIGS[3], latents).flatten()
    torch.testing.assert_close(normalized, torch.tensor([0.5, 0.5]))
