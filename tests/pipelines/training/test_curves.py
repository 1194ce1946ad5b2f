"""The plot of the metrics, and the moving average in it."""

import io
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image
from support.slow_cases import slow_except

from nightpress.pipelines.training.curves import loss_curve, resume_steps, smooth
from nightpress.pipelines.training.metrics import StepMetrics, metrics_table

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def row(step: int, loss: float, start: int = 0, pause_s: float = 0.0) -> StepMetrics:
    """A row of a training run at 1 s per step that was started or restarted at step `start`."""
    at = BEGAN + timedelta(seconds=step + pause_s)
    terms = {"mse": loss * 0.9, "kl": loss * 0.1}
    return StepMetrics(step, step * 16, loss, terms, 1e-4, 0.5, 16.0, float(step - start), at)


def plot(rows: list[StepMetrics], title: str = "emoji") -> Image.Image:
    image = Image.open(io.BytesIO(loss_curve(metrics_table(rows), title)))
    image.load()
    return image.convert("RGB")


@pytest.mark.parametrize("num_rows", [0, 1, 2, 50])
def test_any_number_of_rows_can_be_plotted(num_rows: int) -> None:
    image = plot([row(step, 1 / step) for step in range(1, num_rows + 1)])
    assert min(image.size) > 500
    assert len(set(image.tobytes())) > 2


def test_a_plot_depends_on_its_values() -> None:
    steps = range(1, 50)
    falling, rising = ([row(s, loss) for s, loss in zip(steps, values, strict=True)]
                       for values in (np.linspace(2, 1, 49), np.linspace(1, 2, 49)))  # fmt: skip
    assert plot(falling).tobytes() != plot(rising).tobytes()
    assert plot(falling).tobytes() == plot(falling).tobytes()


@pytest.mark.parametrize(
    "loss", slow_except([0.0, -1.0, float("nan"), math.inf, 1e30], -1.0, math.inf)
)
def test_a_loss_that_is_not_positive_or_finite_can_be_plotted(loss: float) -> None:
    assert plot([row(1, 1.0), row(2, loss), row(3, 0.5)]).width > 500


def test_a_title_is_not_parsed_as_a_formula() -> None:
    assert plot([row(1, 1.0)], title="costs $5^{ and $6").width > 500


def test_smoothing_keeps_a_constant_and_is_unbiased_at_the_start() -> None:
    assert smooth(np.full(9, 3.0), 4) == pytest.approx(np.full(9, 3.0))
    assert smooth(np.array([8.0, 0.0]), 2)[0] == 8.0


def test_smoothing_weights_decay_with_age() -> None:
    means = smooth(np.array([1.0, 2.0, 4.0]), 2)
    assert means[2] == pytest.approx((0.25 * 1 + 0.5 * 2 + 4) / 1.75)


def test_smoothing_over_one_row_changes_nothing() -> None:
    values = np.array([1.0, 5.0, 2.0])
    assert smooth(values, 0.1) == pytest.approx(values)


def test_smoothing_skips_values_that_are_not_finite() -> None:
    means = smooth(np.array([np.nan, 2.0, np.inf, 2.0]), 3)
    assert np.isnan(means[0])
    assert means[1:] == pytest.approx([2.0, 2.0, 2.0])


def test_a_restart_is_detected_when_the_elapsed_time_resets() -> None:
    rows = [row(10, 1.0), row(20, 1.0), row(30, 1.0, start=20), row(40, 1.0, start=20)]
    assert resume_steps(metrics_table(rows)) == [30]


def test_a_restart_is_detected_even_if_the_elapsed_time_grows() -> None:
    rows = [row(1, 1.0), row(90, 1.0, start=1, pause_s=500)]
    assert resume_steps(metrics_table(rows)) == [90]


def test_an_uninterrupted_training_has_no_restart() -> None:
    assert resume_steps(metrics_table([row(step, 1.0) for step in range(1, 99)])) == []
