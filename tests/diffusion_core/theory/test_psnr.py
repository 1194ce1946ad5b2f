"""PSNR of images."""

import math

import numpy as np
import pytest

from nightpress.diffusion_core.theory.psnr import image_psnrs_db, psnr_db


def picture(value: int) -> np.ndarray:
    return np.full((4, 6, 3), value, np.uint8)


def test_identical_images_have_infinite_psnr() -> None:
    assert image_psnrs_db([picture(7)], [picture(7)]) == [math.inf]


@pytest.mark.parametrize(("difference", "decibels"), [(255, 0.0), (1, 48.1308), (2, 42.1102)])
def test_psnr_follows_from_the_mean_squared_error(difference: int, decibels: float) -> None:
    assert image_psnrs_db([picture(difference)], [picture(0)]) == [
        pytest.approx(decibels, abs=1e-4)
    ]


def test_psnr_is_symmetric() -> None:
    assert image_psnrs_db([picture(3)], [picture(250)]) == image_psnrs_db(
        [picture(250)], [picture(3)]
    )


def test_one_pixel_counts_by_its_share_of_the_image() -> None:
    other = picture(0)
    other[0, 0, 0] = 255
    (found,) = image_psnrs_db([picture(0)], [other])
    assert found == pytest.approx(10 * math.log10(other.size))


def test_each_image_is_compared_with_its_own_counterpart() -> None:
    found = image_psnrs_db([picture(0), picture(9)], [picture(255), picture(9)])
    assert found == [0.0, math.inf]


def test_images_without_a_counterpart_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        image_psnrs_db([picture(0), picture(1)], [picture(0)])


def test_the_peak_is_the_range_of_the_values() -> None:
    assert psnr_db(4.0, peak=2.0) == 0.0
    assert psnr_db(0.04, peak=2.0) == pytest.approx(20.0)
    assert psnr_db(0.0, peak=2.0) == math.inf
