"""Pictures that scorers tell apart: a portrait, a poster with words, and noise."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from nightpress.pipelines.scoring.scorer import ScoredImage

Pixels = NDArray[np.uint8]

DATA = Path(matplotlib.get_data_path())


def scored(pixels: Pixels, **columns: object) -> ScoredImage:
    """An image of a row with these columns."""
    return ScoredImage(pixels, {"prompt": "a", "negative_prompt": "", **columns})


def portrait() -> Pixels:
    """Grace Hopper, (600, 512, 3): the one face in an official portrait of the US Navy."""
    with Image.open(DATA / "sample_data" / "grace_hopper.jpg") as picture:
        return np.asarray(picture.convert("RGB"))


def poster(lines: Sequence[str], size: int = 48, side: int = 512) -> Pixels:
    """White words on blue, a line below the other; (side, side, 3)."""
    picture = Image.new("RGB", (side, side), (40, 70, 140))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.truetype(str(DATA / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"), size)
    for index, line in enumerate(lines):
        draw.text((size, size + 2 * size * index), line, font=font, fill="white")
    return np.asarray(picture)


def noise(seed: int, height: int = 64, width: int = 48) -> Pixels:
    """Pixels from a seed; (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
