"""The steps of the GPU night: what each of them measures, as entries of names and values."""

import contextlib
import copy
import gc
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerator_bench import FLOAT8, NOTHING, Bench, Setup
from accelerator_rows import GOALS, Row, counts_as
from meters import synchronize
from random_models import ARCHITECTURES, Scale, loaded, make

from nightpress.diffusion_core.acceleration import apply
from nightpress.diffusion_core.acceleration.numerics import SWITCHES, fix_numerics, set_switches
from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.errors import DiffusionError, OutOfMemory, SamplingError, one_line
from nightpress.diffusion_core.models.loading import LoadedModel
from nightpress.diffusion_core.sampling.decoding import all_finite
from nightpress.diffusion_core.sampling.request import ImageRequest, SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.diffusion_core.tuning.candidates import TuningConfig

Entry = dict[str, Any]
"""One line of the table: name -> a figure, a text, or None."""

FEW_STEPS = 4
"""Denoising steps where the images are compared and not timed."""

BATCH_SIZES = {"sd15": 8, "sdxl": 8, "flux": 1}
"""Images in each timed batch on a GPU; two of a tiny model."""

PLACE_SETTINGS = (
    ("sd15", "bfloat16", False),
    ("sd15", "float32", False),
    ("sd15", "float32", True),
    ("sdxl", "bfloat16", False),
    ("sdxl", "bfloat16", True),
)
"""Model, precision, and whether TF32 is on, where places of a batch are compared."""

REGIONAL = TuningConfig.of(compile="regional")
CHANNELS_LAST = TuningConfig.of(channels_last=True)
CHANNELS_LAST_REGIONAL = TuningConfig.of(channels_last=True, compile="regional")
FUSED = TuningConfig.of(fuse_qkv_projections=True)
FLOAT8_QUICK = TuningConfig.of(compile="regional", quantization=FLOAT8)
WHOLE = TuningConfig.of(compile="full")
FLOAT8_WHOLE = TuningConfig.of(compile="full", quantization=FLOAT8)

OF_UNETS = (NOTHING, CHANNELS_LAST, CHANNELS_LAST_REGIONAL, FLOAT8_QUICK, REGIONAL, FUSED)
"""Ways of a U-Net: plain, those that `auto` tries first, the goal in float8, and the others."""

OF_TRANSFORMERS = (NOTHING, FLOAT8_QUICK, REGIONAL, FUSED)
"""Ways of FLUX, which has no convolutions for `channels_last`."""

BEYOND_MEMORY_SIDE = 1 << 25
"""Pixels of the side of an image whose noise alone no host can hold."""

SPARE_BYTES = 1 << 30
"""GPU memory that the batch gets which is to run out of it."""

OVERFLOWING = 1e5
"""Factor of a decoder's first weights with which float16 overflows and float32 does not."""


@dataclass
class Night:
    """What all steps share: the device, the size of the models, and the model that was used last.

    Args:
        device: `cuda` or `cpu`.
        scale: full-size or tiny models.
    """

    device: str
    scale: Scale
    _held: dict[tuple[str, str], Any] = field(default_factory=dict)

    def batch_size(self, name: str) -> int:
        """Images in a batch of a model."""
        return BATCH_SIZES[name] if self.scale == "full" else min(2, BATCH_SIZES[name])

    @property
    def dtype(self) -> str:
        """The precision of what is timed."""
        return "float32" if self.device == "cpu" else "bfloat16"

    def params(self, name: str, steps: int | None = None) -> SamplingParams:
        """The settings of a model's images."""
        architecture = ARCHITECTURES[name]
        side = architecture.side_at(self.scale)
        number = steps or architecture.steps_at(self.scale)
        return SamplingParams(side, side, number, architecture.guidance_scale)

    def model(self, name: str, dtype: str) -> LoadedModel:
        """A model with random weights; only the last one is kept."""
        if (name, dtype) not in self._held:
            self.forget()
            pipeline = make(ARCHITECTURES[name], self.scale, dtype, self.device)
            self._held[name, dtype] = pipeline
        pipeline = self._held[name, dtype]
        return loaded(pipeline, ARCHITECTURES[name], dtype, self.device, SpeedSpec())

    def forget(self) -> None:
        """Free the model that was used last, and compiled code."""
        self._held.clear()
        torch.compiler.reset()
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()


def requests(number: int, first: int = 0) -> list[ImageRequest]:
    """Requests with prompts and seeds of their own."""
    return [ImageRequest(f"a photograph of thing number {first + n}", "", n) for n in range(number)]


