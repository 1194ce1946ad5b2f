"""Runs of thousands of drawn pictures, without a model: a night's work, made in a minute."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from support import review_rows
from support.made_runs import BEGIN, FACTS, commit, record_of

from nightpress.pipelines import Run, open_run
from nightpress.pipelines.image_files.atlas import CELLS, thumb_of_pixels
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.planning import PlanLayout, PlanPart
from nightpress.pipelines.records import ImageFacts, ImageRecord
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.run_directory.thumbs import store_atlas, store_index
from nightpress.pipelines.storage import Store

T = TypeVar("T")

SHARD_SIZE = 256
VARIANTS = 4
DISTINCT = 192
"""Drawn pictures; their files differ all the same, since each holds its facts."""


def large_run(
    output: str, num_images: int, *, side: int = 192, thumbs: bool = True, **job: Any
) -> Run:
    """A finished run of shoes, four variants of a row.

    Args:
        output: the folder that holds the run.
        num_images: how many images.
        side: the longer side of an image, in pixels.
        thumbs: whether the run has its thumbnails, as with `review.thumbs`.
        job: keys of its job file.
    """
    num_shards = -(-num_images // SHARD_SIZE)
    part = PlanPart("plan/part-00000.parquet", 0, 0, num_images, num_images, 0, num_shards)
    layout = PlanLayout(parts=(part,), shard_size=SHARD_SIZE, batches=(), files=())
    record = replace(record_of(output, **job), layout=layout)
    store = Store(record.spec.url, record.spec.storage)
    store.create(RUN_FILE, record.to_json())
    run = open_run(store.url, storage=record.spec.storage)
    with ThreadPoolExecutor(8) as pool:
        for shard, numbers in enumerate(_groups(range(num_images), SHARD_SIZE)):
            records = list(pool.map(lambda n: _made(run, n, side), numbers))
            commit(run, shard, records, **_carried(numbers))
            if thumbs:
                store_index(store, shard, list(_atlases(store, shard, records, side)))
    return open_run(store.url, storage=record.spec.storage)


def facts_of(number: int, side: int) -> ImageFacts:
    """The facts of an image of the run."""
    row, variant = divmod(number, VARIANTS)
    width, height = review_rows.picture(number % DISTINCT, side).size
    return replace(
        FACTS,
        image_id=f"{row:08d}_{variant:02d}",
        id=f"{row:08d}",
        variant=variant,
        prompt=review_rows.prompt_of(row),
        seed=number,
        width=width,
        height=height,
        num_inference_steps=(20, 30)[number // 8 % 2],
        guidance_scale=round(2 + row % 45 / 10, 1),
    )


def _made(run: Run, number: int, side: int) -> ImageRecord:
    facts = facts_of(number, side)
    data = encode(np.asarray(review_rows.picture(number % DISTINCT, side)), facts, ImagesSpec())
    file = f"images/{facts.image_id}.png"
    run.store.create(file, data)
    return ImageRecord(
        facts=facts,
        status="ok",
        attempts=1,
        worker="node-1",
        started_at=BEGIN + number * 1.0,
        file=file,
        sha256=hashlib.sha256(data).hexdigest(),
        num_bytes=len(data),
        sampling_s=1.0,
    )


def _carried(numbers: Sequence[int]) -> dict[str, pa.Array]:
    rows = [number // VARIANTS for number in numbers]
    products, scenes = review_rows.PRODUCTS, review_rows.SCENES
    return {
        "product": pa.array([products[row // 40 % len(products)] for row in rows]),
        "scene": pa.array([scenes[row % len(scenes)] for row in rows]),
        "sku": pa.array([f"sku-{row % 2000:04d}" for row in rows]),
    }


def _atlases(store: Store, shard: int, records: Sequence[ImageRecord], side: int) -> Iterator[Any]:
    for group in _groups(records, CELLS):
        cells = {n: (each.facts.image_id, str(each.sha256)) for n, each in enumerate(group)}
        pictures = (review_rows.picture(each.facts.seed % DISTINCT, side) for each in group)
        made = {n: thumb_of_pixels(np.asarray(each)) for n, each in enumerate(pictures)}
        yield store_atlas(store, shard, cells, made)


def _groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[first : first + size] for first in range(0, len(items), size))
