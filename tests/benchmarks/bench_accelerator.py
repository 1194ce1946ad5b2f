"""Images/s of Stable Diffusion 1.5, SDXL and FLUX.1 on an accelerator, beside plain diffusers.

The models have their real sizes and random weights, which do not change the speed of anything that
is measured here; first_block_cache is left out, because how often it skips does depend on the
weights. The unchanged model is measured at each batch size first, then each speed configuration at
the smallest batch size within 3% of the best rate. In every row, batches alternate with those of
plain diffusers: the pipeline as its documentation calls it, in bfloat16, at the same batch size and
without speed settings. Every batch has new prompts, which both sides encode.

    ratio   median over the pairs of plain diffusers' time divided by nightpress's; on a CPU with
            one thread, times are that thread's CPU time
    peak    the batch's FLOP/s (matrix products, convolutions and attention that this configuration
            really computes), as a share of the FLOP/s of a large matrix product in the same dtype
            (in bfloat16 for quantized models)
    busy    share of one more batch's wall time in which a kernel runs, by torch's profiler; on a
            CPU, in which the sampling thread runs
    warm s  seconds of the first batch, compilation included
    lowest dB
            PSNR against the unchanged model's first batch, of the image that differs most; with
            random weights, so a trained model's may differ. In another dtype nothing is compared

A faulty image ends its row, because repairing it would falsify the time. Without an accelerator,
narrow models of the same architectures are sampled on the CPU. Ratios there show what the code
around the networks costs; they say nothing about the full-size models.

    python tests/benchmarks/bench_accelerator.py --models sdxl
    python tests/benchmarks/bench_accelerator.py --models flux --batch-sizes 1 2 --minutes 9
    python tests/benchmarks/bench_accelerator.py --models sdxl --only "compile full"
"""

import argparse
import time
from collections.abc import Iterator

import torch
from accelerator_bench import FLOAT8, NOTHING, Bench, Setup
from accelerator_rows import HEADER, WIDTH, Row, print_goals
from random_models import ARCHITECTURES, Architecture, Scale

from nightpress.diffusion_core.errors import DiffusionError, OutOfMemory
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.tuning.batch_size import nearly_best
from nightpress.diffusion_core.tuning.candidates import TuningConfig, candidates

FIRST = (TuningConfig.of(compile="full"), TuningConfig.of(compile="full", quantization=FLOAT8))
"""The configurations of the goals, measured first because the time may run out."""

COMBINED = (
    TuningConfig.of(compile="full", channels_last=True),
    TuningConfig.of(compile="full", fuse_qkv_projections=True),
    TuningConfig.of(compile="full", channels_last=True, quantization=FLOAT8),
)
"""Measured last."""

BATCHES_SHARE = 0.4
"""The largest share of the time spent on the rows by batch size."""


def main() -> None:
    """Print a table for each model."""
    options = parse()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(options.threads)
        print("no accelerator found, so narrow models of the same architectures run on the ")
        print(f"CPU with {options.threads} threads; no figure is one of a full-size model")
    else:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for name in options.models:
        table(name, device, options)


def table(name: str, device: str, options: argparse.Namespace) -> None:
    """Measure one model; print each row when it is done."""
    setup = setup_of(ARCHITECTURES[name], device, options)
    params = setup.params
    print(f"\n{title_of(setup)}, random weights")
    print(f"{params.width} x {params.height}, {params.num_inference_steps} steps, ", end="")
    print(
        f"guidance {params.guidance_scale:g}, {setup.dtype} unless a row says otherwise", flush=True
    )
    minutes = options.minutes or (7.0 if device == "cuda" else 0.6)
    try:
        bench = Bench(setup)
    except OutOfMemory as error:
        print(f"does not fit in this device's memory: {error}")
        return
    except DiffusionError as error:
        print(f"cannot be measured: {error}")
        return
    rows = list(measured(bench, 60 * minutes, options))
    for dtype, flops in bench.peaks.items():
        print(f"peak of a {dtype} matrix product: {flops / 1e12:.3g} TFLOP/s")
    if device == "cuda":
        print_goals(name, rows)


