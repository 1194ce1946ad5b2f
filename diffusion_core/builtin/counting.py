"""Count what lies apart on a plain background, in pictures that were laid out and in drawn ones."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


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
