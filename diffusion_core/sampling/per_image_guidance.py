"""A guidance scale for each image of a batch, in pipelines that only multiply by the scale.

diffusers' pipelines take one number for a whole batch. Those in `MULTIPLY_BY_GUIDANCE` do two
things with it: they compare it with 1, to find out whether there is guidance at all, and they
multiply each step's difference by it (Ho & Salimans 2022, eq. 6). So a number that multiplies each
image by a scale of its own gives each image the bits it has in a batch where all share its scale.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, float32, tensor

from nightpress.diffusion_core.models.pipeline_folder import MULTIPLY_BY_GUIDANCE

EMBEDS_GUIDANCE = ("time_cond_proj_dim", "guidance_embeds")
"""Configuration keys of denoisers that take the scale as an input instead."""


def is_supported(pipeline: Any) -> bool:
    """Whether a loaded pipeline only multiplies by its guidance scale."""
    denoiser = getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)
    if denoiser is None or any(getattr(denoiser.config, key, None) for key in EMBEDS_GUIDANCE):
        return False
    return type(pipeline).__name__ in MULTIPLY_BY_GUIDANCE


def as_argument(scales: Sequence[float]) -> float:
    """The `guidance_scale` to pass to a pipeline; a plain number if all scales are the same."""
    return scales[0] if len(set(scales)) == 1 else PerImageScale(scales)


class PerImageScale(float):
    """Compares as the largest of some scales, and multiplies each image by its own.

    Args:
        scales: (B,) guidance scales of the images of a batch.
    """

    def __new__(cls, scales: Sequence[float]) -> "PerImageScale":
        """A float gets its value here, not in `__init__`."""
        return super().__new__(cls, max(scales))

    def __init__(self, scales: Sequence[float]) -> None:
        self._scales = tensor(scales, dtype=float32)

    def __mul__(self, other: Any) -> Any:
        """Multiply a network's output (B, ...), keeping its type.

        In half precision the product is rounded once, from float32, as it is with a plain number.
        """
        if not isinstance(other, Tensor):
            return NotImplemented
        if self._scales.device != other.device:  # moved once, so that later steps do not wait
            self._scales = self._scales.to(other.device)
        return (self._scales.view(-1, *[1] * (other.ndim - 1)) * other).to(other.dtype)
