"""The totals of chaos nights."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """The totals of one night or of several."""

    faults: Counter[str] = field(default_factory=Counter)
    images: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    resampled: int = 0
    starts: int = 0

    def __iadd__(self, other: "Tally") -> "Tally":
        self.faults += other.faults
        for name in ("images", "lost", "doubled", "different", "resampled", "starts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    @property
    def is_whole(self) -> bool:
        """Whether no image is lost, doubled or different."""
        return not (self.lost or self.doubled or self.different)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.faults.total()} faults ({kinds}) in {self.starts} starts: {self.images} images,"
            f" {self.lost} lost, {self.doubled} doubled, {self.different} different, "
            f"{self.resampled} sampled again"
        )
