"""The rows of the accelerator benchmark, and the rate goals that they are compared with."""

import math
from dataclasses import dataclass

import torch

from nightpress.diffusion_core.tuning.candidates import TuningConfig

LOSSY = {"deep_features", "first_block_cache", "pyramid_attention_broadcast", "taylorseer_cache"}
"""Speed settings that skip part of the work; rows that use them do not count towards a goal."""

GOALS = {
    "sd15": {"bfloat16": 11.4},
    "sdxl": {"bfloat16": 1.9, "float8": 2.4},
    "flux": {"float8": 0.38},
}
"""Images/s on one H200."""

H200_BYTES = 130 * 2**30
"""A Hopper or newer GPU with at least this much memory counts as an H200."""

WIDTH = 80
"""Characters of the column with the configuration's name."""

NAMES = f"{'batch':>6}{'images/s':>10}{'plain':>8}{'ratio':>8}{'peak':>7}{'busy':>7}{'warm s':>8}"
HEADER = f"{'':<{WIDTH}}{NAMES}{'lowest dB':>11}"


@dataclass(frozen=True)
class Row:
    """The measurements of one configuration at one batch size."""

    config: TuningConfig
    dtype: str
    batch_size: int
    images_per_s: float
    plain_images_per_s: float
    ratio: float
    peak_share: float
    busy_share: float
    warm_s: float
    lowest_db: float | None
    """The lowest PSNR of the first batch against the unchanged model's; infinite for the same bits.

    None for the unchanged model itself, and in another dtype, which has other random weights.
    """

    @property
    def likeness(self) -> str:
        """`81.3`, `same bits`, or `-` where nothing is compared."""
        if self.lowest_db is None:
            return "-"
        return "same bits" if math.isinf(self.lowest_db) else f"{self.lowest_db:.1f}"

    def __str__(self) -> str:
        return (
            f"{self.config.name:<{WIDTH}}{self.batch_size:>6}{self.images_per_s:>10.3f}"
            f"{self.plain_images_per_s:>8.3f}{self.ratio:>7.2f}x{self.peak_share:>7.1%}"
            f"{self.busy_share:>7.1%}{self.warm_s:>8.1f}{self.likeness:>11}"
        )


def print_goals(name: str, rows: list[Row]) -> None:
    """Print, for each goal of a model, the fastest row that counts towards it."""
    memory = torch.cuda.get_device_properties(0).total_memory
    is_hopper = torch.cuda.get_device_capability() >= (9, 0)
    for precision, goal in GOALS[name].items():
        counted = [row for row in rows if counts_as(row, precision)]
        if not counted:
            print(f"goal in {precision}: no row counts")
            continue
        best = max(counted, key=lambda row: row.images_per_s)
        fastest = f"{best.images_per_s:.3f} images/s ({best.config.name}, batch {best.batch_size})"
        aim = f"goal {goal}" if is_hopper and memory >= H200_BYTES else f"an H200's goal is {goal}"
        print(f"best in {precision}: {fastest}; {aim}")


def counts_as(row: Row, precision: str) -> bool:
    """Whether a row does all the work, in that precision."""
    quantization = row.config.speed.quantization
    is_eight_bit = row.config.speed.attention_backend == "sage"
    if row.config.fields & LOSSY or is_eight_bit:
        return False
    if precision == "float8":
        return quantization is not None and quantization.startswith("float8")
    return row.dtype == precision and quantization is None
