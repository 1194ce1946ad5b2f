"""The distance between pictures, in decibels."""

import math

import numpy as np
import pytest

from nightpress.diffusion_core.tuning.psnr import psnr_db


def picture(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, np.uint8)


def test_the_same_picture_is_infinitely_near() -> None:
    assert psnr_db([picture(7)], [picture(7)]) == [math.inf]


@pytest.mark.parametrize(("difference", "decibels"), [(255, 0.0), (1, 48.1308), (2, 42.1102)])
def test_decibels_are_those_of_the_mean_squared_error(difference: int, decibels: float) -> None:
    assert psnr_db([picture(difference)], [picture(0)]) == [pytest.approx(decibels, abs=1e-4)]


def test_it_does_not_matter_which_of_the_two_is_brighter() -> None:
    assert psnr_db([picture(3)], [picture(250)]) == psnr_db([picture(250)], [picture(3)])


def test_one_pixel_of_many_counts_by_its_share() -> None:
    other = picture(0)
    other[0, 0, 0] = 255
    (found,) = psnr_db([picture(0)], [other])
    assert found == pytest.approx(10 * math.log10(other.size))


def test_each_picture_is_compared_with_its_own_counterpart() -> None:
    found = psnr_db([picture(0), picture(9)], [picture(255), picture(9)])
    assert found == [0.0, math.inf]


def test_pictures_without_a_counterpart_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        psnr_db([picture(0), picture(1)], [picture(0)])
