"""What is measured in every image without a model: sharpness, exposure, clipping and contrast."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEASUREMENTS = ("sharpness", "exposure", "clipping", "contrast")
"""The names of the measurements, which every image has."""

CLIPPED_LEVELS = 3
"""Levels at each end of the 256 that count as clipped: about 1% of the range."""


def measure(pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Measure an image by its luminance Y (ITU-R BT.601, 0 to 255).

    - `sharpness`: variance of the Laplacian, 4 Y(x, y) less the four neighbours of each pixel that
      is not at the edge. A blurred image has a low one; it grows with noise and with contrast.
    - `exposure`: mean luminance, 0 (black) to 1 (white).
    - `clipping`: share of pixels that are black or white, within 1% of the range (0 to 1).
    - `contrast`: RMS contrast, the standard deviation of Y / 255 (0 to 0.5).

    Everything is summed in whole numbers, so that the same pixels give the same values on every
    machine.

    Args:
        pixels: (H, W, 3) RGB.

    References: Pech-Pacheco et al., Diatom Autofocusing in Brightfield Microscopy, 2000 (LAPV);
    Peli, Contrast in Complex Images, 1990 (RMS contrast).
    """
    luminance = Image.fromarray(pixels).convert("L")
    counts = np.array(luminance.histogram(), np.int64)
    mean, variance = _moments(np.arange(256), counts)
    clipped = int(counts[:CLIPPED_LEVELS].sum() + counts[-CLIPPED_LEVELS:].sum())
    return {
        "sharpness": _sharpness(np.asarray(luminance)),
        "exposure": mean / 255,
        "clipping": clipped / (luminance.width * luminance.height),
        "contrast": float(np.sqrt(variance)) / 255,
    }


def _sharpness(luminance: NDArray[np.uint8]) -> float:
    """The variance of the Laplacian; 0 for an image without pixels that have four neighbours."""
    if min(luminance.shape) < 3:
        return 0.0
    y = luminance.astype(np.int16)
    laplacian = 4 * y[1:-1, 1:-1]
    for neighbour in (y[:-2, 1:-1], y[2:, 1:-1], y[1:-1, :-2], y[1:-1, 2:]):
        laplacian -= neighbour
    limit = 4 * 255
    counts = np.bincount((laplacian + limit).ravel(), minlength=2 * limit + 1)
    return _moments(np.arange(-limit, limit + 1), counts)[1]


def _moments(values: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and variance of whole numbers, each of which occurs some times."""
    total = int(counts.sum())
    first, second = int(values @ counts), int((values**2) @ counts)
    return first / total, (second * total - first * first) / total**2
