"""Interpolation between two noises, or between two embeddings of a prompt."""

import torch
from torch import Tensor

PARALLEL = 1e-6
"""Sine of the angle below which two vectors point the same way, or opposite ways."""


def slerp(start: Tensor, end: Tensor, at: float) -> Tensor:
    """Spherical linear interpolation: a point on the great arc between two tensors.

    Independent Gaussian noises are nearly orthogonal and nearly equally long, so that every point
    of the arc is about as long as they are; a point on the straight line between them is shorter,
    and a denoiser has never seen such noise.

    Where the two point the same way, or opposite ways, there is no single arc, and the point is
    that of `lerp`.

    Args:
        start, end: of one shape and type; each is one vector, whatever its shape.
        at: where the point lies, 0 (`start`) to 1 (`end`). At 0 and 1 the result is bit for bit
            that end.

    Returns:
        A tensor of the same shape and type, computed in float64.

    References: Shoemake 1985, "Animating rotation with quaternion curves", sec. 3.3; for latent
        spaces, White 2016, arXiv:1609.04468, sec. 2.1.
    """
    if at in (0.0, 1.0):
        return (start if at == 0.0 else end).clone()
    one, two = start.double(), end.double()
    cosine = (one * two).sum() / (one.norm() * two.norm())
    angle = torch.arccos(cosine.clamp(-1.0, 1.0))
    if not bool(torch.sin(angle) > PARALLEL):  # also where a vector is zero, which gives nan
        return lerp(start, end, at)
    point = torch.sin((1.0 - at) * angle) * one + torch.sin(at * angle) * two
    return (point / torch.sin(angle)).to(start.dtype)


def lerp(start: Tensor, end: Tensor, at: float) -> Tensor:
    """Linear interpolation: a point on the straight line between two tensors.

    Args:
        start, end, at: as for `slerp`.

    Returns:
        A tensor of the same shape and type, computed in float64. At 0 and 1 it is bit for bit that
        end.
    """
    if at in (0.0, 1.0):
        return (start if at == 0.0 else end).clone()
    return torch.lerp(start.double(), end.double(), at).to(start.dtype)
