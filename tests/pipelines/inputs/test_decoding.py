"""Decoding a picture alone: every kind of file gives 8-bit sRGB, or one line that says why not."""

import numpy as np
import pytest
from PIL import Image, ImageCms
from support.picture_files import (
    DISPLAY_P3,
    claimed_png,
    encoded,
    png,
    random_picture,
    rgb_profile,
    smooth_picture,
)

from nightpress.pipelines.inputs.decoding import (
    DecodeLimits,
    Undecodable,
    decode_colour,
    decode_mask,
)

LIMITS = DecodeLimits(max_bytes=1_000_000, max_pixels=1_000_000)

Turn = Image.Transpose
TURNS = {
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
"""EXIF orientation -> what brings the stored pixels upright: CIPA DC-008, tag 274."""


def colours(data: bytes) -> np.ndarray:
    image = decode_colour(data, LIMITS)
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int16)


def refusal(data: bytes, limits: DecodeLimits = LIMITS) -> str:
    with pytest.raises(Undecodable) as caught:
        decode_colour(data, limits)
    message = str(caught.value)
    assert "\n" not in message
    assert " at 0x" not in message
    return message


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "WEBP", "JPEG", "AVIF", "GIF"])
def test_the_formats_that_people_have_are_read(format_: str) -> None:
    image = smooth_picture(60, 40)
    lossless = {"lossless": True} if format_ == "WEBP" else {}
    found = colours(encoded(image, format_, **lossless))
    difference = np.abs(found - np.asarray(image))
    assert found.shape == (40, 60, 3)
    assert difference.mean() < 12 if format_ == "GIF" else difference.max() < 32
    if format_ in ("PNG", "BMP", "TIFF", "WEBP"):
        assert difference.max() == 0


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_data_say(format_: str, orientation: int) -> None:
    image, exif = smooth_picture(60, 40), Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if format_ == "WEBP" else {}
    stored = Image.fromarray(colours(encoded(image, format_, **lossless)).astype(np.uint8))
    upright = stored.transpose(TURNS[orientation]) if orientation > 1 else stored
    found = colours(encoded(image, format_, exif=exif.tobytes(), **lossless))
    assert np.array_equal(found, np.asarray(upright))


def test_16_bit_grey_is_scaled_and_not_clipped() -> None:
    grey = np.linspace(0, 65_535, 4_096).round().astype(np.uint16).reshape(64, 64)
    for format_ in ("PNG", "TIFF"):
        found = colours(encoded(Image.fromarray(grey), format_))
        assert np.abs(found - (grey / 257)[..., None]).max() <= 1
        assert np.array_equal(np.unique(found), np.arange(256))


