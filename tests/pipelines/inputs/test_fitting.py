"""Fitting: a picture lies where Pillow would put it, and its mask lies on it."""

import numpy as np
import pytest
from PIL import Image, ImageOps
from support.picture_files import random_picture

from nightpress.pipelines.inputs.fitting import (
    Canvas,
    Fit,
    Placement,
    bounded,
    fitted,
    fitted_mask,
    same_shape,
)

LANCZOS = Image.Resampling.LANCZOS

SIZES = [((120, 80), (64, 64)), ((80, 120), (64, 48)), ((31, 77), (96, 40)), ((64, 64), (64, 64))]


@pytest.mark.parametrize(("picture", "image"), SIZES)
def test_each_fit_gives_the_pixels_of_pillows_own(
    picture: tuple[int, int], image: tuple[int, int]
) -> None:
    drawn = random_picture(*picture)
    expected: dict[Fit, Image.Image] = {
        "cover": ImageOps.fit(drawn, image, LANCZOS),
        "contain": ImageOps.pad(drawn, image, LANCZOS),
        "stretch": drawn.resize(image, LANCZOS),
    }
    for fit, pixels in expected.items():
        found = fitted(drawn, Placement.of(picture, image, fit), image)
        assert np.array_equal(found, np.asarray(pixels)), fit


@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
@pytest.mark.parametrize("scale", [1, 2, 0.5])
def test_a_mask_lies_on_its_picture_at_any_scale(fit: Fit, scale: float) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        width, height, wide, high = (2 * int(side) for side in rng.integers(10, 100, 4))
        white = np.zeros((height, width), np.uint8)
        white[height // 4 : height // 2, width // 3 : width * 3 // 4] = 255
        picture = Image.fromarray(np.repeat(white[..., None], 3, axis=2))
        mask = Image.fromarray(white).resize(
            (round(width * scale), round(height * scale)), Image.Resampling.NEAREST
        )
        placement = Placement.of(picture.size, (wide, high), fit)
        shown = fitted(picture, placement, (wide, high))[..., 0]
        placed = placement.for_picture(picture.size, mask.size)
        found = fitted_mask(mask, placed, (wide, high))
        assert set(np.unique(found)) <= {0, 255}
        # Where the picture is clearly white or black, so is the mask, but for a pixel at the edge.
        differing = (found > 0) != (shown > 127)
        edges = 2 * (wide + high) * max(1.0, wide / width / scale, high / height / scale)
        assert differing.sum() <= edges


def test_black_bars_are_kept_and_not_made_anew() -> None:
    mask = Image.new("L", (10, 10), 255)
    found = fitted_mask(mask, Placement.of((10, 10), (40, 20), "contain"), (40, 20))
    assert found[:, 10:30].min() == 255
    assert found[:, :10].max() == found[:, 30:].max() == 0


def test_a_mask_may_be_the_same_shape_at_another_scale() -> None:
    assert same_shape((1000, 667), (500, 333))
    assert same_shape((1000, 667), (500, 334))
    assert same_shape((3, 2), (300, 200))
    assert not same_shape((1000, 667), (500, 330))
    assert not same_shape((64, 64), (64, 48))
    assert not same_shape((64, 48), (64, 49))
    assert same_shape((1000, 667), (2000, 1333))
    assert not same_shape((200, 300), (300, 200))


def test_the_thinnest_pictures_are_fitted_too() -> None:
    for picture in ((1, 500), (500, 1), (1, 1)):
        for fit in ("cover", "contain", "stretch"):
            placement = Placement.of(picture, (16, 8), fit)
            assert fitted(random_picture(*picture), placement, (16, 8)).shape == (8, 16, 3)


def test_a_canvas_repeats_the_edge_and_masks_what_it_adds() -> None:
    canvas = Canvas(left=2, top=0, right=1, bottom=3)
    assert canvas.room((10, 8)) == (7, 5)
    inner = np.asarray(random_picture(7, 5))
    whole = canvas.extend(inner)
    assert whole.shape == (8, 10, 3)
    assert np.array_equal(whole[:5, 2:9], inner)
    assert np.array_equal(whole[7, 0], inner[4, 0])
    mask = canvas.extend_mask(np.zeros((5, 7), np.uint8))
    assert mask[:5, 2:9].max() == 0
    assert mask.astype(int).sum() == 255 * (10 * 8 - 7 * 5)


def test_a_reference_keeps_its_shape_and_is_bounded() -> None:
    assert bounded(random_picture(40, 30), 64).shape == (30, 40, 3)
    assert bounded(random_picture(400, 300), 64).shape == (48, 64, 3)
    assert bounded(random_picture(1000, 1), 64).shape == (1, 64, 3)
