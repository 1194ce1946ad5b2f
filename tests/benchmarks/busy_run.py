"""A mixed manifest, made by one worker as an actor makes it, on a simulated accelerator."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import busy_model
import numpy as np
import torch
from busy_costs import Costs
from simulated_accelerator import Accelerator, OnAccelerator, copied_to_host, numbers_read

from nightpress.diffusion_core.sampling import no_sync
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.sampling.sampler import Sampler
from nightpress.jobs.dispatch.actor import MAX_SPANS, SHARDS_AT_ONCE, _needs_ack
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.files import ModelFiles
from nightpress.pipelines.planning import check, read_shard, write_plan
from nightpress.pipelines.run_directory.record import RunRecord, new_record
from nightpress.pipelines.shards.events import ShardDone
from nightpress.pipelines.shards.overlap import TicketLock, handed_off
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.timeline import Span, Timeline
from nightpress.pipelines.shards.work import ShardWork
from nightpress.pipelines.storage import Store

SIZES = ((1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216), (1344, 768))
"""Six of the sizes that SDXL was trained with, nearest to a square, of about 1024^2 pixels each."""

SAMPLERS = ("euler", "dpmsolver++", "ddim")
LORAS = (None, "a", "b")
MODES = ("text", "image", "inpaint", "text+control")
STRENGTH = 0.5
"""Of images made from pictures, which take twice the steps so that all take equally many."""

NUM_PHOTOS = 4


@dataclass(frozen=True)
class Setup:
    """What is run."""

    images: int
    batch_size: int
    images_per_s: float
    """Of 1024 x 1024, what the accelerator makes."""
    batches_alike: int = 2
    """Batches of the same size, sampler, LoRA and mode."""
    shard_size: int | str = "auto"
    latency_s: float = 0.0
    """Seconds by which each request to the store takes longer."""
    plentiful_cores: bool = False
    """Whether the CPU work on an image sleeps instead, as if there were a core for each image."""
    sizes: tuple[tuple[int, int], ...] = SIZES
    shallow: bool = False
    """Whether the networks have a tenth of SDXL's layers."""


@dataclass(frozen=True)
class Sampled:
    """One batch; in seconds of `time.perf_counter`."""

    params: SamplingParams
    shard: int
    began: float
    ended: float


@dataclass
class Outcome:
    """What was measured."""

    batches: list[Sampled] = field(default_factory=list)
    accelerator: Accelerator = field(default_factory=Accelerator)
    num_operations: int = 0
    costs: Costs = field(default_factory=Costs)
    num_ok: int = 0
    spans: tuple[Span, ...] = ()
    """The spans of the timeline, in seconds of `time.perf_counter`."""
    cpu_s: float = 0.0
    wall_s: float = 0.0


class SlowStore(Store):
    """A store whose requests take longer."""

    latency_s = 0.0

    def create(self, path: str, data: bytes) -> bool:
        time.sleep(self.latency_s)
        return super().create(path, data)

    def put(self, path: str, data: bytes) -> None:
        time.sleep(self.latency_s)
        super().put(path, data)

    def read_if_any(self, path: str) -> bytes | None:
        time.sleep(self.latency_s)
        return super().read_if_any(path)


