"""Scores of one image as its file holds it: what is always measured, and what scorers say.

Several threads may share an `ImageScorer`. The scorers themselves run in one thread of their own,
one image at a time, so that no score depends on another image.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.image_files.encoding import decoded
from nightpress.pipelines.scoring.measurements import measure
from nightpress.pipelines.scoring.perceptual_hash import perceptual_hash
from nightpress.pipelines.scoring.scorer import ScoredImage, Scorer, full_name

NO_SCORERS: Mapping[str, Scorer] = {}

MAX_REASON = 300
"""Characters of a scorer's error that are kept."""

Pixels = NDArray[np.uint8]
"""(H, W, 3), RGB."""

Columns = Callable[[], Mapping[str, object]]
"""What a scorer sees of an image's row; called only if there is a scorer."""


@dataclass(frozen=True)
class ImageScores:
    """What one image was found to be like."""

    scores: Mapping[str, float | None]
    """Name -> score; None where its scorer failed."""
    perceptual_hash: str
    errors: Mapping[str, str] = field(default_factory=dict)
    """Name of a scorer that failed -> why."""


class ImageScorer:
    """Scores images, one at a time.

    Args:
        scorers: name in the job -> scorer.
        on_scoring: called with True when the scorers begin an image, and with False when they end.
    """

    def __init__(
        self,
        scorers: Mapping[str, Scorer] = NO_SCORERS,
        on_scoring: Callable[[bool], None] = lambda is_scoring: None,
    ) -> None:
        self._scorers = dict(scorers)
        self._on_scoring = on_scoring
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scores") if scorers else None
        self._since: float | None = None

    def close(self) -> None:
        """Finish the image that is being scored, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown()

    @property
    def busy_s(self) -> float:
        """For how many seconds the scorers have been at one image; called from any thread."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def score_file(self, data: bytes, columns: Columns) -> ImageScores:
        """Score an image file.

        Raises:
            ValueError: the file is not an intact image.
        """
        return self.score(np.asarray(decoded(data).convert("RGB")), columns)

    def score(self, pixels: Pixels, columns: Columns) -> ImageScores:
        """Score an image whose file holds exactly these pixels."""
        waiting = None
        if self._thread is not None:
            waiting = self._thread.submit(self._ask_scorers, pixels, columns)
        measured: dict[str, float | None] = {**measure(pixels)}
        digits = perceptual_hash(pixels)
        if waiting is None:
            return ImageScores(measured, digits)
        scores, errors = waiting.result()
        return ImageScores(measured | scores, digits, errors)

    def _ask_scorers(
        self, pixels: Pixels, columns: Columns
    ) -> tuple[dict[str, float | None], dict[str, str]]:
        scores, errors = dict[str, float | None](), dict[str, str]()
        image = ScoredImage(pixels, columns())
        self._on_scoring(True)
        try:
            for name, scorer in self._scorers.items():
                self._since = time.monotonic()
                try:
                    scores |= _checked(name, scorer.score(image))
                except Exception as error:  # whatever an image does to a scorer, it stays an image
                    scores[name] = None
                    errors[name] = one_line(error, MAX_REASON)
        finally:
            self._since = None
            self._on_scoring(False)
        return scores, errors


def _checked(name: str, scores: Mapping[str, float]) -> dict[str, float]:
    """Scores by their full names.

    Raises:
        ValueError: one of them is not a finite number.
    """
    full = {full_name(name, label): float(score) for label, score in scores.items()}
    for each, score in full.items():
        if not np.isfinite(score):
            raise ValueError(f"{each} is {score}, and a score must be a finite number")
    return full
