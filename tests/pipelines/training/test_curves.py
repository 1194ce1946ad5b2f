"""Curves: a picture at every stage of a training, and a mean that is one."""

import io
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from nightpress.pipelines.training.curves import loss_curve, resumed_at, smoothed
from nightpress.pipelines.training.metrics import StepMetrics, as_table

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def row(step: int, loss: float, start: int = 0, pause_s: float = 0.0) -> StepMetrics:
    """A row of a training of 1 s a step that began, or began again, at step `start`."""
    at = BEGAN + timedelta(seconds=step + pause_s)
    terms = {"mse": loss * 0.9, "kl": loss * 0.1}
    return StepMetrics(step, step * 16, loss, terms, 1e-4, 0.5, 16.0, float(step - start), at)


def picture(rows: list[StepMetrics], title: str = "emoji") -> Image.Image:
    image = Image.open(io.BytesIO(loss_curve(as_table(rows), title)))
    image.load()
    return image.convert("RGB")


@pytest.mark.parametrize("num_rows", [0, 1, 2, 50])
def test_there_is_a_picture_at_every_stage(num_rows: int) -> None:
    image = picture([row(step, 1 / step) for step in range(1, num_rows + 1)])
    assert min(image.size) > 500
    assert len(set(image.tobytes())) > 2


def test_a_curve_shows_its_values() -> None:
    steps = range(1, 50)
    falling, rising = ([row(s, loss) for s, loss in zip(steps, values, strict=True)]
                       for values in (np.linspace(2, 1, 49), np.linspace(1, 2, 49)))  # fmt: skip
    assert picture(falling).tobytes() != picture(rising).tobytes()
    assert picture(falling).tobytes() == picture(falling).tobytes()


@pytest.mark.parametrize("loss", [0.0, -1.0, float("nan"), float("inf"), 1e30])
def test_odd_losses_are_drawn_too(loss: float) -> None:
    assert picture([row(1, 1.0), row(2, loss), row(3, 0.5)]).width > 500


def test_a_title_is_no_formula() -> None:
    assert picture([row(1, 1.0)], title="costs $5^{ and $6").width > 500


def test_smoothing_keeps_a_constant_and_has_no_bias_at_the_start() -> None:
    assert smoothed(np.full(9, 3.0), 4) == pytest.approx(np.full(9, 3.0))
    assert smoothed(np.array([8.0, 0.0]), 2)[0] == 8.0


def test_smoothing_weighs_by_age() -> None:
    found = smoothed(np.array([1.0, 2.0, 4.0]), 2)
    assert found[2] == pytest.approx((0.25 * 1 + 0.5 * 2 + 4) / 1.75)


def test_smoothing_over_one_row_changes_nothing() -> None:
    values = np.array([1.0, 5.0, 2.0])
    assert smoothed(values, 0.1) == pytest.approx(values)


def test_smoothing_leaves_out_what_is_not_finite() -> None:
    found = smoothed(np.array([np.nan, 2.0, np.inf, 2.0]), 3)
    assert np.isnan(found[0])
    assert found[1:] == pytest.approx([2.0, 2.0, 2.0])


def test_a_restart_is_found_by_its_time_falling_back() -> None:
    rows = [row(10, 1.0), row(20, 1.0), row(30, 1.0, start=20), row(40, 1.0, start=20)]
    assert resumed_at(as_table(rows)) == [30]


def test_a_restart_is_found_after_a_pause_that_its_own_time_outgrew() -> None:
    rows = [row(1, 1.0), row(90, 1.0, start=1, pause_s=500)]
    assert resumed_at(as_table(rows)) == [90]


def test_an_unbroken_training_has_no_restart() -> None:
    assert resumed_at(as_table([row(step, 1.0) for step in range(1, 99)])) == []
