"""Bring a picture to the size of an image, and a mask to where its picture has come to lie."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from nightpress.diffusion_core.conditioning.spec import Pixels

Size = tuple[int, int]
"""(width, height) in pixels."""

Fit = Literal["cover", "contain", "stretch"]


@dataclass(frozen=True)
class Placement:
    """Which part of a picture is used, and where in the image it comes to lie."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom: the part that is used, in pixels of the picture."""
    offset: Size
    """Left and top of that part in the image."""
    size: Size
    """Its width and height in the image."""

    @classmethod
    def of(cls, picture: Size, image: Size, fit: Fit) -> "Placement":
        """Where a picture comes to lie: in the middle, as Pillow's `ImageOps` would put it."""
        (width, height), (wide, high) = picture, image
        if fit == "contain":
            scale = min(wide / width, high / height)
            size = min(wide, max(1, round(width * scale))), min(high, max(1, round(height * scale)))
            offset = round((wide - size[0]) * 0.5), round((high - size[1]) * 0.5)
            return cls((0, 0, width, height), offset, size)
        used_width, used_height = float(width), float(height)
        if fit == "cover" and width * high > wide * height:
            used_width = wide / high * height
        elif fit == "cover":
            used_height = width / (wide / high)
        left, top = (width - used_width) * 0.5, (height - used_height) * 0.5
        return cls((left, top, left + used_width, top + used_height), (0, 0), image)

    def for_picture(self, picture: Size, other: Size) -> "Placement":
        """The same placement for another picture of the same aspect ratio, such as a mask."""
        across, down = other[0] / picture[0], other[1] / picture[1]
        left, top, right, bottom = self.box
        box = left * across, top * down, min(right * across, other[0]), min(bottom * down, other[1])
        return Placement(box, self.offset, self.size)


def same_shape(picture: Size, other: Size) -> bool:
    """Whether two sizes are the same picture at two scales, but for the rounding of a side."""
    (width, height), (wide, high) = picture, other
    return abs(width * high / wide - height) < 1 or abs(wide * height / width - high) < 1


def fitted(image: Image.Image, placement: Placement, size: Size) -> Pixels:
    """A colour picture at its place in an image of a size, black around it; (H, W, 3)."""
    return np.asarray(_placed(image, placement, size, Image.Resampling.LANCZOS))


def fitted_mask(mask: Image.Image, placement: Placement, size: Size) -> Pixels:
    """A mask of 0 and 255 at its place, 0 around it; (H, W). Each pixel takes the nearest one."""
    return np.asarray(_placed(mask, placement, size, Image.Resampling.NEAREST))


def bounded(image: Image.Image, longest_side: int) -> Pixels:
    """A picture in its own aspect ratio, smaller if a side is longer than allowed; (h, w, 3)."""
    longest = max(image.size)
    if longest > longest_side:
        width, height = (max(1, round(side * longest_side / longest)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _placed(
    image: Image.Image, placement: Placement, size: Size, resample: Image.Resampling
) -> Image.Image:
    if image.size == placement.size and placement.box == (0, 0, *image.size):
        part = image
    else:
        part = image.resize(placement.size, resample, box=placement.box)
    if placement.size == size:
        return part
    whole = Image.new(image.mode, size)
    whole.paste(part, placement.offset)
    return whole


@dataclass(frozen=True)
class Canvas:
    """What outpainting adds around a picture, in pixels."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def room(self, image: Size) -> Size:
        """What it leaves for the picture in an image; not positive if it leaves nothing."""
        return image[0] - self.left - self.right, image[1] - self.top - self.bottom

    def extend(self, pixels: Pixels) -> Pixels:
        """The picture on the canvas, its outermost pixels repeated to the edges."""
        sides: list[tuple[int, int]] = [(self.top, self.bottom), (self.left, self.right)]
        return np.pad(pixels, sides + [(0, 0)] * (pixels.ndim - 2), mode="edge")

    def extend_mask(self, mask: Pixels) -> Pixels:
        """The mask on the canvas: what is added is made anew."""
        sides = [(self.top, self.bottom), (self.left, self.right)]
        return np.pad(mask, sides, constant_values=255)
