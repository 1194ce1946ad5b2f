"""Measure pictures with a plain background: its colour, the foreground, and the number of things.

Works on pictures of the training set and on generated ones alike.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nightpress.diffusion_core.builtin.recipe.colours import distance

NEAR = 12.0
"""Pixels closer than this to the background's colour, in CIELAB, belong to the background."""
MIN_SHARE = 0.3
"""Pieces smaller than this share of the largest one are not counted."""


def components(mask: NDArray[np.bool_]) -> list[int]:
    """The areas of the 4-connected pieces of a mask (H, W), largest first.

    Minima are propagated along rows and columns until every cell has the lowest label of its piece.
    """
    height, width = mask.shape
    none = height * width
    labels = np.where(mask, np.arange(none).reshape(height, width), none)
    while True:
        lowered = labels
        for axis in (0, 1):
            for backwards in (False, True):
                lowered = _propagate(lowered, mask, axis, backwards)
        if (lowered == labels).all():
            break
        labels = lowered
    _, areas = np.unique(labels[mask], return_counts=True)
    return sorted((int(area) for area in areas), reverse=True)


def _propagate(
    labels: NDArray[np.int64], mask: NDArray[np.bool_], axis: int, backwards: bool
) -> NDArray[np.int64]:
    """Propagate the lowest label along one axis, through cells of the mask."""
    none = labels.size
    view = np.moveaxis(labels.copy(), axis, 0)
    open_ = np.moveaxis(mask, axis, 0)
    lines = range(len(view) - 2, -1, -1) if backwards else range(1, len(view))
    step = 1 if backwards else -1
    for i in lines:
        view[i] = np.where(open_[i], np.minimum(view[i], view[i + step]), none)
    return np.moveaxis(view, 0, axis)


def is_one_piece(image: Image.Image, share: float = 0.85, side: int = 64) -> bool:
    """Whether one piece holds at least `share` of an RGBA picture's opaque pixels."""
    alpha = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))[..., 3]
    areas = components(alpha > 127)
    return bool(areas) and areas[0] >= share * sum(areas)


def background_of(pixels: NDArray[np.uint8], frame: int = 3) -> NDArray[np.float64]:
    """The median sRGB colour (3,) of a frame along the edges of a picture (H, W, 3)."""
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[frame:-frame, frame:-frame] = True
    median: NDArray[np.float64] = np.median(pixels[~inside].astype(np.float64), axis=0)
    return median


def foreground(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The mask (H, W) of pixels of a picture (H, W, 3) that differ from its background."""
    return distance(pixels, background_of(pixels)) > NEAR


def count_things(pixels: NDArray[np.uint8]) -> int:
    """The number of separate things in an sRGB picture (H, W, 3).

    Counts large pieces of the foreground. Pixels are merged two by two, and pieces up to two such
    steps apart count as one.
    """
    mask = foreground(pixels)
    height, width = mask.shape[0] // 2 * 2, mask.shape[1] // 2 * 2
    coarse = mask[:height, :width].reshape(height // 2, 2, width // 2, 2).sum(axis=(1, 3)) >= 2
    areas = components(_dilate(coarse))
    return sum(area >= MIN_SHARE * areas[0] for area in areas)


def _dilate(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Grow a mask by one cell in all eight directions."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    shifts = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    dilated: NDArray[np.bool_] = np.logical_or.reduce(shifts)
    return dilated
