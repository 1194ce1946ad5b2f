"""Scorers without a model: a function of the image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nightpress.pipelines.scoring.scorer import ScoredImage


@dataclass(frozen=True)
class FakeScorer:
    """Scores an image with a function."""

    function: Callable[[ScoredImage], Mapping[str, float]]
    fingerprint: str = "f" * 64

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        return self.function(image)
