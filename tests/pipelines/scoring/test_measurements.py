"""Sharpness, exposure, clipping and contrast."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from nightpress.pipelines.job.scores_section import MEASURED
from nightpress.pipelines.scoring.measurements import MEASUREMENTS, measure


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def grey(level: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def test_the_measurements_are_the_scores_that_every_image_has() -> None:
    assert tuple(measure(grey(1))) == MEASUREMENTS == MEASURED


@pytest.mark.parametrize(("height", "width"), [(64, 64), (17, 130), (3, 3)])
def test_sharpness_is_the_variance_of_opencvs_laplacian_inside_the_edge(
    height: int, width: int
) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = noise(height, width)
    luminance = np.asarray(Image.fromarray(pixels).convert("L"))
    laplacian = cv2.Laplacian(luminance, cv2.CV_64F)[1:-1, 1:-1]
    assert measure(pixels)["sharpness"] == pytest.approx(laplacian.var(), rel=1e-12)


def test_the_other_measurements_are_those_of_the_luminance() -> None:
    pixels = noise(40, 30)
    luminance = np.asarray(Image.fromarray(pixels).convert("L")).astype(float)
    found = measure(pixels)
    assert found["exposure"] == pytest.approx(luminance.mean() / 255, rel=1e-12)
    assert found["contrast"] == pytest.approx(luminance.std() / 255, rel=1e-12)
    clipped = (luminance <= 2) | (luminance >= 253)
    assert found["clipping"] == pytest.approx(clipped.mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("level", "exposure", "clipping"), [(0, 0.0, 1.0), (128, 128 / 255, 0.0), (255, 1.0, 1.0)]
)
def test_a_plain_image_has_neither_sharpness_nor_contrast(
    level: int, exposure: float, clipping: float
) -> None:
    expected = {"sharpness": 0, "exposure": exposure, "clipping": clipping, "contrast": 0}
    assert measure(grey(level)) == expected


def test_a_checkerboard_has_the_greatest_sharpness_and_contrast() -> None:
    board = np.indices((32, 32)).sum(0) % 2 * 255
    pixels = np.repeat(board[..., None], 3, axis=-1).astype(np.uint8)
    found = measure(pixels)
    assert found["contrast"] == 0.5
    assert found["sharpness"] == (4 * 255) ** 2


def test_an_image_without_inner_pixels_has_no_sharpness() -> None:
    assert measure(noise(2, 9))["sharpness"] == 0


def test_blurring_lowers_sharpness_and_keeps_exposure() -> None:
    pixels = noise(64, 64)
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)))
    sharp, soft = measure(pixels), measure(blurred)
    assert soft["sharpness"] < sharp["sharpness"] / 10
    assert soft["exposure"] == pytest.approx(sharp["exposure"], abs=0.01)


def test_a_view_with_other_strides_is_measured_as_its_copy() -> None:
    pixels = noise(40, 40)[::-1, 5:]
    assert measure(pixels) == measure(np.ascontiguousarray(pixels))
