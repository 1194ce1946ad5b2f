"""The perceptual hash: alike for copies, apart for what a caption tells apart."""

from itertools import combinations
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.drawn_pictures import COLOURS, apple, as_jpeg, house, resized, with_noise

from nightpress.pipelines.scoring.near_duplicates import are_near
from nightpress.pipelines.scoring.perceptual_hash import (
    BITS_DIGITS,
    HASH_DIGITS,
    HashDistance,
    distance,
    perceptual_hash,
)

PICTURES = {f"{colour} apple": apple(colour) for colour in COLOURS} | {
    "large red apple": apple("red", large=0.75),
    "red apple to the left": apple("red", x=0.3),
    "red house": house("red"),
    "blue house": house("blue"),
}

GRAIN = with_noise(np.full((96, 64, 3), 128, np.uint8), 60)

EXAMPLES = Path(__file__).parents[3] / "jobs" / "examples"

HASHES = st.text("0123456789abcdef", min_size=HASH_DIGITS, max_size=HASH_DIGITS)


@pytest.mark.parametrize(
    "pixels", [*PICTURES.values(), GRAIN, GRAIN[:33, :50]], ids=[*PICTURES, "grain", "odd size"]
)
def test_the_first_digits_are_the_phash_of_imagehash(pixels: np.ndarray) -> None:
    assert perceptual_hash(pixels)[:BITS_DIGITS] == str(imagehash.phash(Image.fromarray(pixels)))


def test_the_hash_of_a_picture_never_changes() -> None:
    # Hashes are stored, and compared with those of other versions and machines.
    ramp = np.arange(64 * 48 * 3, dtype=np.uint32).reshape(64, 48, 3) * 7 % 251
    assert perceptual_hash(ramp.astype(np.uint8)) == (
        "8a002aff0aef28df778787787788787787788777787788777787788777787787"
    )


@pytest.mark.parametrize(("one", "other"), list(combinations(PICTURES, 2)))
def test_pictures_that_a_caption_tells_apart_are_not_near(one: str, other: str) -> None:
    assert not are_near(perceptual_hash(PICTURES[one]), perceptual_hash(PICTURES[other]))


def test_luminance_alone_would_take_two_apples_for_one_picture() -> None:
    red, green = perceptual_hash(PICTURES["red apple"]), perceptual_hash(PICTURES["green apple"])
    apart = distance(red, green)
    assert apart.bits <= 7 < apart.levels


@pytest.mark.parametrize("name", PICTURES)
def test_copies_of_a_picture_are_near(name: str) -> None:
    pixels = PICTURES[name]
    copies = [
        as_jpeg(pixels, 95),
        as_jpeg(pixels, 60),
        resized(pixels, 128, 128),
        resized(pixels, 512, 512),
        resized(as_jpeg(pixels, 80), 200, 200),
        with_noise(pixels, 3),
        with_noise(pixels, 12, seed=1),
    ]
    known = perceptual_hash(pixels)
    apart = [distance(known, perceptual_hash(copy)) for copy in copies]
    assert all(are_near(known, perceptual_hash(copy)) for copy in copies), apart


def test_copies_of_pictures_that_the_built_in_model_made_are_near_and_others_are_not() -> None:
    cells = _cells(EXAMPLES / "first.png")
    hashes = [perceptual_hash(cell) for cell in cells]
    for cell, known in zip(cells, hashes, strict=True):
        assert are_near(known, perceptual_hash(as_jpeg(cell, 85)))
        assert are_near(known, perceptual_hash(resized(cell, 64, 64)))
    assert not any(are_near(a, b) for a, b in combinations(hashes, 2))


@pytest.mark.parametrize("level", [1, 77, 255])
def test_plain_pictures_of_one_colour_are_near_at_any_size(level: int) -> None:
    plain = np.full((16, 24, 3), level, np.uint8)
    assert are_near(perceptual_hash(plain), perceptual_hash(np.full((64, 32, 3), level, np.uint8)))


@given(HASHES, HASHES)
def test_the_distance_is_the_same_both_ways_and_none_to_itself(a: str, b: str) -> None:
    assert distance(a, b) == distance(b, a)
    assert distance(a, a) == HashDistance(0, 0)


def test_the_distance_counts_bits_and_the_largest_difference_of_levels() -> None:
    a = "00ff000000000000" + "8" * 48
    b = "00f0000000000001" + "8" * 46 + "5a"
    assert distance(a, b) == HashDistance(bits=5, levels=3)


def test_what_is_no_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="has 64 digits, not 64 and 3"):
        distance("0" * HASH_DIGITS, "abc")


def _cells(file: Path) -> list[np.ndarray]:
    """The 64 pictures of the sheet, without their captions."""
    sheet = np.asarray(Image.open(file).convert("RGB"))
    corners = [(16 + 145.9 * row, 16 + 123.2 * column) for row in range(8) for column in range(8)]
    return [sheet[round(y) :, round(x) :][:112, :112] for y, x in corners]