def manifest(setup: Setup) -> Iterator[dict[str, Any]]:
    """Rows that go through sizes, samplers, LoRAs and modes so that all of them occur early."""
    alike = setup.batch_size * setup.batches_alike
    for row in range(setup.images):
        kind = row // alike
        width, height = setup.sizes[kind % len(setup.sizes)]
        mode = MODES[kind % len(MODES)]
        yield {
            "id": f"r{row:06}",
            "prompt": f"a photograph of street number {row}",
            "negative_prompt": "blurry",
            "width": width,
            "height": height,
            "scheduler": SAMPLERS[(kind // 2) % len(SAMPLERS)],
            "lora": LORAS[(kind // 3) % len(LORAS)],
            "num_inference_steps": busy_model.STEPS * (2 if mode in ("image", "inpaint") else 1),
            **_pictures(mode, row),
        }


def _pictures(mode: str, row: int) -> dict[str, Any]:
    photo = f"photo-{row % NUM_PHOTOS}.jpg"
    match mode:
        case "image":
            return {"init_image": photo, "strength": STRENGTH}
        case "inpaint":
            return {"init_image": photo, "mask_image": "mask.png", "strength": STRENGTH}
        case "text+control":
            return {"control_image": photo}
    return {}


def job(folder: Path, setup: Setup, model: dict[str, Any], place: Any = None) -> RunSpec:
    """The job over the manifest, whose pictures are written into the folder.

    Args:
        place: URL and options of the store; the folder by default.
    """
    busy_model.write_pictures(folder, setup.sizes[0], range(NUM_PHOTOS))
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(_filled(row)) + "\n" for row in manifest(setup)))
    url, options = place or (str(folder / "runs"), {})
    return RunSpec.from_dict(
        {
            "name": "mixed",
            "manifest": str(rows),
            "output": url,
            "storage": options,
            "model": model,
            "sampling": {"guidance_scale": 5.0},
            "review": {"thumbs": True},
            "inputs": {"root": str(folder), "check": "none"},
            "batch": {"size": setup.batch_size, "shard_size": setup.shard_size},
        }
    )


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def run(folder: Path, setup: Setup, place: Any = None) -> Outcome:
    """Plan the manifest and make all of its shards, two side by side."""
    spec = job(folder, setup, busy_model.save(folder, setup.shallow), place)
    info = ModelFiles.locate(spec.model, {}).describe(spec.model)
    layout = check(spec, info, setup.batch_size)
    record = new_record(spec, info, "cuda", setup.batch_size, layout)
    store = SlowStore(spec.url, spec.storage)
    list(write_plan(spec, info, layout, store))
    store.latency_s = setup.latency_s
    outcome = Outcome()
    pixels = {size: busy_model.photographs(*size, setup.batch_size) for size in setup.sizes}
    with simulated(outcome, pixels):
        loaded = busy_model.load(spec.model, outcome.accelerator, setup.images_per_s)
        sampler = Watched(loaded, setup.batch_size, outcome)
        with outcome.costs.measured(setup.plentiful_cores):
            _make_shards(store, record, sampler, outcome)
    return outcome


@contextmanager
def simulated(outcome: Outcome, pixels: dict[tuple[int, int], np.ndarray]) -> Iterator[None]:
    """Within the block, the device `meta` is the accelerator of the outcome."""

    def values(tensor: torch.Tensor) -> tuple[torch.Tensor, bool]:
        if tensor.dtype == torch.uint8:
            number, height, width, _ = tensor.shape
            return torch.from_numpy(pixels[width, height][:number]), True
        if tensor.dtype == torch.bool:  # finite, blank, still, overflowed
            facts = torch.tensor([True, False, False, False])
            return facts[:, None].expand(tensor.shape), True
        return torch.zeros(tensor.shape, dtype=tensor.dtype), False

    def upload(tensor: torch.Tensor, device: Any) -> torch.Tensor:
        return tensor.to(device or "cpu", non_blocking=True)

    with ExitStack() as stack:
        stack.enter_context(copied_to_host(outcome.accelerator, values))
        stack.enter_context(numbers_read(outcome.accelerator))
        # On CUDA it copies from page-locked memory, and nothing waits.
        stack.enter_context(patch.object(no_sync, "upload", upload))
        yield


class Watched(Sampler):
    """The sampler, which notes when it samples; waits for the accelerator where a GPU would."""

    def __init__(self, loaded: Any, batch_size: int, outcome: Outcome) -> None:
        super().__init__(loaded, batch_size)
        self.lock = TicketLock()
        self._outcome = outcome
        self._mode = OnAccelerator(outcome.accelerator)

    def sample(self, requests: Any, params: Any, batch_size: Any = None) -> Any:
        began = time.perf_counter()
        made = super().sample(requests, params, batch_size)
        shard = self.lock.serving
        self._outcome.batches.append(Sampled(params, shard, began, time.perf_counter()))
        self._outcome.costs.sampled(len(requests))
        self._outcome.accelerator.batch += 1
        self._outcome.num_operations = self._mode.num_operations
        return made

    def _sample_padded(self, requests: Any, params: Any, batch_size: int) -> Any:
        with self._mode:
            return super()._sample_padded(requests, params, batch_size)


def _make_shards(store: Store, record: RunRecord, sampler: Watched, outcome: Outcome) -> None:
    """Make all shards, as an actor and its driver do it."""
    timeline = Timeline("here:1", MAX_SPANS, clock=time.perf_counter)
    runner = ShardRunner(store, record, sampler, "here:1", timeline=timeline, lock=sampler.lock)

    def make(shard: int) -> None:
        with runner.accelerator_lock.ticket(shard) as ticket:
            rows = read_shard(store, record.layout, shard)
            work = ShardWork(shard, start=0, stop=len(rows))
            for event in handed_off(runner.run(work, rows, ticket), _needs_ack):
                if isinstance(event, ShardDone):
                    outcome.num_ok += event.num_ok

    cpu, clock = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as actor:
        for made in [actor.submit(make, shard) for shard in range(record.layout.num_shards)]:
            made.result()
    outcome.cpu_s, outcome.wall_s = time.process_time() - cpu, time.perf_counter() - clock
    outcome.spans = timeline.spent().spans
    runner.close()
