"""A picture as training sees it."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.training_files import PICTURES, SIDE, TAR, Packed, only, picture


def test_a_picture_of_the_right_size_is_not_touched(packed: Packed) -> None:
    data = packed({"a.tar": TAR}, "a.tar")
    with Image.open(io.BytesIO(PICTURES[2])) as image:
        assert np.array_equal(data.pixels(2, SIDE), np.asarray(image))


def test_pixels_are_the_middle_square_resampled(packed: Packed) -> None:
    wide = picture(5, (120, 60))
    pixels = packed({"set/1.png": wide}, need_captions=False).pixels(0, 30)
    with Image.open(io.BytesIO(wide)) as image:
        whole = image.resize((60, 30), Image.Resampling.LANCZOS)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(whole)[:, 15:45])


def test_a_turned_photo_stands_upright(packed: Packed) -> None:
    upright = np.zeros((40, 40, 3), np.uint8)
    upright[:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    lying = Image.fromarray(np.rot90(upright).copy())
    data = only(lying, packed, form="PNG", exif=exif)
    assert np.array_equal(data.pixels(0, 40), upright)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_what_is_transparent_is_white(mode: str, packed: Packed) -> None:
    alpha = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8).repeat(20, 1), (40, 1)))
    image = Image.new("L", (40, 40), 0).convert("RGBA")
    image.putalpha(alpha)
    form = "WEBP" if mode == "RGBA" else "PNG"
    image = image.quantize(4) if mode in ("P", "PA") else image.convert(mode)
    pixels = only(image, packed, form=form, **({"lossless": True} if form == "WEBP" else {}))
    assert (pixels.pixels(0, 40)[:, :20] == 255).all()
    assert (pixels.pixels(0, 40)[:, 20:] == 0).all()


def test_deep_greys_keep_their_shades(packed: Packed) -> None:
    ramp = np.linspace(0, 65535, 40).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    data = only(Image.fromarray(np.tile(ramp, (40, 1))), packed, exif=exif)
    assert np.array_equal(data.pixels(0, 40)[0, :, 1], (ramp >> 8)[::-1])


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_every_colour_mode_becomes_rgb(mode: str, packed: Packed) -> None:
    form = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    data = only(Image.new("RGB", (40, 40), "white").convert(mode), packed, form=form)
    assert (data.pixels(0, 40) == 255).all()


def test_a_window_is_a_part_of_the_picture_and_its_place_is_drawn(
    packed: Packed,
) -> None:
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.uint8)
    data = only(Image.fromarray(np.stack([y, x, x], -1)), packed)
    generator = torch.Generator().manual_seed(0)
    corners = set()
    for _ in range(200):
        window = data.window(0, 20, generator)
        top, left = (int(value) for value in window[0, 0, :2])
        assert np.array_equal(window, data.pixels(0, SIDE)[top : top + 20, left : left + 20])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(5) for left in range(5)}
    assert data.window(0, SIDE, generator).shape == (SIDE, SIDE, 3)
    again = data.window(0, 20, torch.Generator().manual_seed(0))
    assert np.array_equal(again, data.window(0, 20, torch.Generator().manual_seed(0)))
