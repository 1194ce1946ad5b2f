"""The arguments of a pipeline's `__call__` that carry the pictures of a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nightpress.diffusion_core.conditioning.spec import ConditionImages, Conditioning, Pixels


def arguments(images: Sequence[ConditionImages], conditioning: Conditioning) -> dict[str, Any]:
    """The arguments for a batch.

    Args:
        images: the pictures of each image, at their final sizes.
        conditioning: what all images of the batch share.
    """
    found: dict[str, Any] = {}
    if conditioning.base in ("image", "inpaint", "outpaint"):
        found["image"] = _stacked([each.init_image for each in images])
        if conditioning.strength is not None:
            found["strength"] = conditioning.strength
    if conditioning.base in ("inpaint", "outpaint"):
        found["mask_image"] = _stacked([each.mask_image for each in images])
    return found


def _stacked(pictures: Sequence[Pixels | None]) -> torch.Tensor:
    """(B, 3, H, W) float32 in 0..1; (B, 1, H, W) for masks.

    Raises:
        ValueError: a picture is missing, or has another size than the others.
    """
    given = [each if each.ndim == 3 else each[..., None] for each in pictures if each is not None]
    if len(given) < len(pictures):
        raise ValueError("a picture is missing that the mode needs")
    return torch.from_numpy(np.stack(given)).permute(0, 3, 1, 2).to(torch.float32) / 255
