"""Images/s of Stable Diffusion 1.5, SDXL and FLUX.1 on an accelerator, beside plain diffusers.

The models have the true sizes and random weights, on which the speed of all that is tried here does
not depend; how often a first_block_cache skips does, so it is left out. First the model as it is by
batch size, then each way of sampling faster, at the smallest batch that was within 3% of the best.
In every row batches alternate with those of plain diffusers: the pipeline called as its
documentation shows it, in bfloat16, at the same batch size and with nothing chosen. Every batch has
prompts of its own, which both encode.

    ratio   median of the pairs' times, plain diffusers over nightpress; on a CPU with one thread
            all times are those of the thread itself
    peak    FLOPs of the batch (matrix products, convolutions, attention; as computed by the way
            itself, be it less) a second, over those of a large matrix product in the same dtype
            (bfloat16's for what is quantised)
    busy    share of one more batch's wall time in which a kernel runs, by torch's profiler; on a
            CPU, in which the sampling thread does
    warm s  the first batch, compilation included

A picture with a fault ends its row: mending it would falsify the time. Without an accelerator
narrow models of the same architectures are sampled on the CPU: ratios there say what surrounds the
networks costs, and nothing of the true models.

    python tests/benchmarks/bench_accelerator.py --models sdxl
    python tests/benchmarks/bench_accelerator.py --models flux --batch-sizes 1 2 --minutes 9
    python tests/benchmarks/bench_accelerator.py --models sdxl --only "compile full"
"""

import argparse
import gc
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from accelerator_rows import HEADER, LOSSY, WIDTH, Row, against_goals
from meters import busy_share, counted_flops, measured_peak
from random_models import ARCHITECTURES, Architecture, Scale, loaded, make, twin

from nightpress.diffusion_core.acceleration import apply
from nightpress.diffusion_core.errors import DiffusionError, OutOfMemory, SamplingError
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.tuning.batch_size import nearly_best
from nightpress.diffusion_core.tuning.benchmark import clock_for
from nightpress.diffusion_core.tuning.candidates import TuningConfig, candidates

NOTHING = TuningConfig()

FLOAT8 = "float8_dynamic_activation_float8_weight"

FIRST = (TuningConfig.of(compile="full"), TuningConfig.of(compile="full", quantization=FLOAT8))
"""What promises most, and the goals ask for: tried first, as the time may run out."""

TOGETHER = (
    TuningConfig.of(compile="full", channels_last=True),
    TuningConfig.of(compile="full", fuse_qkv_projections=True),
    TuningConfig.of(compile="full", channels_last=True, quantization=FLOAT8),
)
"""Tried last."""

BATCHES_SHARE = 0.4
"""Of the time, at most, for the rows by batch size."""


@dataclass(frozen=True)
class Setup:
    """What all rows of a model have in common."""

    architecture: Architecture
    scale: Scale
    device: str
    dtype: str
    """Of plain diffusers, and of every way that does not say otherwise."""
    params: SamplingParams
    rounds: int

    def loaded(self, way: TuningConfig, shared: dict[str, Any] | None = None) -> Any:
        """The model with a way's choices done to it; its text encoders may be shared.

        Raises:
            ModelError: it cannot take one of them.
            OutOfMemory: it does not fit.
        """
        dtype = way.dtype or self.dtype
        shared = shared if dtype == self.dtype else None
        try:
            pipeline = make(self.architecture, self.scale, dtype, self.device, shared)
            apply.apply_speed(apply.Parts(pipeline, type(pipeline), dtype), way.speed)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(str(error).split(".")[0]) from error
        return loaded(pipeline, self.architecture, dtype, self.device, way.speed)


