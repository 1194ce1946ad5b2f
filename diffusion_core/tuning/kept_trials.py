"""What trials of faster ways have found on this machine, kept in the cache folder for later runs.

A later run with the same model, device and shapes need not time them again.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.cache_folder import cache_folder, replace_text
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.search import ConfigTrial

MAX_AGE = timedelta(days=30)
"""Older trials are made again."""

LOADING_SHARE = 0.2
"""What loading compiled code takes of compiling it, before it was measured; one U-Net took 0.1."""

MOST_FAILURES = 2
"""After so many runs in a row in which it failed, a way is left for as long as trials are kept."""

LOST = "the actor was lost, or took too long"


@dataclass(frozen=True)
class KeptTrial:
    """A trial of one way, as a run has measured it."""

    speed: str
    """`SpeedSpec.as_text` of the way."""
    measured_on: str
    """Date of the timing, as YYYY-MM-DD in UTC."""
    ratio: float
    """How many times as fast as plain sampling it was; 0 if it was never timed."""
    is_compared: bool = False
    """Whether its images were compared, as those of a way that is faster are."""
    lowest_db: float | None = None
    """PSNR of the image that differed most; None if no pixel did."""
    images_per_s: float = 0.0
    compile_s: float = 0.0
    """Seconds by which its first batch took longer than plain sampling, the first time."""
    loading_s: float | None = None
    """The same at the latest time after that; None if there was none."""
    fault: str | None = None
    """What was wrong with an image."""
    failures: int = 0
    """In how many runs in a row it has failed, or has cost the actor."""
    failure: str | None = None
    """What has happened in the last of them."""

    @classmethod
    def of(cls, trial: ConfigTrial, few_s: float, today: date) -> Self:
        """What is kept of a trial that was just made.

        Args:
            few_s: seconds that plain sampling takes for the batch that the way was warmed up with.
            today: the date in UTC.
        """
        return cls(
            _text(trial.config),
            today.isoformat(),
            trial.ratio,
            trial.is_compared,
            trial.recorded_lowest_db,
            round(trial.images_per_s, 3),
            _compile_s(trial, few_s),
            None,
            trial.fault,
        )

    @classmethod
    def untimed(cls, config: TuningConfig, today: date) -> Self:
        """What is kept of a way before it is tried for the first time."""
        return cls(_text(config), today.isoformat(), 0.0)

    def failed(self, failure: str = LOST) -> Self:
        """The same after another run in which the way has failed.

        Kept before a way is tried, and replaced by what the trial finds, this tells later runs of a
        trial that has cost the process.
        """
        return replace(self, failures=self.failures + 1, failure=failure)

    def loaded_again(self, trial: ConfigTrial, few_s: float) -> Self:
        """The same after another run has loaded the way, and compared its own images.

        How close these were is for that run alone: other prompts may come closer.
        """
        return replace(self, loading_s=_compile_s(trial, few_s), failures=0, failure=None)

    @property
    def config(self) -> TuningConfig:
        """The way."""
        return TuningConfig(speed=SpeedSpec.from_text(self.speed))

    @property
    def expected_loading_s(self) -> float:
        """Seconds that loading it takes, with its code compiled already."""
        return self.compile_s * LOADING_SHARE if self.loading_s is None else self.loading_s

    @property
    def is_given_up(self) -> bool:
        """Whether it has failed too often to be tried again."""
        return self.failures >= MOST_FAILURES

    @property
    def is_known(self) -> bool:
        """Whether it need not be tried again: it was timed, or given up."""
        return self.ratio > 0.0 or self.is_given_up

    def as_trial(self, few_s: float) -> ConfigTrial:
        """What a trial would find now.

        Args:
            few_s: seconds that plain sampling takes for the batch that it would be warmed up with.
        """
        lowest = math.inf if self.lowest_db is None else self.lowest_db
        close = (lowest,) if self.is_compared else ()
        warm_s = self.expected_loading_s + few_s
        return ConfigTrial(self.config, self.images_per_s, self.ratio, close, warm_s, self.fault)


_KEPT = TypeAdapter(KeptTrial)


class KeptTrials:
    """The trials of one subject, in a folder of their own with a file for each way.

    Args:
        subject: all that the speed of a way depends on; JSON values by name.
    """

    def __init__(self, subject: Mapping[str, Any]) -> None:
        text = json.dumps(subject, sort_keys=True)
        self.folder: Path = cache_folder() / "auto_speed" / _digest(text)

    def read(self, today: date) -> dict[TuningConfig, KeptTrial]:
        """The trials that are not too old, without files that are not what this version writes."""
        oldest, found = (today - MAX_AGE).isoformat(), {}
        for path in sorted(self.folder.glob("*.json")):
            with suppress(OSError, ValueError):
                trial = _KEPT.validate_json(path.read_bytes())
                if trial.measured_on >= oldest:
                    found[trial.config] = trial
        return found

    def keep(self, trial: KeptTrial) -> None:
        """Add a trial, in place of an earlier one of the same way.

        Raises:
            OSError: the folder cannot be written.
        """
        replace_text(self._path(trial.speed), json.dumps(asdict(trial), indent=1))

    def forget(self, config: TuningConfig) -> None:
        """Remove the trial of a way, if there is one.

        Raises:
            OSError: the folder cannot be written.
        """
        self._path(_text(config)).unlink(missing_ok=True)

    def _path(self, speed: str) -> Path:
        return self.folder / f"{_digest(speed)}.json"


def _text(config: TuningConfig) -> str:
    return config.speed.as_text() or "{}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _compile_s(trial: ConfigTrial, few_s: float) -> float:
    return round(max(0.0, trial.warm_s - few_s), 1)
