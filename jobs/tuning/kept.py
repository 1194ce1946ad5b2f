"""What `tune` has measured on this machine, kept in the cache folder for the summaries of runs."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.cache_folder import cache_folder, replace_text
from nightpress.diffusion_core.tuning.device_name import device_name
from nightpress.pipelines.run_directory.record import RunRecord

if TYPE_CHECKING:  # it imports torch, and a run that only reads what was kept does not
    from nightpress.jobs.tuning.tune import Tuning


@dataclass(frozen=True)
class KeptTuning:
    """The fastest configuration that a tuning has found for a model on a device."""

    fingerprint: str
    """The `identity` of the model."""
    device: str
    """See `device_name`."""
    reference_dtype: str
    dtype: str
    speed: str | None
    """`SpeedSpec.as_text`."""
    name: str
    ratio: float
    """How many times as fast as the reference it was."""
    lowest_db: float | None
    """PSNR of the image that differed most; None if no pixel did."""

    @property
    def line(self) -> str:
        """What it could gain, for a person."""
        lossy = "the same pixels" if self.lowest_db is None else f"from {self.lowest_db:.1f} dB up"
        return (
            f"nightpress tune has measured {self.ratio:.2f} times the speed of "
            f"{self.reference_dtype} for this model on this device with {self.name} ({lossy})"
        )


def keep(tuning: "Tuning") -> Path | None:
    """Keep what a tuning has found; an earlier result for the same model and device is replaced.

    Returns:
        The file; None if nothing was faster.

    Raises:
        OSError: the folder cannot be written.
    """
    setup, best, device = tuning.setup, tuning.best, device_name(tuning.setup.device)
    if best is None or device is None:
        return None
    kept = KeptTuning(
        setup.info.identity,
        device,
        setup.reference.dtype,
        best.config.dtype or setup.reference.dtype,
        best.config.speed.as_text(),
        best.config.name,
        round(best.ratio, 3),
        best.recorded_lowest_db,
    )
    path = _path(kept.fingerprint, device)
    replace_text(path, json.dumps(asdict(kept)))
    return path


def gain_line(record: RunRecord | None) -> str | None:
    """What a tuning of the run's model on this device could gain; None if none was measured, or
    the run uses it."""
    if record is None or record.models:
        return None
    kept = _read(record.model.identity, device_name(record.device))
    if kept is None or (kept.dtype, kept.speed) == (record.dtype, record.spec.model.ways.as_text()):
        return None
    return kept.line


def _read(fingerprint: str, device: str | None) -> KeptTuning | None:
    """What was kept; None if nothing was, or if it is not what this version writes."""
    if device is None:
        return None
    with suppress(OSError, ValueError, TypeError):
        values = json.loads(_path(fingerprint, device).read_text(encoding="utf-8"))
        kept = KeptTuning(**values)
        SpeedSpec.from_text(kept.speed)
        return kept
    return None


def _path(fingerprint: str, device: str) -> Path:
    digest = sha256(f"{fingerprint} {device}".encode()).hexdigest()
    return cache_folder() / "tuned" / f"{digest}.json"
