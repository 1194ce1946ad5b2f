"""Scorers without a model: a function of the image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nightpress.pipelines.scoring.image_scorer import LoadedScorer
from nightpress.pipelines.scoring.scorer import ScoredImage

Function = Callable[[ScoredImage], Mapping[str, float]]


@dataclass(frozen=True)
class FakeScorer:
    """Scores an image with a function."""

    function: Function
    fingerprint: str = "f" * 64

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        return self.function(image)


def loaded(function: Function, *labels: str) -> LoadedScorer:
    """A function as a scorer that is ready; without labels it has one score."""
    return LoadedScorer(FakeScorer(function), labels or ("",))
