"""What `tune` has measured on this machine, kept in the cache folder for the summaries of runs.

A run asks its actors which device they have: it may be driven from a machine without one, and its
driver imports no torch.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.cache_folder import cache_folder, replace_text
from nightpress.diffusion_core.errors import one_line
from nightpress.diffusion_core.tuning.candidates import TuningConfig
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
            f"{self.reference_dtype} for this model on {self.device} with {self.name} ({lossy})"
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


def gain_line(record: RunRecord | None, devices: Iterable[str]) -> str | None:
    """What a tuning of the run's model could gain on a device of its actors, or why that cannot be
    read; None if none was measured, or the run uses it or what is as fast.

    Args:
        devices: what the devices call themselves.
    """
    if record is None or record.models:
        return None
    try:
        found = [_read(record.model.identity, device) for device in devices]
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: there is no home folder
        return f"what nightpress tune has kept for this model cannot be read: {one_line(error)}"
    return next((kept.line for kept in found if kept is not None and _gains(kept, record)), None)


def _gains(kept: KeptTuning, record: RunRecord) -> bool:
    """Whether a run could be faster, as far as that was measured."""
    if (kept.dtype, kept.speed) == (record.dtype, record.spec.model.ways.as_text()):
        return False
    used = _ratio_in_use(record)
    return used is None or kept.reference_dtype != record.dtype or kept.ratio > used


def _ratio_in_use(record: RunRecord) -> float | None:
    """How many times as fast as plain sampling in its dtype a run is; None if it was not measured,
    as where the job has set `model.speed`."""
    if not record.auto_speed:
        return None
    decision = record.auto_speed[0]
    if not decision.speed.chosen():
        return 1.0
    name = TuningConfig(speed=decision.speed).name
    return next((each.ratio for each in decision.tried if each.name == name), None)


def _read(fingerprint: str, device: str) -> KeptTuning | None:
    """What was kept; None if nothing was.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not what this version writes.
    """
    path = _path(fingerprint, device)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        kept = TypeAdapter(KeptTuning).validate_json(text)
        SpeedSpec.from_text(kept.speed)
    except ValueError as error:
        raise ValueError(f"{path}: {_reason(error)}") from error
    return kept


def _reason(error: ValueError) -> str:
    """What is wrong with a file, in a few words."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return ": ".join([*map(str, first["loc"]), first["msg"]])


def _path(fingerprint: str, device: str) -> Path:
    digest = sha256(f"{fingerprint} {device}".encode()).hexdigest()
    return cache_folder() / "tuned" / f"{digest}.json"
