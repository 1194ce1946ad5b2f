"""The options of a tuning and their defaults."""

from dataclasses import dataclass

from nightpress.diffusion_core.models.spec import DType


@dataclass(frozen=True)
class TuneOptions:
    """How a job is tuned."""

    tolerance_db: float = 30.0
    """The lowest PSNR that an image may have; infinite if no pixel may differ."""
    num_images: int = 16
    """Images to sample, rounded up to whole batches."""
    reference_dtype: DType = "auto"
    """Precision of the reference; `auto` is what it is in a job; see `precision.resolve_dtype`."""
    device: str | None = None
    """`cpu` or `cuda`; None for the device that the job would use on this machine."""
    compiles: bool = True
    """Whether to try configurations that compile, each of which may take minutes."""


DEFAULTS = TuneOptions()
