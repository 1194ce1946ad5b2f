"""Verdicts: what gates say of one draw."""

import math
from dataclasses import dataclass

NO_RANK = -math.inf
"""The rank of an image without the score that it is ranked by: below all others."""


@dataclass(frozen=True)
class Miss:
    """A condition that a draw does not meet."""

    condition: str
    """`sharpness > 40`, or what is wrong with a draw that has no scores, such as `Blank`."""
    text: str
    """`sharpness 31 < 40`."""
    distance: float | None = None
    """How far the score is from one that would do; None without a score."""


@dataclass(frozen=True)
class Verdict:
    """What gates say of a draw."""

    failed: tuple[Miss, ...] = ()
    """The conditions that it does not meet."""
    rank: float = NO_RANK
    """The higher, the better."""
    is_image: bool = True
    """Whether there is an image; not if the model made nothing that can be used."""
    ends: bool = False
    """Whether the image fails here, for a reason that no other draw would change."""

    @property
    def passes(self) -> bool:
        """Whether the draw may be taken."""
        return not self.failed and not self.ends

    @property
    def order(self) -> tuple[int, float]:
        """A sort key that has the best draw first."""
        return len(self.failed), -self.rank

    @property
    def text(self) -> str | None:
        """`sharpness 31 < 40, nsfw 0.31 > 0.2`; None if the draw passes."""
        return ", ".join(each.text for each in self.failed) or None


ENDS = Verdict(is_image=False, ends=True)
"""The verdict on a draw that could not be made, for a reason that has nothing to do with it."""
