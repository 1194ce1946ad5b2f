"""How a manifest has grown, as an edition records it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import pyarrow as pa

from nightpress.pipelines.formatting import plural

MAX_SHOWN = 5
"""How many ids of images are shown to a person."""


DETAILS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("what", pa.string(), nullable=False),
        pa.field("made_as", pa.string()),
    ]
)
"""What an edition keeps of single images: `went`, `back`, `changed`, `came`, `kept` or `again`;
and `made_as`, the id of the image that stands for `image_id` from now on, if that is another."""


@dataclass(frozen=True)
class Earlier:
    """What the editions of a run say of single images."""

    made_as: tuple[tuple[str, str], ...] = ()
    """An image that a manifest plans, and the image of the run that stands for it, where that is
    another one; the last such pair of an image counts."""
    gone: frozenset[str] = frozenset()
    """The ids of images that went and have not come back."""
    again: frozenset[str] = frozenset()
    """The ids of images that were made again, which no manifest plans."""


@dataclass(frozen=True)
class SomeImages:
    """How many images there are of a kind, and the ids of the first of them."""

    number: int
    first: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`r1_00, r2_00, r3_00, r4_00, r5_00, ...`."""
        shown = ", ".join(self.first[:MAX_SHOWN])
        return f"{shown}, ..." if self.number > MAX_SHOWN else shown


@dataclass(frozen=True)
class GrowthSummary:
    """How a manifest has grown, for people and for the record."""

    came: SomeImages
    went: SomeImages
    """Images that the manifest does not plan any more."""
    back: SomeImages
    """Images that went earlier; they are stored, so they are not made again."""
    changed: SomeImages
    kept: SomeImages
    """Images whose prompt would be drawn differently now, and that keep what was drawn."""
    num_same: int
    examples: tuple[str, ...] = ()
    """What has changed in the first of the changed images."""

    @property
    def is_empty(self) -> bool:
        """Whether the images are the same as before."""
        some = (self.came, self.went, self.back, self.changed)
        return not any(images.number for images in some)

    @property
    def num_planned(self) -> int:
        """The images that the manifest plans now."""
        some = (self.came, self.changed, self.kept)
        return self.num_same + sum(images.number for images in some)

    def lines(self) -> list[str]:
        """What came, went and changed, a line each."""
        lines = []
        for what, images in (
            ("came", self.came),
            ("came back", self.back),
            ("went", self.went),
            ("changed", self.changed),
        ):
            if images.number:
                lines.append(f"{plural(images.number, 'image')} {what}: {images}")
        lines += [f"  {example}" for example in self.examples]
        if self.kept.number:
            lines.append(f"{plural(self.kept.number, 'image')} kept what was drawn: {self.kept}")
        if self.is_empty:
            lines.append("the images are the same as before")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        some = {
            name: SomeImages(values[name]["number"], tuple(values[name]["first"]))
            for name in ("came", "went", "back", "changed", "kept")
        }
        return cls(**some, num_same=values["num_same"], examples=tuple(values["examples"]))
