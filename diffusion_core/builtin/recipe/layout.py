"""Positions of drawings on the canvas, and their composition over a background.

Most sizes are multiples of eight pixels, one step of the autoencoder's grid.
"""

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from nightpress.diffusion_core.builtin.recipe.colours import COLOURS

NUM_PIXELS = 128
POSITIONS = (
    "center",
    "left",
    "right",
    "top",
    "bottom",
    "top left",
    "top right",
    "bottom left",
    "bottom right",
)
Size = Literal["normal", "small", "large"]
SIDES: dict[Size, int] = {"normal": 112, "small": 48, "large": 128}
"""Side of a single centred drawing, in pixels."""
OFF_CENTER_SIDE = 64
"""Side of a single drawing elsewhere, in pixels."""
COPY_SIDE = 56
"""Side of each of several drawings, in pixels."""


@dataclass(frozen=True)
class Box:
    """A square on the canvas: its left and top edge and its side, in pixels."""

    x: int
    y: int
    side: int


def single(position: str, size: Size) -> Box:
    """The box of one drawing: centred at one of three sizes, or half the canvas wide elsewhere."""
    if position == "center":
        side = SIDES[size]
        return Box((NUM_PIXELS - side) // 2, (NUM_PIXELS - side) // 2, side)
    free = NUM_PIXELS - OFF_CENTER_SIDE
    x = 0 if "left" in position else free if "right" in position else free // 2
    y = 0 if "top" in position else free if "bottom" in position else free // 2
    return Box(x, y, OFF_CENTER_SIDE)


def copies(count: int, arrangement: int) -> list[Box]:
    """Two to four boxes with clear gaps; two and three have two arrangements each (0 or 1)."""
    low, middle, high = 0, (NUM_PIXELS - COPY_SIDE) // 2, NUM_PIXELS - COPY_SIDE
    places = {
        (2, 0): [(low, middle), (high, middle)],
        (2, 1): [(middle, low), (middle, high)],
        (3, 0): [(middle, low), (low, high), (high, high)],
        (3, 1): [(low, low), (high, low), (middle, high)],
        (4, 0): [(low, low), (high, low), (low, high), (high, high)],
    }
    return [Box(x, y, COPY_SIDE) for x, y in places[count, arrangement if count < 4 else 0]]


def compose(picture: Image.Image, boxes: list[Box], background: str) -> Image.Image:
    """Draw an RGBA picture in every box over a named colour; returns RGB, `NUM_PIXELS` a side."""
    canvas = Image.new("RGBA", (NUM_PIXELS, NUM_PIXELS), COLOURS[background])
    sides = {box.side for box in boxes}
    scaled = {s: picture.resize((s, s), Image.Resampling.LANCZOS) for s in sides}
    for box in boxes:
        canvas.alpha_composite(scaled[box.side], (box.x, box.y))
    return canvas.convert("RGB")
