"""A hash that pictures have nearly in common if they look alike: luminance and coarse colours."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DCT_SIZE = 32
"""Side of the picture that is transformed, in pixels."""

LOW_FREQUENCIES = 8
"""Frequencies of each direction that are kept."""

GRID = 4
"""Cells of each direction that colours are averaged over."""

BITS_DIGITS = LOW_FREQUENCIES**2 // 4
LEVELS_DIGITS = 3 * GRID**2
HASH_DIGITS = BITS_DIGITS + LEVELS_DIGITS
"""Hexadecimal digits of a hash: 16 for 64 bits of luminance, 48 for the colours of 16 cells."""

COSINE_UNIT = 1 << 17
"""What cosines are multiplied by before they are rounded: the largest power of two for which every
sum is a whole number below 2^53, so that no order of adding them changes a bit."""

CHROMA_LOW = 64
"""The chroma of level 0; level 15 begins at `CHROMA_LOW + 15 * CHROMA_STEP`."""

CHROMA_STEP = 8
LUMINANCE_STEP = 16

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class HashDistance:
    """How far two perceptual hashes are apart."""

    bits: int
    """Bits of the luminance hash that differ, of 64."""
    levels: int
    """The largest difference of any cell's luminance or chroma, in levels of 0 to 15."""


def perceptual_hash(pixels: Pixels) -> str:
    """The perceptual hash of a picture, in 64 hexadecimal digits.

    The first 16 digits are the 64-bit DCT hash of the luminance: the picture is brought to 32 x 32,
    transformed, and each of the 8 x 8 lowest frequencies is a 1 if it is above their median; the
    bits are those of `imagehash.phash`. The other 48 digits are the mean colour of each cell of a
    4 x 4 grid, row by row: luminance, blue and red chroma (ITU-R BT.601), each in 16 levels. The
    DCT hash alone takes a red apple and a green one for the same picture.

    The same pixels give the same digits on every machine.

    Args:
        pixels: (H, W, 3) RGB.

    Reference: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010,
    section 3.2.1.
    """
    image = Image.fromarray(pixels)
    return _luminance_bits(image) + _colour_levels(image)


def distance(a: str, b: str) -> HashDistance:
    """The distance of two hashes.

    Raises:
        ValueError: one of them is no perceptual hash.
    """
    if len(a) != HASH_DIGITS or len(b) != HASH_DIGITS:
        raise ValueError(f"a perceptual hash has {HASH_DIGITS} digits, not {len(a)} and {len(b)}")
    bits = (int(a[:BITS_DIGITS], 16) ^ int(b[:BITS_DIGITS], 16)).bit_count()
    pairs = zip(a[BITS_DIGITS:], b[BITS_DIGITS:], strict=True)
    return HashDistance(bits, max(abs(int(x, 16) - int(y, 16)) for x, y in pairs))


def _luminance_bits(image: Image.Image) -> str:
    small = image.convert("L").resize((DCT_SIZE, DCT_SIZE), Image.Resampling.LANCZOS)
    frequencies = _COSINES @ np.asarray(small, np.float64) @ _COSINES.T
    bits = np.packbits(frequencies > np.median(frequencies))
    return bits.tobytes().hex()


def _colour_levels(image: Image.Image) -> str:
    cells = image.resize((GRID, GRID), Image.Resampling.BOX).convert("YCbCr")
    values = np.asarray(cells, np.int64).reshape(-1, 3)
    levels = np.empty_like(values)
    levels[:, 0] = values[:, 0] // LUMINANCE_STEP
    levels[:, 1:] = np.clip((values[:, 1:] - CHROMA_LOW) // CHROMA_STEP, 0, 15)
    return "".join(f"{level:x}" for level in levels.ravel().tolist())


def _cosines() -> NDArray[np.float64]:
    """The lowest rows of the DCT-II matrix in whole numbers; (8, 32)."""
    frequencies = np.arange(LOW_FREQUENCIES)[:, None]
    places = np.arange(DCT_SIZE)[None, :] + 0.5
    cosines: NDArray[np.float64] = np.cos(np.pi * frequencies * places / DCT_SIZE)
    return np.rint(cosines * COSINE_UNIT)


_COSINES = _cosines()
