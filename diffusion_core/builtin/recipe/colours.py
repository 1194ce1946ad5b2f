"""The named background colours, and the perceived distance of two colours.

Distances are Euclidean in CIELAB (CIE 1976), where about 2 is just noticeable.
"""

import numpy as np
from numpy.typing import NDArray

WHITE = "white"
COLOURS: dict[str, tuple[int, int, int]] = {
    WHITE: (255, 255, 255),
    "black": (20, 20, 20),
    "gray": (150, 150, 150),
    "red": (215, 45, 45),
    "orange": (245, 140, 30),
    "yellow": (250, 215, 60),
    "green": (65, 165, 75),
    "teal": (25, 150, 150),
    "light blue": (155, 210, 245),
    "blue": (45, 100, 220),
    "purple": (145, 60, 175),
    "pink": (245, 150, 195),
    "brown": (125, 80, 45),
}
"""sRGB values. They are at least 25 apart, so that a measured background has only one name."""

_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_D65 = _TO_XYZ.sum(axis=1)


def to_lab(rgb: NDArray[np.generic]) -> NDArray[np.float64]:
    """(..., 3) sRGB in 0 to 255 -> (..., 3) CIELAB under D65. References: IEC 61966-2-1; CIE 15."""
    encoded = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _TO_XYZ.T / _D65
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def distance(one: NDArray[np.generic], other: NDArray[np.generic]) -> NDArray[np.float64]:
    """The perceived distance (...) of two arrays (..., 3) of sRGB colours."""
    difference = to_lab(one) - to_lab(other)
    result: NDArray[np.float64] = np.linalg.norm(difference, axis=-1)
    return result


def nearest_name(rgb: NDArray[np.generic]) -> str:
    """The name of the colour that is nearest to an sRGB colour (3,)."""
    names = list(COLOURS)
    return names[int(distance(np.array([COLOURS[name] for name in names]), rgb).argmin())]


def border_similarity(rgba: NDArray[np.uint8], colour: str, near: float = 22.0) -> float:
    """The share of a drawing's outline, (H, W, 4), that is closer than `near` to a named colour.

    The outline is the opaque pixels next to transparent ones. A snowman has 0.9 against white.
    """
    opaque = rgba[..., 3] > 127
    padded = np.pad(opaque, 2)
    inside = np.ones_like(opaque)
    for y, x in ((0, 2), (4, 2), (2, 0), (2, 4)):
        inside &= padded[y : y + opaque.shape[0], x : x + opaque.shape[1]]
    outline = rgba[opaque & ~inside][:, :3]
    return float((distance(outline, np.array(COLOURS[colour])) < near).mean())
