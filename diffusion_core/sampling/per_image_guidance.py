"""A guidance scale for each image of a batch, in pipelines that only multiply by it.

Diffusers' pipelines take one number for a whole batch. Those of `MULTIPLY_BY_GUIDANCE` compare it
with 1, to know whether there is guidance at all, and multiply each step's difference by it (Ho &
Salimans 2022, eq. 6). A number that multiplies each image by its own scale gives each the very bits
that it has in a batch where all scales are its own.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, float32, tensor

from nightpress.diffusion_core.models.pipeline_folder import MULTIPLY_BY_GUIDANCE

EMBEDS = ("time_cond_proj_dim", "guidance_embeds")
"""Set in the configuration of a denoiser that is told the scale instead."""


def multiplies(pipeline: Any) -> bool:
    """Whether a loaded pipeline only multiplies by its guidance scale."""
    denoiser = getattr(pipeline, "transformer", None) or getattr(pipeline, "unet", None)
    embeds = any(getattr(denoiser.config, name, None) for name in EMBEDS) if denoiser else True
    return type(pipeline).__name__ in MULTIPLY_BY_GUIDANCE and not embeds


def scale_of_rows(scales: Sequence[float]) -> float:
    """The number to give a pipeline: a plain one, where all scales are the same."""
    return scales[0] if len(set(scales)) == 1 else RowScales(scales)


class RowScales(float):
    """Compares as the largest of some scales, and multiplies each image by its own.

    Args:
        scales: (B,) of the images of a batch.
    """

    def __new__(cls, scales: Sequence[float]) -> "RowScales":
        """A float has its value from its beginning."""
        return super().__new__(cls, max(scales))

    def __init__(self, scales: Sequence[float]) -> None:
        self._scales = tensor(scales, dtype=float32)

    def __mul__(self, other: Any) -> Any:
        """Times the answers of a network: (B, ...), in their own type.

        The product of halves is rounded once, from float32, as that with a plain number is.
        """
        if not isinstance(other, Tensor):
            return NotImplemented
        if self._scales.device != other.device:  # once: no step waits for it again
            self._scales = self._scales.to(other.device)
        return (self._scales.view(-1, *[1] * (other.ndim - 1)) * other).to(other.dtype)
