"""Control images made from the edges of ordinary pictures.

Source: Canny, "A Computational Approach to Edge Detection", PAMI 8 (6), 1986, as OpenCV has it.
"""

import importlib

import numpy as np

from nightpress.diffusion_core.conditioning.spec import Pixels


def edges(picture: Pixels, low_threshold: int, high_threshold: int) -> Pixels:
    """The edges of a picture, white on black; (H, W, 3) in and out.

    The thresholds apply to the sum of the absolute values of the gradient's two parts, which are
    up to 1020 each.
    """
    opencv = importlib.import_module("cv2")
    found = opencv.Canny(np.ascontiguousarray(picture), low_threshold, high_threshold)
    return np.repeat(np.asarray(found, np.uint8)[..., None], 3, axis=2)
