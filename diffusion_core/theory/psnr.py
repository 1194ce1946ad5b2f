"""Peak signal-to-noise ratio: how closely one image matches another, pixel by pixel."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def psnr_db(mean_squared_error: float, peak: float = 255.0) -> float:
    """PSNR in decibels, 10 log10(peak^2 / MSE); infinite if the error is zero.

    Args:
        mean_squared_error: over all pixels and channels.
        peak: the largest possible difference of two values: 255 for uint8 pixels, 2 for pixels in
            [-1, 1].
    """
    if mean_squared_error == 0:
        return float("inf")
    return 10 * float(np.log10(peak**2 / mean_squared_error))


def image_psnrs_db(
    images: Iterable[npt.NDArray[np.uint8]], others: Iterable[npt.NDArray[np.uint8]]
) -> list[float]:
    """PSNR of each image against its counterpart, in decibels.

    Args:
        images, others: equally many, uint8 (H, W, 3) each.
    """
    return [psnr_db(mean_squared_error(*pair)) for pair in zip(images, others, strict=True)]


def mean_squared_error(image: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Mean squared difference of two uint8 images, over all pixels and channels."""
    difference = image.astype(np.float64) - other.astype(np.float64)
    return float(np.mean(difference**2))
