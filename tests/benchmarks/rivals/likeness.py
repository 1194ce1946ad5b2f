"""Pictures of two runs beside each other: whether they are the same, and how far apart."""

import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from nightpress.diffusion_core.theory.psnr import image_psnrs_db

SAME_PICTURE = 4.0
"""Mean difference, of 255, up to which two pictures of other batches or threads are the same."""


def require_same_pictures(rival: Path, nightpress: Path) -> None:
    """Compare some of the pictures: other ones would mean other settings."""
    for name, theirs, ours in pictures_of_both(rival, nightpress):
        difference = np.abs(theirs - ours).mean()
        if difference > SAME_PICTURE:
            raise SystemExit(
                f"{rival / name}: differs from nightpress's by {difference:.1f} of 255 on average"
            )


def apart(rival: Path, nightpress: Path) -> str:
    """How far some of the pictures are from each other, in words."""
    _, theirs, ours = zip(*pictures_of_both(rival, nightpress), strict=True)
    found = image_psnrs_db(theirs, ours)
    differ = [each for each in found if math.isfinite(each)]
    same = f"{len(found) - len(differ)} of {len(found)} the same"
    if not differ:
        return same
    mean, lowest = statistics.mean(differ), min(differ)
    return f"{same}, the others {mean:.1f} dB on average, {lowest:.1f} dB at the lowest"


def pictures_of_both(rival: Path, nightpress: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """About eight pictures: name in the folder, the rival's pixels and nightpress's."""
    images = sorted(rival.glob("images/*.png"))
    for image in images[:: max(1, len(images) // 8)]:
        yield f"images/{image.name}", pixels(image), pixels(nightpress / "images" / image.name)


def pixels(path: Path) -> np.ndarray:
    """(H, W, 3), float32 in 0..255."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.float32)
