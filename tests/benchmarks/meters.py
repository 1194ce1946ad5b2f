"""Measure a device: peak FLOP/s, FLOPs of some work, and the share of time it is busy."""

import math
import time
from collections.abc import Callable, Iterable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

SIDES = {"cuda": 8192, "cpu": 2048}
"""Side of the square matrices that measure the peak."""

PRODUCTS = {"cuda": 20, "cpu": 2}
"""Matrix products in one round."""

ROUNDS = 8
"""Rounds, of which the fastest counts; the first ones warm up the device."""


def measured_peak(device: str, dtype: str) -> float:
    """The FLOP/s of a large matrix product, with a multiply-add counted as two."""
    side = SIDES[device]
    left, right = (torch.randn(side, side, device=device).to(getattr(torch, dtype)) for _ in "lr")
    out = torch.empty_like(left)
    work = PRODUCTS[device] * 2 * side**3
    return work / min(_products_s(device, left, right, out) for _ in range(ROUNDS))


def _products_s(device: str, left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(PRODUCTS[device]):
        torch.matmul(left, right, out=out)
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait until the device has finished all queued work."""
    if device == "cuda":
        torch.cuda.synchronize()


def counted_flops(work: Callable[[], object]) -> int:
    """The FLOPs of matrix products, convolutions and attention; other work is not counted.

    Attention is computed as matrix products during the count, because torch counts its other
    kernels on some devices only. Compiled models cannot be counted.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def busy_share(device: str, work: Callable[[], object]) -> float:
    """The share of wall time in which the device is busy.

    On CUDA, the time in which at least one kernel or copy runs, as CUPTI records it for torch's
    profiler without host events. The cost of recording counts as idle time, and the share is NaN
    where CUPTI is not allowed to record. On a CPU, the CPU time of the calling thread.
    """
    return _kernel_share(work) if device == "cuda" else _thread_share(work)


def _thread_share(work: Callable[[], object]) -> float:
    busy, start = time.thread_time(), time.perf_counter()
    work()
    return (time.thread_time() - busy) / (time.perf_counter() - start)


def _kernel_share(work: Callable[[], object]) -> float:
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        start = time.perf_counter()
        work()
        synchronize("cuda")
        wall_s = time.perf_counter() - start
    # The raw events: building torch's own list of events takes longer than the work itself.
    spans = [
        (event.start_ns(), event.end_ns())
        for event in profiler.profiler.kineto_results.events()
        if event.device_type() == DeviceType.CUDA and not event.is_user_annotation()
    ]
    return covered(spans) / 1e9 / wall_s if spans else math.nan


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """The total length of the spans (start, end), with overlaps counted once."""
    total, reached = 0, None
    for start, end in sorted(spans):
        begin = start if reached is None else max(start, reached)
        total += max(0, end - begin)
        reached = end if reached is None else max(end, reached)
    return total
