"""What a scorer is: it gives one finished image its scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoredImage:
    """An image as its file holds it, and the row that it was made from."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB, decoded from the stored bytes."""

    columns: Mapping[str, object]
    """prompt, negative_prompt, and every carried column of its row."""


@dataclass(frozen=True)
class ScorerNote:
    """What a person should know about a scorer."""

    scorer: str
    """Its name in the job."""
    text: str
    num_images: int
    has_failed: bool
    """Whether it gave these images no score; `text` then is why it failed on the first of them."""


class Scorer(Protocol):
    """Gives an image its scores, which depend on nothing but the image and its row.

    Several threads may call it at once.
    """

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the weights, the settings and the version of the code."""
        ...

    def score(self, image: ScoredImage) -> Mapping[str, float]:
        """`{"": value}` for a scorer with one score, or a value by label.

        Raises:
            ScorerError: the image cannot be scored.
        """
        ...


@runtime_checkable
class HasRemarks(Protocol):
    """A scorer that has something to say about the images that it has scored."""

    def remarks(self) -> Mapping[str, int]:
        """What a person should know, and of how many images."""
        ...


def remarks_of(scorer: Scorer) -> Mapping[str, int]:
    """The remarks of a scorer about the images that it has scored; {} for most."""
    return scorer.remarks() if isinstance(scorer, HasRemarks) else {}


Embedding = NDArray[np.float16]
"""(d,) a vector of length 1: the cosine of two says how alike their images are."""


@runtime_checkable
class HasEmbedding(Protocol):
    """A scorer that gives an image a vector instead of scores."""

    def embed(self, image: ScoredImage) -> Embedding:
        """The embedding of an image, which depends on nothing but its pixels.

        Raises:
            ScorerError: the image has none.
        """
        ...


@dataclass(frozen=True)
class LoadedScorer:
    """A scorer that is ready, and the labels of its scores."""

    scorer: Scorer
    labels: tuple[str, ...] = ("",)


def full_name(name: str, label: str) -> str:
    """The name of a score in the metadata: `kind.cat`, or `clip` for the label ""."""
    return f"{name}.{label}" if label else name


@dataclass(frozen=True)
class ScorerInfo:
    """What is known about a scorer before it is loaded."""

    fingerprint: str
    """As `Scorer.fingerprint`."""

    labels: tuple[str, ...] = ("",)
    """The labels of all its scores; see `Scorer.score`. () for one that gives vectors."""

    weight_bytes: int = 0
    """Bytes of its weights once loaded; 0 for a class of one's own, whose size is not known."""


def score_names(infos: Mapping[str, ScorerInfo]) -> tuple[str, ...]:
    """The names of all scores that scorers give, as they are in the metadata."""
    return tuple(full_name(name, label) for name, info in infos.items() for label in info.labels)