def places(night: Night) -> Iterator[Entry]:
    """The same image at places of a batch, with other companions at each."""
    for name, dtype, tf32 in PLACE_SETTINGS:
        set_switches({**SWITCHES, "tf32": tf32})
        try:
            yield {"model": name, "dtype": dtype, "tf32": tf32} | _compared_places(
                night, name, dtype
            )
        except DiffusionError as error:
            yield {"model": name, "dtype": dtype, "tf32": tf32, "error": one_line(error)}
        finally:
            fix_numerics()


def _compared_places(night: Night, name: str, dtype: str) -> Entry:
    sampler = Sampler(night.model(name, dtype), size := max(3, night.batch_size(name)))
    chosen, params = sorted({0, 1, size // 2, size - 1}), night.params(name, FEW_STEPS)
    image = ImageRequest("the image that is compared", "", 99)
    images = []
    for number, place in enumerate([*chosen, chosen[0]]):
        batch = requests(size, first=100 * (number % len(chosen)))
        batch[place] = image
        images.append(sampler.sample(batch, params).pixels[place].astype(int))
    *others, again = images
    differences = [int(np.abs(each - images[0]).max()) for each in others]
    return {
        "batch": size,
        "places": len(chosen),
        "equal": sum(difference == 0 for difference in differences),
        "largest_difference": max(differences),
        "again_equal": bool((again == images[0]).all()),
    }


def rates(name: str, *configs: TuningConfig) -> Callable[[Night], Iterator[Entry]]:
    """A step that times a model in some configurations, and compares their images.

    The times stand beside those of plain diffusers, the images beside those with nothing chosen.
    """

    def step(night: Night) -> Iterator[Entry]:
        night.forget()
        setup = Setup(
            ARCHITECTURES[name],
            night.scale,
            night.device,
            night.dtype,
            night.params(name),
            rounds=1,
            repeats_plain=False,
        )
        bench = Bench(setup)
        for config in configs:
            try:
                yield _rate(name, bench.row(config, night.batch_size(name)))
            except DiffusionError as error:
                yield {"model": name, "config": config.name, "error": one_line(error)}
        yield {"model": name} | {f"peak_{k}_tflops": v / 1e12 for k, v in bench.peaks.items()}

    return step


def _rate(name: str, row: Row) -> Entry:
    is_same = row.lowest_db is not None and math.isinf(row.lowest_db)
    values = asdict(row) | {"lowest_db": "same bits" if is_same else row.lowest_db}
    goals = {k: goal for k, goal in GOALS[name].items() if counts_as(row, k)}
    return {"model": name} | values | {"config": row.config.name, "goal": goals or None}


def memory(night: Night) -> Iterator[Entry]:
    """A batch that runs out of memory, and the same images before and after it."""
    size = night.batch_size("sdxl")
    sampler, params = Sampler(night.model("sdxl", night.dtype), size), night.params("sdxl", 2)
    before = sampler.sample(requests(size), params).pixels
    raised = "nothing"
    started_at = time.perf_counter()
    with _little_memory(night):
        try:
            sampler.sample(requests(size), _too_large(night, params))
        except OutOfMemory as error:
            raised = f"OutOfMemory: {one_line(error)}"
        except SamplingError as error:
            raised = f"{type(error).__name__}: {one_line(error)}"
    after = sampler.sample(requests(size), params).pixels
    yield {
        "raised": raised,
        "is_out_of_memory": raised.startswith("OutOfMemory"),
        "same_images_afterwards": bool((before == after).all()),
        "seconds": time.perf_counter() - started_at,
    }


@contextlib.contextmanager
def _little_memory(night: Night) -> Iterator[None]:
    """Leave the device little more memory than is in use, so that a batch runs out of it at once.

    On a CPU nothing is limited: the batch asks for more than there is.
    """
    if night.device == "cpu":
        yield
        return
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(
        min(1.0, (torch.cuda.memory_allocated() + SPARE_BYTES) / total)
    )
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _too_large(night: Night, params: SamplingParams) -> SamplingParams:
    side = BEYOND_MEMORY_SIDE if night.device == "cpu" else params.width
    return replace(params, width=side, height=side)


def decoder(night: Night) -> Iterator[Entry]:
    """SDXL's decoder in three precisions; then images that overflow in float16."""
    wanted, vae = None, night.model("sdxl", "float32").pipeline.vae
    for dtype in ("float32", "bfloat16", "float16"):
        made = _decoded(night, copy.deepcopy(vae).to(getattr(torch, dtype)), dtype)
        wanted = made.pop("images") if wanted is None else wanted
        images = made.pop("images", wanted)
        error = (images - wanted).square().mean().item()
        yield made | {"psnr_db": None if error == 0 else -10 * math.log10(error / 4)}
    yield _overflowing(night)


def _decoded(night: Night, vae: Any, dtype: str) -> Entry:
    """Time a decoder alone; images in -1..1 are float32 on the CPU."""
    size, side = night.batch_size("sdxl"), night.params("sdxl").width // 8
    latents = torch.randn(size, 4, side, side, generator=torch.Generator().manual_seed(0))
    latents = latents.to(night.device, getattr(torch, dtype))
    with torch.inference_mode():
        vae.decode(latents)
        synchronize(night.device)
        started_at = time.perf_counter()
        images = vae.decode(latents).sample
        synchronize(night.device)
    seconds = time.perf_counter() - started_at
    finite = int(all_finite(images).sum())
    entry = {"dtype": dtype, "ms_an_image": 1000 * seconds / size, "finite": f"{finite} of {size}"}
    return entry | {"images": images.float().clamp(-1, 1).cpu()}


def _overflowing(night: Night) -> Entry:
    """Sample images that overflow in float16, which must be repaired in float32."""
    model = night.model("sdxl", "float16")
    vae, pipeline = model.pipeline.vae, model.pipeline
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(OVERFLOWING)
    speed = SpeedSpec(force_upcast=False)
    apply.apply_speed(apply.Parts(pipeline, type(pipeline), "float16", device=night.device), speed)
    size, params = night.batch_size("sdxl"), night.params("sdxl", 2)
    sampler = Sampler(replace(model, speed=speed), size)
    batches, seconds = [], []
    for _ in range(2):
        started_at = time.perf_counter()
        batches.append(sampler.sample(requests(size), params).settled())
        seconds.append(time.perf_counter() - started_at)
    night.forget()  # its decoder is spoilt
    return {
        "dtype": "float16, overflowing",
        "faults": sum(fault is not None for batch in batches for fault in batch.faults),
        "same_images": bool((batches[0].pixels == batches[1].pixels).all()),
        "first_batch_s": seconds[0],
        "next_batch_s": seconds[1],
    }


def streams(night: Night) -> Iterator[Entry]:
    """Prompts that are encoded beside the sampling, and the images that they make."""
    size, params = night.batch_size("sdxl"), night.params("sdxl")
    sampler = Sampler(night.model("sdxl", night.dtype), size)
    batches = [requests(size, first=100 * n) for n in range(3)]

    def prepared(number: int) -> None:
        sampler.prepare(batches[number], params)
        synchronize(night.device)

    def sampled(number: int) -> Any:
        return sampler.sample(batches[number], params).pixels

    prepared(0), sampled(0)
    seconds = {"encoding_s": _seconds(prepared, 1), "sampling_s": _seconds(sampled, 1)}
    ahead = threading.Thread(target=sampler.prepare, args=(batches[2], params))
    started_at = time.perf_counter()
    ahead.start()
    sampled(1)
    ahead.join()
    seconds["both_s"] = time.perf_counter() - started_at
    hidden = seconds["encoding_s"] + seconds["sampling_s"] - seconds["both_s"]
    alone = Sampler(night.model("sdxl", night.dtype), size).sample(batches[2], params).pixels
    yield seconds | {
        "hidden_share": hidden / seconds["encoding_s"],
        "same_images": bool((sampled(2) == alone).all()),
    }


def _seconds(work: Callable[[int], Any], number: int) -> float:
    started_at = time.perf_counter()
    work(number)
    return time.perf_counter() - started_at


@dataclass(frozen=True)
class Step:
    """A step of the night."""

    title: str
    share: float
    """Share of the whole time; later steps may use what is left over."""
    run: Callable[[Night], Iterator[Entry]]


STEPS: Mapping[str, Step] = {
    "places": Step("the same image at every place of a batch", 0.09, places),
    "sd15": Step("Stable Diffusion 1.5, 512^2", 0.12, rates("sd15", *OF_UNETS)),
    "sdxl": Step("SDXL, 1024^2", 0.30, rates("sdxl", *OF_UNETS)),
    "flux": Step("FLUX.1, 1024^2", 0.22, rates("flux", *OF_TRANSFORMERS)),
    "memory": Step("a batch that runs out of memory", 0.03, memory),
    "decoder": Step("SDXL's decoder by precision", 0.04, decoder),
    "streams": Step("encoding beside sampling", 0.04, streams),
    "sdxl-full": Step("SDXL, compiled whole", 0.08, rates("sdxl", WHOLE, FLOAT8_WHOLE)),
    "sd15-full": Step("Stable Diffusion 1.5, compiled whole", 0.04, rates("sd15", WHOLE)),
    "flux-full": Step("FLUX.1, compiled whole", 0.04, rates("flux", FLOAT8_WHOLE)),
}
"""Step -> what it is, in order of worth."""
