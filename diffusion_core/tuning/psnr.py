"""How near a picture is to another, pixel by pixel."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

PEAK = 255.0


def psnr_db(
    pictures: Iterable[npt.NDArray[np.uint8]], others: Iterable[npt.NDArray[np.uint8]]
) -> list[float]:
    """Peak signal-to-noise ratio of each picture and its counterpart, in decibels.

    10 log10(255^2 / MSE), the mean squared error taken over all pixels and channels; infinite where
    no pixel differs.

    Args:
        pictures, others: as many of each, (H, W, 3).
    """
    return [_decibels(_mean_square(*pair)) for pair in zip(pictures, others, strict=True)]


def _mean_square(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    difference = one.astype(np.float64) - other.astype(np.float64)
    return float(np.mean(difference**2))


def _decibels(mean_square: float) -> float:
    return 10 * float(np.log10(PEAK**2 / mean_square)) if mean_square else float("inf")