class Bench:
    """A model on its device as it is by itself, and what is measured beside it."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.peaks: dict[str, float] = {}
        """FLOP/s by dtype."""
        self._clock = clock_for(setup.device)
        self._numbers = count()
        self._plain_sizes: set[int] = set()
        self._model = setup.loaded(NOTHING)
        self._plain = twin(self._model.pipeline, setup.architecture)
        self._flops_an_image = self._flops_of(self._model)
        self._peak(setup.dtype)

    def row(self, way: TuningConfig, batch_size: int) -> Row:
        """One way at one batch size.

        Raises:
            ModelError, SettingsError, SamplingError: the way is not for the model.
            OutOfMemory: it does not fit.
        """
        self._collect()  # what the row before left, now that nobody holds its error any more
        try:
            return self._row(way, batch_size)
        except torch.OutOfMemoryError as error:  # of plain diffusers
            raise OutOfMemory(str(error).split(".")[0]) from error
        finally:
            self._forget(way)

    def _row(self, way: TuningConfig, batch_size: int) -> Row:
        model = self._model if way == NOTHING else self._setup.loaded(way, self._text_encoders())
        flops = self._flops_of(model) if way.fields & LOSSY else self._flops_an_image
        sampler = Sampler(model, batch_size)
        start = time.perf_counter()
        self._sample_s(sampler, batch_size)
        warm_s = time.perf_counter() - start
        self._warm_plain(batch_size)
        ours, plain = zip(
            *(
                (self._sample_s(sampler, batch_size), self._plain_s(batch_size))
                for _ in range(self._setup.rounds)
            ),
            strict=True,
        )
        images_per_s = batch_size / statistics.median(ours)
        busy = busy_share(self._setup.device, lambda: self._sample_s(sampler, batch_size))
        return Row(
            way=way,
            dtype=model.dtype,
            batch_size=batch_size,
            images_per_s=images_per_s,
            plain_images_per_s=batch_size / statistics.median(plain),
            ratio=statistics.median(b / a for a, b in zip(ours, plain, strict=True)),
            peak_share=flops * images_per_s / self._peak(model.dtype),
            busy_share=busy,
            warm_s=warm_s,
        )

    def _sample_s(self, sampler: Sampler, batch_size: int) -> float:
        requests = self._requests(batch_size)
        start = self._clock()
        batch = sampler.sample(requests, self._setup.params)
        seconds = self._clock() - start
        if any(batch.faults):
            raise SamplingError(f"a picture has a fault, so no time counts: {batch.faults}")
        return seconds

    def _warm_plain(self, batch_size: int) -> None:
        if batch_size not in self._plain_sizes:
            self._plain_s(batch_size)
            self._plain_sizes.add(batch_size)

    def _plain_s(self, batch_size: int) -> float:
        """As diffusers' documentation calls its pipelines."""
        requests, params = self._requests(batch_size), self._setup.params
        start = self._clock()
        self._plain(
            prompt=[request.prompt for request in requests],
            height=params.height,
            width=params.width,
            num_inference_steps=params.num_inference_steps,
            guidance_scale=params.guidance_scale,
            generator=[
                torch.Generator(self._setup.device).manual_seed(request.seed)
                for request in requests
            ],
            output_type="pil",
        )
        return self._clock() - start

    def _requests(self, batch_size: int) -> list[ImageRequest]:
        """No prompt comes twice."""
        numbers = [next(self._numbers) for _ in range(batch_size)]
        return [ImageRequest(f"a photograph of thing number {n}", "", n) for n in numbers]

    def _flops_of(self, model: Any) -> int:
        """Of one image, its negative prompt encoded before."""
        sampler = Sampler(model, 1)
        self._sample_s(sampler, 1)
        return counted_flops(lambda: self._sample_s(sampler, 1))

    def _peak(self, dtype: str) -> float:
        if dtype not in self.peaks:
            self.peaks[dtype] = measured_peak(self._setup.device, dtype)
        return self.peaks[dtype]

    def _text_encoders(self) -> dict[str, Any]:
        parts = self._model.pipeline.components
        return {name: part for name, part in parts.items() if name.startswith("text_encoder")}

    def _forget(self, way: TuningConfig) -> None:
        """Let go of a way's model and of what was compiled for it."""
        if way.speed.compile:
            torch.compiler.reset()
        self._collect()

    def _collect(self) -> None:
        gc.collect()
        if self._setup.device == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    """A table of each model."""
    options = parse()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.set_num_threads(options.threads)
        print("no accelerator is at hand, so this is the CPU part: narrow models of the same ")
        print(f"architectures, {options.threads} threads; no figure is one of the true models")
    else:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for name in options.models:
        table(name, device, options)


def table(name: str, device: str, options: argparse.Namespace) -> None:
    """Measure one model, its rows printed as they come."""
    setup = setup_of(ARCHITECTURES[name], device, options)
    params = setup.params
    print(f"\n{title_of(setup)}, random weights")
    print(f"{params.width} x {params.height}, {params.num_inference_steps} steps, ", end="")
    print(f"guidance {params.guidance_scale:g}, {setup.dtype} unless it says otherwise", flush=True)
    minutes = options.minutes or (7.0 if device == "cuda" else 0.6)
    try:
        bench = Bench(setup)
    except OutOfMemory as error:
        print(f"does not fit into the memory of this device: {error}")
        return
    except DiffusionError as error:
        print(f"cannot be measured: {error}")
        return
    rows = list(measured(bench, 60 * minutes, options))
    for dtype, flops in bench.peaks.items():
        print(f"peak of a {dtype} matrix product: {flops / 1e12:.3g} TFLOP/s")
    if device == "cuda":
        against_goals(name, rows)


