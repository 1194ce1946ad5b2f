"""A step discards gradients that are not finite, and clips large ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_jobs import autoencoder_job
from torch import Tensor, nn

from nightpress.pipelines.training.stepping import Stepper, WorkerRank


class Line(nn.Module):
    """A loss that is a multiple of the sum of four weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, slope: Tensor) -> dict[str, Tensor]:
        return {"loss": (slope.mean() * self.weight).sum()}


def new_stepper(tmp_path: Path, module: nn.Module, **training: Any) -> Stepper:
    spec = autoencoder_job(tmp_path, training={"train_batch_size": 1, **training})
    return Stepper(spec, WorkerRank(), module)


def test_a_loss_that_is_not_finite_does_not_change_the_weights(tmp_path: Path) -> None:
    line = Line()
    stepper = new_stepper(tmp_path, line)
    average = [value.clone() for value in stepper.ema.shadow]
    result = stepper.step(0, {"slope": torch.tensor([float("nan")])})
    assert not result.is_finite
    assert torch.equal(line.weight, torch.zeros(4))
    assert not stepper.optimizer.state
    assert torch.equal(stepper.ema.shadow[0], average[0])


def test_a_large_gradient_is_clipped(tmp_path: Path) -> None:
    line = Line()
    result = new_stepper(tmp_path, line, max_grad_norm=1.0).step(
        0, {"slope": torch.tensor([1000.0])}
    )
    assert result.grad_norm == pytest.approx(2000.0)
    assert float(line.weight.grad.norm()) == pytest.approx(1.0, abs=1e-3)
