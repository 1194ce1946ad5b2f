"""What trials of faster ways have found on this machine, kept in the cache folder for later runs.

A later run with the same model, device and shapes need not time them again.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.cache_folder import cache_folder, replace_text
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.search import ConfigTrial

MAX_AGE = timedelta(days=30)
"""Older trials are made again."""

LOADING_SHARE = 0.2
"""What loading compiled code takes of compiling it, before it was measured; one U-Net took 0.1."""


@dataclass(frozen=True)
class KeptTrial:
    """A trial of one way, as a run has measured it."""

    speed: str
    """`SpeedSpec.as_text` of the way."""
    ratio: float
    """How many times as fast as plain sampling it was."""
    lowest_db: float | None
    """PSNR of the image that differed most; None if no pixel did."""
    images_per_s: float
    compile_s: float
    """Seconds by which its first batch took longer than plain sampling, the first time."""
    loading_s: float | None
    """The same at the latest time after that; None if there was none."""
    fault: str | None
    """What was wrong with an image."""
    measured_on: str
    """Date of the timing, as YYYY-MM-DD in UTC."""

    @classmethod
    def of(cls, trial: ConfigTrial, batch_s: float, today: date) -> Self:
        """What is kept of a trial that was just made.

        Args:
            batch_s: seconds of a batch with plain sampling.
            today: the date in UTC.
        """
        return cls(
            trial.config.speed.as_text() or "{}",
            round(trial.ratio, 3),
            trial.recorded_lowest_db,
            round(trial.images_per_s, 3),
            _compile_s(trial, batch_s),
            None,
            trial.fault,
            today.isoformat(),
        )

    def loaded_again(self, trial: ConfigTrial, batch_s: float) -> Self:
        """The same after another run has loaded the way, and compared its own images.

        How close these were is for that run alone: other prompts may come closer.
        """
        return replace(self, loading_s=_compile_s(trial, batch_s))

    @property
    def config(self) -> TuningConfig:
        """The way."""
        return TuningConfig(speed=SpeedSpec.from_text(self.speed))

    @property
    def expected_loading_s(self) -> float:
        """Seconds that loading it takes, with its code compiled already."""
        return self.compile_s * LOADING_SHARE if self.loading_s is None else self.loading_s

    def as_trial(self, batch_s: float) -> ConfigTrial:
        """What a trial would find now.

        Args:
            batch_s: seconds of a batch with plain sampling.
        """
        lowest = float("inf") if self.lowest_db is None else self.lowest_db
        warm_s = self.expected_loading_s + batch_s
        return ConfigTrial(
            self.config, self.images_per_s, self.ratio, (lowest,), warm_s, self.fault
        )


class KeptTrials:
    """The trials of one subject, in a file of their own.

    Args:
        subject: all that the speed of a way depends on; JSON values by name.
    """

    def __init__(self, subject: Mapping[str, Any]) -> None:
        text = json.dumps(subject, sort_keys=True)
        self.path: Path = (
            cache_folder() / "auto_speed" / f"{sha256(text.encode()).hexdigest()}.json"
        )

    def read(self, today: date) -> dict[TuningConfig, KeptTrial]:
        """The trials that are not too old; none if the file is not what this version writes."""
        with suppress(OSError, ValueError, TypeError):
            values = json.loads(self.path.read_text(encoding="utf-8"))
            kept = [KeptTrial(**each) for each in values]
            oldest = (today - MAX_AGE).isoformat()
            return {each.config: each for each in kept if each.measured_on >= oldest}
        return {}

    def keep(self, trial: KeptTrial, today: date) -> None:
        """Add a trial, in place of an earlier one of the same way.

        Raises:
            OSError: the folder cannot be written.
        """
        kept = self.read(today) | {trial.config: trial}
        replace_text(self.path, json.dumps([asdict(each) for each in kept.values()], indent=1))


def _compile_s(trial: ConfigTrial, batch_s: float) -> float:
    return round(max(0.0, trial.warm_s - batch_s), 1)