def test_grey_of_32_bits_is_refused_because_its_range_is_not_known() -> None:
    grey = Image.fromarray(np.full((8, 8), 70_000, np.int32))
    assert "32 bits" in refusal(encoded(grey, "TIFF"))
    assert "32 bits" in refusal(encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"))


def test_1_bit_and_palettes_become_their_colours() -> None:
    image = random_picture(30, 20)
    for kind in (image.convert("1"), image.quantize(16), image.convert("L")):
        assert np.array_equal(colours(encoded(kind)), np.asarray(kind.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_are_white_and_half_transparent_ones_lighter(mode: str) -> None:
    image = Image.new("RGBA", (3, 1), (100, 100, 100, 255))
    image.putpixel((1, 0), (100, 100, 100, 0))
    image.putpixel((2, 0), (100, 100, 100, 128))
    found = colours(encoded(image.convert(mode)))
    assert found[0, :, 0].tolist() == [100, 255, 177]


def test_a_transparent_colour_of_a_palette_or_of_16_bits_is_white_too() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((1, 0), 1)
    assert colours(encoded(palette, transparency=1)).tolist() == [[[10, 20, 30], [255] * 3]]
    grey = Image.fromarray(np.array([[0x1200, 0x3400]], np.uint16))
    assert colours(encoded(grey, transparency=0x3400)).tolist() == [[[0x12] * 3, [255] * 3]]


def test_the_inverted_channels_of_a_cmyk_jpeg_are_not_taken_for_its_negative() -> None:
    image = smooth_picture(60, 40)
    found = colours(encoded(image.convert("CMYK"), "JPEG", quality=100))
    assert np.abs(found - np.asarray(image)).max() <= 8


def srgb_of_p3(pixels: np.ndarray) -> np.ndarray:
    """Display P3 with a power of 2.2 to sRGB, by the equations; (H, W, 3) to (H, W, 3)."""
    to_xyz = np.array(DISPLAY_P3)
    from_xyz = np.linalg.inv(
        np.array(
            [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
        )
    )
    linear = (pixels / 255) ** 2.2 @ to_xyz.T @ from_xyz.T
    linear = linear.clip(0, 1)
    curve = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return curve * 255


def test_a_picture_with_a_colour_profile_is_converted_to_srgb() -> None:
    image = random_picture(32, 32)
    profile = rgb_profile(DISPLAY_P3, 2.2)
    expected = srgb_of_p3(np.asarray(image).astype(np.float64))
    found = colours(encoded(image, icc_profile=profile))
    assert np.abs(expected - np.asarray(image)).max() > 30
    assert np.abs(found - expected).max() <= 3
    clear = image.copy()
    clear.putalpha(255)
    assert np.array_equal(colours(encoded(clear, icc_profile=profile)), found)


def test_an_srgb_profile_and_one_that_is_not_sound_leave_every_colour_as_it_is() -> None:
    image = random_picture(32, 32)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (srgb, lab, b"rubbish" * 30):
        assert np.array_equal(colours(encoded(image, icc_profile=profile)), np.asarray(image))


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_or_several_pages_are_refused(format_: str) -> None:
    frames = [random_picture(20, 10, seed) for seed in range(3)]
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:])
    assert refusal(data) == f"3 pictures in one {format_} file; one is allowed"


def test_a_jpeg_with_the_preview_of_a_camera_in_it_is_one_picture() -> None:
    image = smooth_picture(60, 40)
    data = encoded(image, "MPO", save_all=True, append_images=[image.resize((6, 4))])
    assert colours(data).shape == (40, 60, 3)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_a_truncated_file_is_refused_and_not_half_decoded(format_: str) -> None:
    data = encoded(random_picture(60, 40), format_)
    for share in (0.1, 0.5, 0.95):
        assert refusal(data[: int(len(data) * share)])


def test_a_flipped_bit_in_the_pixels_of_a_png_is_found() -> None:
    data = bytearray(png(60, 40))
    data[len(data) // 2] ^= 4
    assert refusal(bytes(data)).startswith("damaged: ")


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 10_000), (1_001, 1_000)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    message = refusal(claimed_png(*size))
    assert message.endswith("inputs.max_pixels allows 1,000,000")
    assert message.startswith(
        (f"{size[0]:,} x {size[1]:,} pixels", f"{size[0] * size[1]:,} pixels")
    )


def test_what_is_no_picture_is_refused_in_words() -> None:
    allowed = "it must be PNG, JPEG, WebP, AVIF, GIF, TIFF or BMP"
    page = b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>"
    assert refusal(page) == f"not a picture (an HTML page); {allowed}"
    assert refusal(b"%PDF-1.7 ...") == f"not a picture (it begins with b'%PDF-1.7 ...'); {allowed}"
    assert refusal(b"") == "the file is empty"
    limits = DecodeLimits(max_bytes=1_000, max_pixels=1_000_000)
    assert refusal(png(60, 40), limits) == "larger than 1,000 bytes, which inputs.max_bytes allows"


def test_a_mask_is_black_and_white_by_its_brightness() -> None:
    grey = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    expected = [0] * 128 + [255] * 128
    wide = Image.fromarray((np.arange(256, dtype=np.uint16) << 8 | 0xFF)[None])
    for image in (grey, grey.convert("RGB"), grey.convert("LA"), grey.convert("RGBA"), wide):
        found = decode_mask(encoded(image), LIMITS)
        assert found.mode == "L"
        assert np.asarray(found)[0].tolist() == expected
    one_bit = random_picture(30, 20).convert("1")
    found = np.asarray(decode_mask(encoded(one_bit), LIMITS))
    assert np.array_equal(found > 0, np.asarray(one_bit))


def test_a_mask_with_transparent_pixels_can_be_read_in_two_ways_and_is_refused() -> None:
    image = random_picture(30, 20)
    image.putalpha(254)
    with pytest.raises(Undecodable, match=r"^a mask with transparent pixels; it must be opaque"):
        decode_mask(encoded(image), LIMITS)
