"""How pictures condition an image: the settings of a batch, and the pictures of one image."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3), or (H, W) for a mask."""

TEXT = "text"
"""The mode of images that are made from a prompt alone."""


@dataclass(frozen=True)
class Conditioning:
    """How pictures condition an image: what joins its batch key, without the pictures themselves.

    The mode is one of `text`, `image`, `inpaint`, `outpaint`, `edit` and `first-last`, with
    `+control` and `+reference` after it where ControlNets and reference images are used:
    `text+control`.
    """

    mode: str = TEXT
    strength: float | None = None
    """How much of the noising process an initial image goes through, above 0 to 1."""
    canvas: tuple[int, int, int, int] | None = None
    """Pixels that outpainting adds on the left, top, right and bottom."""
    controls: tuple[str, ...] = ()
    """The names of the ControlNets, each with one control image."""
    control_scales: tuple[float, ...] = ()
    """One for each of `controls`."""
    adapters: tuple[str, ...] = ()
    """The names of the IP-Adapters; none for a model that edits images."""
    num_references: tuple[int, ...] = ()
    """The number of reference images: one for each of `adapters`, or one for a model that edits."""
    reference_scales: tuple[float, ...] = ()
    """One for each of `adapters`."""

    def as_text(self) -> str | None:
        """The values that are set, as compact JSON; None for text alone."""
        values = {k: v for k, v in asdict(self).items() if v != getattr(TEXT_ALONE, k)}
        return json.dumps(values, separators=(",", ":"), sort_keys=True) if values else None

    @classmethod
    def from_text(cls, text: str | None) -> Self:
        """The inverse of `as_text`."""
        return cls.from_dict(json.loads(text)) if text else cls()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From JSON values, where tuples are lists."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**fields)

    @property
    def base(self) -> str:
        """The mode without ControlNets and references."""
        return self.mode.partition("+")[0]


TEXT_ALONE = Conditioning()


@dataclass(frozen=True)
class ConditionImages:
    """The pictures that condition one image, each already at the size at which it is used."""

    init_image: Pixels | None = None
    """(H, W, 3), the size of the image to make; with a canvas, its outer part repeats its edges.

    The first frame of a clip."""
    mask_image: Pixels | None = None
    """(H, W); 255 where the image is made anew, 0 where it is kept."""
    control_images: tuple[Pixels, ...] = ()
    """(H, W, 3), one for each ControlNet of the batch, in order."""
    reference_images: tuple[tuple[Pixels, ...], ...] = ()
    """(h, w, 3) of any size, in groups: as `Conditioning.num_references` counts them."""
    last_image: Pixels | None = None
    """(H, W, 3), the last frame of a clip, in the mode `first-last`."""


NO_IMAGES = ConditionImages()
