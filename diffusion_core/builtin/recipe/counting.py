"""What stands on a plain background: its colour, where things are, and how many lie apart.

For pictures that were laid out and for drawn ones alike, which are measured as they are.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nightpress.diffusion_core.builtin.recipe.colours import distance

NEAR = 12.0
"""Pixels less than this from the background's colour, in CIELAB, belong to the background."""
LEAST_SHARE = 0.3
"""Pieces smaller than this share of the largest one are not counted."""


def components(mask: NDArray[np.bool_]) -> list[int]:
    """The areas of the 4-connected pieces of a (H, W) mask, largest first.

    Every cell takes the least label of its piece by passing minima along rows and columns.
    """
    height, width = mask.shape
    none = height * width
    labels = np.where(mask, np.arange(none).reshape(height, width), none)
    while True:
        spread = labels
        for axis in (0, 1):
            for backwards in (False, True):
                spread = _sweep(spread, mask, axis, backwards)
        if (spread == labels).all():
            break
        labels = spread
    _, areas = np.unique(labels[mask], return_counts=True)
    return sorted((int(area) for area in areas), reverse=True)


def _sweep(
    labels: NDArray[np.int64], mask: NDArray[np.bool_], axis: int, backwards: bool
) -> NDArray[np.int64]:
    """Carry the least label along one axis, through cells of the mask."""
    none = labels.size
    view = np.moveaxis(labels.copy(), axis, 0)
    open_ = np.moveaxis(mask, axis, 0)
    lines = range(len(view) - 2, -1, -1) if backwards else range(1, len(view))
    step = 1 if backwards else -1
    for i in lines:
        view[i] = np.where(open_[i], np.minimum(view[i], view[i + step]), none)
    return np.moveaxis(view, 0, axis)


def is_one_piece(image: Image.Image, share: float = 0.85, side: int = 64) -> bool:
    """Whether one piece holds at least `share` of what an RGBA picture shows."""
    alpha = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))[..., 3]
    areas = components(alpha > 127)
    return bool(areas) and areas[0] >= share * sum(areas)


def background_of(pixels: NDArray[np.uint8], frame: int = 3) -> NDArray[np.float64]:
    """(3,) the median sRGB of a frame at the edges of (H, W, 3)."""
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[frame:-frame, frame:-frame] = True
    median: NDArray[np.float64] = np.median(pixels[~inside].astype(np.float64), axis=0)
    return median


def foreground(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W): where (H, W, 3) differs from its background."""
    return distance(pixels, background_of(pixels)) > NEAR


def count_things(pixels: NDArray[np.uint8]) -> int:
    """How many things lie apart in (H, W, 3) sRGB: large pieces of foreground, small gaps closed.

    Pixels are taken two by two, and pieces up to two such steps apart are one.
    """
    mask = foreground(pixels)
    height, width = mask.shape[0] // 2 * 2, mask.shape[1] // 2 * 2
    coarse = mask[:height, :width].reshape(height // 2, 2, width // 2, 2).sum(axis=(1, 3)) >= 2
    areas = components(_grow(coarse))
    return sum(area >= LEAST_SHARE * areas[0] for area in areas)


def _grow(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """One step to all eight sides."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    shifts = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    grown: NDArray[np.bool_] = np.logical_or.reduce(shifts)
    return grown
