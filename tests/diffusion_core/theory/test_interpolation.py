import math

import pytest
import torch
from torch import Tensor

from nightpress.diffusion_core.theory.interpolation import lerp, slerp

PLACES = [0.1, 0.25, 0.5, 0.9]


def noises(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    first, second = (torch.randn(1, 4, 32, 32, generator=draw, dtype=dtype) for _ in range(2))
    return first, second


def angle(one: Tensor, two: Tensor) -> float:
    one, two = one.double().flatten(), two.double().flatten()
    return math.acos(float(one @ two / (one.norm() * two.norm())))


@pytest.mark.parametrize("interpolate", [slerp, lerp])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_ends_are_bit_for_bit_the_two_tensors(interpolate, dtype) -> None:  # type: ignore[no-untyped-def]
    start, end = noises(dtype)
    assert torch.equal(interpolate(start, end, 0.0), start)
    assert torch.equal(interpolate(start, end, 1.0), end)
    assert interpolate(start, end, 0.3).dtype == dtype


@pytest.mark.parametrize("at", PLACES)
def test_slerp_turns_at_an_even_speed(at: float) -> None:
    start, end = (each / each.norm() for each in noises(torch.float64))
    whole, point = angle(start, end), slerp(start, end, at)
    assert angle(start, point) == pytest.approx(at * whole, abs=1e-6)
    assert angle(point, end) == pytest.approx((1 - at) * whole, abs=1e-6)


@pytest.mark.parametrize("at", PLACES)
def test_slerp_between_noises_keeps_their_length_and_lerp_does_not(at: float) -> None:
    start, end = noises()
    length = float(start.norm())
    assert float(slerp(start, end, at).norm()) == pytest.approx(length, rel=0.03)
    expected = length * math.hypot(at, 1 - at)  # of nearly orthogonal noises
    assert float(lerp(start, end, at).norm()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("at", PLACES)
def test_slerp_is_the_same_walked_from_the_other_end(at: float) -> None:
    start, end = noises()
    torch.testing.assert_close(slerp(start, end, at), slerp(end, start, 1 - at))


def test_slerp_on_the_unit_circle_is_the_circle() -> None:
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    third = slerp(east, north, 1 / 3)
    torch.testing.assert_close(third, torch.tensor([math.cos(math.pi / 6), 0.5]))


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_slerp_without_an_arc_is_the_straight_line(factor: float) -> None:
    start, _ = noises()
    assert torch.equal(slerp(start, factor * start, 0.4), lerp(start, factor * start, 0.4))
