"""A sampler that is faster than its store waits for it, and holds few images in memory."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.fakes.fake_runs import FakeSampler, prepare, rows_of, work_on
from support.fakes.faulty_proxy import proxy
from support.plans import MODEL
from support.servers import Folder

from nightpress.diffusion_core.sampling.sampler import ImageRequest, SampledBatch, SamplingParams
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.shards import image_source
from nightpress.pipelines.shards.runner import ShardRunner
from nightpress.pipelines.shards.timeline import Activity
from nightpress.pipelines.storage import Store

BYTES_PER_S = 20e6
SIDE = 384
BATCH, SHARDS = 4, 3
PENDING_BATCHES = 3
"""That many batches fill the memory that pending images may take."""


class NoiseSampler(FakeSampler):
    """Makes incompressible images; notes how many were not stored when it was called."""

    def __init__(self, stored: "Counting") -> None:
        super().__init__()
        self._stored = stored
        self.most_held = 0

    def sample(
        self,
        requests: Sequence[ImageRequest],
        params: SamplingParams,
        batch_size: int | None = None,
    ) -> SampledBatch:
        self.seeds += [request.seed for request in requests]
        self.most_held = max(self.most_held, len(self.seeds) - self._stored.num_images)
        noise = [np.random.default_rng(r.seed).bytes(SIDE * SIDE * 3) for r in requests]
        pixels = np.frombuffer(b"".join(noise), np.uint8)
        return SampledBatch(pixels.reshape(-1, SIDE, SIDE, 3), (None,) * len(requests))


class Counting(Store):
    """Counts the stored images."""

    num_images = 0
    _counting = threading.Lock()

    def create(self, path: str, data: bytes) -> bool:
        created = super().create(path, data)
        if path.startswith("images/"):
            with self._counting:
                self.num_images += 1
        return created


def test_a_connection_of_20_mb_per_second_is_waited_for_and_images_do_not_pile_up(
    tmp_path: Path, bucket: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned_bytes = 3 * (MODEL.width or 0) * (MODEL.height or 0)
    monkeypatch.setattr(image_source, "PENDING_BYTES", PENDING_BATCHES * BATCH * planned_bytes)
    prompts = [f"picture {i}" for i in range(4 * BATCH * SHARDS)]
    _, record, rows = prepare(tmp_path, prompts, shard_size=4 * BATCH)
    shards = [rows_of(rows, number) for number in range(SHARDS)]
    with proxy(bucket.options["s3"]["endpoint_url"]) as line:
        store = Counting(bucket.url, line.options)
        line.upward.bytes_per_s = BYTES_PER_S
        sampler = NoiseSampler(store)
        runner = ShardRunner(store, record, sampler, "here:1")  # type: ignore[arg-type]
        with ThreadPoolExecutor(2) as threads:
            made = [threads.submit(_make, runner, n, shard) for n, shard in enumerate(shards)]
            for each in made:
                each.result(60)
        runner.close()
        carried = line.upward.num_bytes
    spent = runner.timeline.spent().seconds
    # Two shards run at once; each may have a current batch and batches that are being stored.
    assert sampler.most_held <= 2 * (PENDING_BATCHES + 1) * BATCH + BATCH
    assert spent[Activity.OUTPUT] > spent[Activity.BUSY]
    assert carried >= len(prompts) * SIDE * SIDE * 3  # each image was sent in full
    parts = [read_commit(Store(bucket.url, bucket.options), n) for n in range(SHARDS)]
    assert [part.column("status").to_pylist() for part in parts] == [["ok"] * 4 * BATCH] * SHARDS
    assert len(sampler.seeds) == len(set(sampler.seeds)) == len(prompts)


def _make(runner: ShardRunner, number: int, rows: pa.Table) -> None:
    list(runner.run(work_on(rows, number), rows))
