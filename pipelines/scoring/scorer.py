"""What a scorer is: it gives one finished image its scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ScoredImage:
    """An image as its file holds it, and the row that it was made from."""

    pixels: NDArray[np.uint8]
    """(H, W, 3) RGB, decoded from the stored bytes."""

    columns: Mapping[str, object]
    """prompt, negative_prompt, and every carried column of its row."""


class Scorer(Protocol):
    """Gives an image its scores, which depend on nothing but the image and its row."""

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


def full_name(name: str, label: str) -> str:
    """The name of a score in the metadata: `kind.cat`, or `clip` for the label ""."""
    return f"{name}.{label}" if label else name
