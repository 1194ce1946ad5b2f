"""A row of the accelerator's benchmark, and which of them a goal counts."""

from dataclasses import dataclass

import torch

from nightpress.diffusion_core.tuning.candidates import TuningConfig

LOSSY = {"deep_features", "first_block_cache", "pyramid_attention_broadcast", "taylorseer_cache"}
"""Choices that leave work out, which no goal counts."""

GOALS = {
    "sd15": {"bfloat16": 11.4},
    "sdxl": {"bfloat16": 1.9, "float8": 2.4},
    "flux": {"float8": 0.38},
}
"""Images/s on one H200."""

H200_BYTES = 130 * 2**30
"""Memory from which on a GPU of its generation counts as one."""

WIDTH = 80
"""Of a way's name."""

NAMES = f"{'batch':>6}{'images/s':>10}{'plain':>8}{'ratio':>8}{'peak':>7}{'busy':>7}{'warm s':>8}"
HEADER = f"{'':<{WIDTH}}{NAMES}"


@dataclass(frozen=True)
class Row:
    """What was measured of a way at a batch size."""

    way: TuningConfig
    dtype: str
    batch_size: int
    images_per_s: float
    plain_images_per_s: float
    ratio: float
    peak_share: float
    busy_share: float
    warm_s: float

    def __str__(self) -> str:
        return (
            f"{self.way.name:<{WIDTH}}{self.batch_size:>6}{self.images_per_s:>10.3f}"
            f"{self.plain_images_per_s:>8.3f}{self.ratio:>7.2f}x{self.peak_share:>7.1%}"
            f"{self.busy_share:>7.1%}{self.warm_s:>8.1f}"
        )


def against_goals(name: str, rows: list[Row]) -> None:
    """The fastest rows that leave no work out, beside the goals where they were set for this."""
    whole = torch.cuda.get_device_properties(0).total_memory
    new = torch.cuda.get_device_capability() >= (9, 0)
    for precision, goal in GOALS[name].items():
        fitting = [row for row in rows if counts_as(row, precision)]
        if not fitting:
            print(f"goal in {precision}: no row counts")
            continue
        best = max(fitting, key=lambda row: row.images_per_s)
        said = f"{best.images_per_s:.3f} images/s ({best.way.name}, batch {best.batch_size})"
        aim = f"goal {goal}" if new and whole >= H200_BYTES else f"an H200's goal is {goal}"
        print(f"best in {precision}: {said}; {aim}")


def counts_as(row: Row, precision: str) -> bool:
    """Whether a row computes all that there is to compute, in that precision."""
    quantization = row.way.speed.quantization
    if row.way.fields & LOSSY or row.way.speed.attention_backend == "sage":  # of 8 bits
        return False
    if precision == "float8":
        return quantization is not None and quantization.startswith("float8")
    return row.dtype == precision and quantization is None
