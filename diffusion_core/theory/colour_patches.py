"""Reduce an image to patches of its mean colours."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def colour_patches(pixels: Pixels, num: int) -> Pixels:
    """The image as `num` x `num` patches, each filled with its mean colour; of the image's size.

    Args:
        pixels: (H, W, 3), RGB.
        num: patches along a side; at most as many as pixels.
    """
    image = Image.fromarray(pixels)
    small = image.resize((num, num), Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, Image.Resampling.NEAREST), np.uint8)
