"""Runs of clips without a model: frames that move are a function of the seeds of a walk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from support.fakes.fake_runs import FakeSampler, make_shard, work_on
from support.plans import MODEL, job, write

from nightpress.diffusion_core.sampling.sampler import (
    Fault,
    ImageRequest,
    SampledBatch,
    SamplingParams,
)
from nightpress.pipelines.planning import check, plan_part, write_plan
from nightpress.pipelines.run_directory.reader import Run, open_run
from nightpress.pipelines.run_directory.record import RUN_FILE, RunRecord, new_record
from nightpress.pipelines.storage import Store

WALKS: tuple[Mapping[str, Any], ...] = (
    {"prompt": "a cat", "seed": 1, "to_seed": 100, "num_frames": 5},
    {"prompt": "a dog", "seed": 2, "to_prompt": "a bear", "num_frames": 3, "fps": 12},
    {"prompt": "a fox", "seed": 3, "to_seed": 4, "to_prompt": "an owl", "num_frames": 5},
)
SIZE = {"width": 32, "height": 16}


class ClipSampler(FakeSampler):
    """Fills frames with a colour that moves away from the one of the seed."""

    def sample(
        self,
        requests: Sequence[ImageRequest],
        params: SamplingParams,
        batch_size: int | None = None,
    ) -> SampledBatch:
        stills = super().sample(requests, params, batch_size)
        if params.num_frames is None:
            return stills
        frames = np.repeat(stills.pixels[:, None], params.num_frames, axis=1)
        for clip, request in zip(frames, requests, strict=True):
            end = 0 if "still" in request.prompt else (request.to_seed or len(request.prompt))
            for number, frame in enumerate(clip):
                frame[..., 2] = (number * (1 + end)) % 256 if end else 7
                frame[: 1 + number % len(frame), :2] = 255
        faults = [
            fault or (Fault.STILL if "still" in request.prompt else None)
            for fault, request in zip(stills.faults, requests, strict=True)
        ]
        return SampledBatch(frames, tuple(faults))


def clip_run(
    folder: Path,
    rows: Sequence[Mapping[str, Any]] = WALKS,
    images: Mapping[str, Any] | None = None,
    **others: Any,
) -> tuple[Store, RunRecord, pa.Table]:
    """Plan a run of clips, with an empty store: store, record, the part of its plan."""
    manifest = write(folder / "walks.jsonl", rows)
    values = {"sampling": SIZE, "batch": {"size": 4, "shard_size": 100}, **others}
    spec = job(folder, manifest, images={"format": "mp4"} | dict(images or {}), **values)
    layout = check(spec, MODEL, 4)
    record = new_record(spec, MODEL, "cpu", 4, layout)
    return Store(spec.url), record, plan_part(spec, MODEL, layout, 0)


def made_clips(folder: Path, *args: Any, **others: Any) -> Run:
    """A finished run of clips."""
    store, record, rows = clip_run(folder, *args, **others)
    store.create(RUN_FILE, record.to_json())
    list(write_plan(record.spec, MODEL, record.layout, store))
    make_shard(store, record, rows, ClipSampler(), work_on(rows))
    return open_run(record.spec.url)