def measured(bench: Bench, budget_s: float, options: argparse.Namespace) -> Iterator[Row]:
    """Measure by batch size, then each configuration, while there is time."""
    started_at = time.perf_counter()
    print(HEADER, flush=True)
    sizes_end_at = started_at + BATCHES_SHARE * budget_s
    plain_rows = list(by_batch_size(bench, sizes_end_at, options.batch_sizes))
    yield from plain_rows
    size = nearly_best({row.batch_size: row.images_per_s for row in plain_rows})
    left = configs(options)
    while left and time.perf_counter() < started_at + budget_s:
        yield from measured_row(bench, left.pop(0), size)
    if left:
        print(
            f"not measured, because the time was over: {'; '.join(config.name for config in left)}"
        )


def by_batch_size(bench: Bench, end_at: float, sizes: list[int]) -> Iterator[Row]:
    """Measure each batch size until one does not fit or would end too late."""
    lasted_s, before = 0.0, sizes[0]
    for size in sizes:
        begun_at = time.perf_counter()
        if lasted_s and begun_at + lasted_s * size / before > end_at:
            print(f"batches of {size} and more would take too long here", flush=True)
            return
        rows = list(measured_row(bench, NOTHING, size))
        if not rows:
            return
        yield from rows
        lasted_s, before = time.perf_counter() - begun_at, size


def measured_row(bench: Bench, config: TuningConfig, batch_size: int) -> Iterator[Row]:
    """Measure and print one row; print why there is none if measuring it fails."""
    try:
        row = bench.row(config, batch_size)
    except DiffusionError as error:
        reason = f"batch {batch_size} does not fit" if isinstance(error, OutOfMemory) else error
        print(f"{config.name:<{WIDTH}}  {reason}", flush=True)
        return
    print(row, flush=True)
    yield row


def configs(options: argparse.Namespace) -> list[TuningConfig]:
    """All configurations to measure, or those named by `--only`."""
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", "bfloat16") if cuda else ("cpu", "float32")
    compiles = cuda if options.compile is None else options.compile
    others = candidates(device, dtype, max(options.batch_sizes), compiles)
    float32 = [TuningConfig("float32")] if cuda else []
    known = [*FIRST, *others, *float32, *COMBINED] if compiles else [*others, *float32]
    distinct = {config.name: config for config in known}
    wanted = {
        name: config for name, config in distinct.items() if config.speed.first_block_cache is None
    }
    if unknown := set(options.only or ()) - wanted.keys():
        raise SystemExit(
            f"--only: unknown configuration {', '.join(unknown)}; known: {'; '.join(wanted)}"
        )
    return [wanted[name] for name in (wanted if options.only is None else options.only)]


def title_of(setup: Setup) -> str:
    """The model's title; the name of its setting is left out if the setting differs."""
    name, _, setting = setup.architecture.title.partition(", ")
    if setup.scale == "tiny":
        return f"{name}, made narrow"
    usual = setup.params.num_inference_steps == setup.architecture.num_inference_steps
    return f"{name}, {setting}" if setting and usual else name


def setup_of(architecture: Architecture, device: str, options: argparse.Namespace) -> Setup:
    """The full size on an accelerator, narrow elsewhere, unless `--scale` says otherwise."""
    scale: Scale = options.scale or ("full" if device == "cuda" else "tiny")
    side = architecture.side_at(scale)
    steps = options.steps or architecture.steps_at(scale)
    params = SamplingParams(side, side, steps, architecture.guidance_scale)
    dtype = "bfloat16" if device == "cuda" else "float32"
    return Setup(architecture, scale, device, dtype, params, options.rounds)


def parse() -> argparse.Namespace:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=[*ARCHITECTURES])
    parser.add_argument(
        "--batch-sizes", nargs="+", type=int, help="default: 1 2 4 8 16 32, or 1 2 4 on a CPU"
    )
    parser.add_argument(
        "--only", nargs="*", help="names of configurations; none for batch sizes alone"
    )
    parser.add_argument(
        "--steps", type=int, help="default: 20, or 28 for FLUX; 4 for narrow models"
    )
    parser.add_argument("--rounds", type=int, default=2, help="timed pairs of batches in each row")
    parser.add_argument(
        "--minutes", type=float, help="time for each model; default: 7, or 0.6 on a CPU"
    )
    parser.add_argument("--scale", choices=("full", "tiny"), help="size of the models")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile models; off by default on a CPU",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()
    options.batch_sizes = sorted(
        options.batch_sizes or ([1, 2, 4, 8, 16, 32] if torch.cuda.is_available() else [1, 2, 4])
    )
    return options


if __name__ == "__main__":
    main()