def measured(bench: Bench, budget_s: float, options: argparse.Namespace) -> Iterator[Row]:
    """The rows by batch size, then those of the ways, as long as there is time."""
    started_at = time.perf_counter()
    print(HEADER, flush=True)
    sizes = by_batch_size(bench, started_at + BATCHES_SHARE * budget_s, options.batch_sizes)
    plain_rows = list(sizes)
    yield from plain_rows
    size = nearly_best({row.batch_size: row.images_per_s for row in plain_rows})
    left = ways(options)
    while left and time.perf_counter() < started_at + budget_s:
        yield from tried(bench, left.pop(0), size)
    if left:
        print(f"not tried, as the time was over: {'; '.join(way.name for way in left)}")


def by_batch_size(bench: Bench, end_at: float, sizes: list[int]) -> Iterator[Row]:
    """Until a size does not fit, or would take until after the end."""
    lasted_s, before = 0.0, sizes[0]
    for size in sizes:
        begun_at = time.perf_counter()
        if lasted_s and begun_at + lasted_s * size / before > end_at:
            print(f"batches of {size} and more would take too long here", flush=True)
            return
        rows = list(tried(bench, NOTHING, size))
        if not rows:
            return
        yield from rows
        lasted_s, before = time.perf_counter() - begun_at, size


def tried(bench: Bench, way: TuningConfig, batch_size: int) -> Iterator[Row]:
    """The way's row, printed; none, and a line, where it cannot be had."""
    try:
        row = bench.row(way, batch_size)
    except DiffusionError as error:
        reason = f"batch {batch_size} does not fit" if isinstance(error, OutOfMemory) else error
        print(f"{way.name:<{WIDTH}}  {reason}", flush=True)
        return
    print(row, flush=True)
    yield row


def ways(options: argparse.Namespace) -> list[TuningConfig]:
    """All of them, or those that are named."""
    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", "bfloat16") if cuda else ("cpu", "float32")
    compiles = cuda if options.compile is None else options.compile
    others = candidates(device, dtype, max(options.batch_sizes), compiles)
    whole = [TuningConfig("float32")] if cuda else []
    known = [*FIRST, *others, *whole, *TOGETHER] if compiles else [*others, *whole]
    once = [way for place, way in enumerate(known) if way not in known[:place]]
    wanted = {way.name: way for way in once if way.speed.first_block_cache is None}
    if unknown := set(options.only or ()) - wanted.keys():
        raise SystemExit(f"no way {', '.join(unknown)}; there are: {'; '.join(wanted)}")
    return [wanted[name] for name in (wanted if options.only is None else options.only)]


def title_of(setup: Setup) -> str:
    """What was measured; a setting is only called by a name if it is that."""
    name, _, setting = setup.architecture.title.partition(", ")
    if setup.scale == "tiny":
        return f"{name}, made narrow"
    usual = setup.params.num_inference_steps == setup.architecture.num_inference_steps
    return f"{name}, {setting}" if setting and usual else name


def setup_of(architecture: Architecture, device: str, options: argparse.Namespace) -> Setup:
    """The true size on an accelerator, the narrow one elsewhere, unless it is said."""
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
    parser.add_argument("--batch-sizes", nargs="+", type=int, help="1 2 4 8 16 32; on a CPU 1 2 4")
    parser.add_argument("--only", nargs="*", help="names of ways; none for batch sizes alone")
    parser.add_argument("--steps", type=int, help="20, and 28 of FLUX; narrow models take 4")
    parser.add_argument("--rounds", type=int, default=2, help="timed pairs of batches a row")
    parser.add_argument("--minutes", type=float, help="of each model; 7, on a CPU 0.6")
    parser.add_argument("--scale", choices=("full", "tiny"), help="of the models")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="not on a CPU")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    options = parser.parse_args()
    options.batch_sizes = sorted(
        options.batch_sizes or ([1, 2, 4, 8, 16, 32] if torch.cuda.is_available() else [1, 2, 4])
    )
    return options


if __name__ == "__main__":
    main()
