"""Compare the images of two runs: are they the same, and if not, how far apart?"""

import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from nightpress.diffusion_core.theory.psnr import image_psnrs_db

SAME_IMAGE = 4.0
"""The largest mean difference, of 255, that other batches or thread counts may cause."""


def require_same_images(rival: Path, nightpress: Path) -> None:
    """Compare some of the images and exit if they differ: the settings would not be the same."""
    for name, theirs, ours in image_pairs(rival, nightpress):
        difference = np.abs(theirs - ours).mean()
        if difference > SAME_IMAGE:
            raise SystemExit(
                f"{rival / name}: differs from nightpress's by {difference:.1f} of 255 on average"
            )


def describe_difference(rival: Path, nightpress: Path) -> str:
    """How far some of the images differ, in words."""
    _, theirs, ours = zip(*image_pairs(rival, nightpress), strict=True)
    psnrs_db = image_psnrs_db(theirs, ours)
    differ = [each for each in psnrs_db if math.isfinite(each)]
    same = f"{len(psnrs_db) - len(differ)} of {len(psnrs_db)} the same"
    if not differ:
        return same
    mean, lowest = statistics.mean(differ), min(differ)
    return f"{same}, the others {mean:.1f} dB on average, {lowest:.1f} dB at the lowest"


def image_pairs(rival: Path, nightpress: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """About eight images: name in the folder, the rival's pixels and nightpress's."""
    images = sorted(rival.glob("images/*.png"))
    for image in images[:: max(1, len(images) // 8)]:
        yield f"images/{image.name}", pixels(image), pixels(nightpress / "images" / image.name)


def pixels(path: Path) -> np.ndarray:
    """Pixels of an image file: (H, W, 3), float32 in 0..255."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float32)
