"""Simple pictures of things, drawn with shapes: what one sees in them differs as captions do."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]

COLOURS = {
    "red": (200, 40, 40),
    "green": (60, 150, 50),
    "yellow": (235, 200, 50),
    "blue": (50, 80, 190),
    "black": (35, 32, 38),
    "grey": (120, 120, 124),
    "white": (238, 238, 235),
}


def apple(
    colour: str, *, size: int = 256, large: float = 0.5, x: float = 0.47, y: float = 0.55
) -> Pixels:
    """An apple with a stem and a leaf on a table; (size, size, 3).

    Args:
        large: its width, as a share of the picture.
        x, y: its middle.
    """
    image = _table(size)
    draw = ImageDraw.Draw(image)
    radius = large / 2
    draw.ellipse(_box(size, x, y, radius), fill=COLOURS[colour])
    draw.ellipse(_box(size, x - radius / 3, y - radius / 3, radius / 5), fill=(250, 240, 235))
    top = (size * x, size * (y - radius))
    draw.line([top, (top[0] + size * 0.03, top[1] - size * 0.09)], (90, 60, 30), size // 40)
    draw.ellipse(_box(size, x + 0.1, y - radius - 0.05, 0.04), fill=(40, 120, 40))
    return np.asarray(image)


def house(colour: str, *, size: int = 256) -> Pixels:
    """A house with a roof and a door; (size, size, 3)."""
    image = _table(size)
    draw = ImageDraw.Draw(image)
    draw.rectangle([size * 0.25, size * 0.45, size * 0.7, size * 0.85], fill=COLOURS[colour])
    roof = [(size * 0.2, size * 0.45), (size * 0.5, size * 0.15), (size * 0.75, size * 0.45)]
    draw.polygon(roof, fill=(150, 70, 50))
    draw.rectangle([size * 0.3, size * 0.6, size * 0.4, size * 0.85], fill=(70, 50, 30))
    return np.asarray(image)


def with_noise(pixels: Pixels, deviation: float, seed: int = 0) -> Pixels:
    """The picture with normal noise on every channel."""
    noise = np.random.default_rng(seed).normal(0, deviation, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def resized(pixels: Pixels, width: int, height: int) -> Pixels:
    """The picture at another size."""
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def as_jpeg(pixels: Pixels, quality: int) -> Pixels:
    """The picture as a JPEG of it is decoded."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def _table(size: int) -> Image.Image:
    """A wall that is darker to one side, above a table."""
    wall = np.linspace(225, 180, size)[None, :] + np.linspace(0, 15, size)[:, None]
    pixels = np.repeat(wall[..., None], 3, axis=-1)
    pixels[int(size * 0.8) :] = (150, 110, 80)
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


def _box(size: int, x: float, y: float, radius: float) -> list[float]:
    return [size * (x - radius), size * (y - radius), size * (x + radius), size * (y + radius)]
