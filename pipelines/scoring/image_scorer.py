"""Scores of one image as its file holds it: what is always measured, and what scorers say.

Several threads may share an `ImageScorer`. The scorers themselves run in one thread of their own,
one image at a time, so that no score depends on another image.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.image_files.encoding import decoded
from nightpress.pipelines.scoring.measurements import measure
from nightpress.pipelines.scoring.perceptual_hash import perceptual_hash
from nightpress.pipelines.scoring.scorer import (
    Embedding,
    HasEmbedding,
    LoadedScorer,
    ScoredImage,
    ScorerNote,
    full_name,
    remarks_of,
)

NO_SCORERS: Mapping[str, LoadedScorer] = {}

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
    scoring_s: float | None = None
    """Seconds that the scorers took; None without any."""
    embeddings: Mapping[str, bytes | None] = field(default_factory=dict, repr=False)
    """Name of a scorer that gives vectors -> its vector, little-endian float16; None where it
    failed."""


@dataclass
class _Answers:
    """What the scorers say of an image."""

    scores: dict[str, float | None] = field(default_factory=dict)
    embeddings: dict[str, bytes | None] = field(default_factory=dict)
    seconds: float = 0.0


class ImageScorer:
    """Scores images, one at a time.

    Args:
        scorers: name in the job -> scorer.
        on_scoring: called with True when the scorers begin an image, and with False when they end.
    """

    def __init__(
        self,
        scorers: Mapping[str, LoadedScorer] = NO_SCORERS,
        on_scoring: Callable[[bool], None] = lambda is_scoring: None,
    ) -> None:
        self._scorers = dict(scorers)
        self._on_scoring = on_scoring
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scores") if scorers else None
        self._since: float | None = None
        self._worked_s = 0.0
        """Seconds that the scorers have worked and that were not taken yet."""
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[str, int]] = {}
        """Scorer -> why it failed first, and on how many images."""
        self._told: Counter[tuple[str, str]] = Counter()
        """Scorer and remark -> of how many images it has been told."""

    def close(self) -> None:
        """Finish the image that is being scored, and end the thread."""
        if self._thread is not None:
            self._thread.shutdown()

    @property
    def busy_s(self) -> float:
        """For how many seconds the scorers have been at one image; called from any thread."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def take_worked_s(self) -> float:
        """Seconds that the scorers have worked since this was last called."""
        with self._lock:
            seconds, self._worked_s = self._worked_s, 0.0
        return seconds

    def take_notes(self) -> tuple[ScorerNote, ...]:
        """What is new about the scorers since this was last called."""
        with self._lock:
            failures, self._failures = self._failures, {}
            remarks = [
                (name, text, total - self._told[name, text])
                for name, scorer in self._scorers.items()
                for text, total in remarks_of(scorer.scorer).items()
            ]
            for name, text, number in remarks:
                self._told[name, text] += number
        failed = [ScorerNote(name, *failure, True) for name, failure in failures.items()]
        return (*failed, *(ScorerNote(*remark, False) for remark in remarks if remark[2]))

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
        answers = waiting.result()
        scores = measured | answers.scores
        return ImageScores(scores, digits, answers.seconds, answers.embeddings)

    def _ask_scorers(self, pixels: Pixels, columns: Columns) -> _Answers:
        answers = _Answers()
        image = ScoredImage(pixels, columns())
        began = time.monotonic()
        self._on_scoring(True)
        try:
            for name, each in self._scorers.items():
                self._since = time.monotonic()
                try:
                    if isinstance(each.scorer, HasEmbedding):
                        answers.embeddings[name] = None
                        answers.embeddings[name] = as_bytes(each.scorer.embed(image))
                    else:
                        answers.scores.update(_checked(name, each.scorer.score(image)))
                except Exception as error:  # whatever an image does to a scorer, it stays an image
                    names = [full_name(name, label) for label in each.labels]
                    answers.scores.update(dict.fromkeys(names))
                    self._note_failure(name, one_line(error, MAX_REASON))
        finally:
            self._since = None
            self._on_scoring(False)
        answers.seconds = time.monotonic() - began
        with self._lock:
            self._worked_s += answers.seconds
        return answers

    def _note_failure(self, name: str, reason: str) -> None:
        with self._lock:
            first, number = self._failures.get(name, (reason, 0))
            self._failures[name] = first, number + 1


def as_bytes(embedding: Embedding) -> bytes:
    """An embedding as little-endian float16."""
    return embedding.astype("<f2").tobytes()


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
