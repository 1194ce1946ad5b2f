"""The pixels that training sees."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.training_files import IMAGES, SIDE, TAR, Packed, image_file, pack_one

from nightpress.pipelines.training.autoencoder import random_window
from nightpress.pipelines.training.sample_order import BatchItem


def test_an_image_of_the_right_size_is_not_changed(packed: Packed) -> None:
    data = packed({"a.tar": TAR}, "a.tar")
    with Image.open(io.BytesIO(IMAGES[2])) as image:
        assert np.array_equal(data.pixels(2, SIDE), np.asarray(image))


def test_pixels_are_the_central_square_resized(packed: Packed) -> None:
    wide = image_file(5, (120, 60))
    pixels = packed({"set/1.png": wide}, need_captions=False).pixels(0, 30)
    with Image.open(io.BytesIO(wide)) as image:
        whole = image.resize((60, 30), Image.Resampling.LANCZOS)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(whole)[:, 15:45])


def test_a_rotated_photo_is_turned_upright(packed: Packed) -> None:
    upright = np.zeros((40, 40, 3), np.uint8)
    upright[:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    lying = Image.fromarray(np.rot90(upright).copy())
    data = pack_one(lying, packed, form="PNG", exif=exif)
    assert np.array_equal(data.pixels(0, 40), upright)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparent_pixels_become_white(mode: str, packed: Packed) -> None:
    alpha = Image.fromarray(np.tile(np.array([[0, 255]], np.uint8).repeat(20, 1), (40, 1)))
    image = Image.new("L", (40, 40), 0).convert("RGBA")
    image.putalpha(alpha)
    form = "WEBP" if mode == "RGBA" else "PNG"
    image = image.quantize(4) if mode in ("P", "PA") else image.convert(mode)
    pixels = pack_one(image, packed, form=form, **({"lossless": True} if form == "WEBP" else {}))
    assert (pixels.pixels(0, 40)[:, :20] == 255).all()
    assert (pixels.pixels(0, 40)[:, 20:] == 0).all()


def test_sixteen_bit_greys_keep_their_shades(packed: Packed) -> None:
    ramp = np.linspace(0, 65535, 40).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    data = pack_one(Image.fromarray(np.tile(ramp, (40, 1))), packed, exif=exif)
    assert np.array_equal(data.pixels(0, 40)[0, :, 1], (ramp >> 8)[::-1])


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr"])
def test_every_colour_mode_becomes_rgb(mode: str, packed: Packed) -> None:
    form = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    data = pack_one(Image.new("RGB", (40, 40), "white").convert(mode), packed, form=form)
    assert (data.pixels(0, 40) == 255).all()


def test_a_window_is_a_part_of_the_image_at_a_random_position() -> None:
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.uint8)
    image = np.stack([y, x, x], -1)
    item = BatchItem(0, torch.Generator().manual_seed(0), 0.0)
    corners = set()
    for _ in range(200):
        window = random_window(image, 20, item)
        top, left = (int(value) for value in window[0, 0, :2])
        assert np.array_equal(window, image[top : top + 20, left : left + 20])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(5) for left in range(5)}
    assert random_window(image, SIDE, item).shape == (SIDE, SIDE, 3)
