"""Scorers without a model: a function of the image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nightpress.pipelines.scoring.scorer import Embedding, LoadedScorer, ScoredImage

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


@dataclass(frozen=True)
class FakeEmbedder(FakeScorer):
    """Gives an image the vector that a function returns, made one of length 1."""

    function: Callable[[ScoredImage], Sequence[float]]  # type: ignore[assignment]

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        return {}

    def embed(self, image: ScoredImage) -> Embedding:
        vector = np.asarray(self.function(image), np.float64)
        return np.asarray(vector / np.linalg.norm(vector), np.float16)


def embedder(function: Callable[[ScoredImage], Sequence[float]]) -> LoadedScorer:
    """A function as a scorer of vectors that is ready."""
    return LoadedScorer(FakeEmbedder(function), ())
