"""What the review page costs outside the browser: rows, marks and thumbnails.

    python tests/benchmarks/bench_review.py --images 6000 --images 100000 --marks 3000

Rows: seconds, bytes and peak memory until `/api/rows` is ready, of a run whose commits are real and
whose images are not; one process for each size. Marks: seconds to read so many objects one by one,
and from `review/marks.parquet`. Thumbnails: CPU milliseconds for an image in an actor, beside those
of its encoding, and beside seconds of sampling the share of a run's time.
"""

import argparse
import multiprocessing
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.made_runs import FACTS, begin, made

from nightpress import open_run
from nightpress.jobs.reviews.options import ReviewOptions
from nightpress.jobs.reviews.reviewed_run import ReviewedRun
from nightpress.pipelines.image_files.atlas import CELLS, encode_atlas, thumb_of_pixels
from nightpress.pipelines.image_files.encoding import encode
from nightpress.pipelines.job.images_section import ImagesSpec
from nightpress.pipelines.run_directory.commit import commit_shard, metadata_part
from nightpress.pipelines.run_directory.marks import Mark, MarksObject, store_marks
from nightpress.pipelines.run_directory.marks_merge import MergedMarks
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import Atlas, store_index
from nightpress.pipelines.storage import Store

SHARD_SIZE = 256


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, action="append")
    parser.add_argument("--marks", type=int, default=3_000)
    parser.add_argument("--sampling-s", type=float, default=2.0)
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    for number in arguments.images or [6_000, 100_000]:
        with tempfile.TemporaryDirectory() as folder:
            url = make_run(folder, number)
            process = spawn.Process(target=measure_rows, args=(url, number))
            process.start()
            process.join()
    with tempfile.TemporaryDirectory() as folder:
        measure_marks(Store(folder), arguments.marks)
    for side in (512, 1024):
        measure_thumbs(side, arguments.sampling_s)


def make_run(folder: str, num_images: int) -> str:
    """A packed run whose packs are empty, with 20 columns to filter by; returns its URL."""
    run = begin(folder)
    row = metadata_part([made(run, 0)], pa.table({"image_id": [""]}))
    for shard, start in enumerate(range(0, num_images, SHARD_SIZE)):
        numbers = range(start, min(num_images, start + SHARD_SIZE))
        make_shard(run, row, shard, numbers)
    return run.url


def make_shard(run: Run, row: pa.Table, shard: int, numbers: range) -> None:
    """Commit a shard of copies of a row, and an index of thumbnails."""
    count, pack = len(numbers), f"images/shard-{shard:05d}-{'0' * 16}.tar"
    ids, hashes = [f"{n:08d}_00" for n in numbers], [secrets.token_hex(32) for _ in numbers]
    columns: dict[str, Any] = {
        "image_id": ids,
        "id": [f"{n // 4:08d}" for n in numbers],
        "sha256": hashes,
        "file": [pack] * count,
        "prompt": [f"a shoe of kind {n // 4 % 400} on a plinth, studio light" for n in numbers],
    }
    part = pa.concat_tables([row] * count)
    for name, values in columns.items():
        place = part.schema.get_field_index(name)
        part = part.set_column(place, part.schema.field(name), pa.array(values))
    for column in range(20):
        values = [f"value {(n * 7 + column) % (column * 10 + 2)}" for n in numbers]
        part = part.append_column(f"axis_{column:02d}", pa.array(values))
    run.store.create(pack, b"")
    commit_shard(run.store, shard, part)
    images = list(zip(ids, hashes, strict=True))
    atlases = []
    for start in range(0, count, CELLS):
        path = f"thumbs/shard-{shard:05d}-{start:032x}.webp"
        run.store.create(path, b"0")
        atlases.append(Atlas(path, 1, dict(enumerate(images[start : start + CELLS]))))
    store_index(run.store, shard, atlases)


def measure_rows(url: str, num_images: int) -> None:
    """Print what the rows of a run cost this process."""
    run = open_run(url)
    before, clock = peak_bytes(), time.perf_counter()
    body = ReviewedRun(run, ReviewOptions("anna", read_only=True), print).rows_body()
    took_s, grown = time.perf_counter() - clock, peak_bytes() - before
    print(
        f"{num_images:,} images: rows in {took_s:.1f} s, {len(body) / 1e6:.1f} MB compressed, "
        f"{grown / 1e6:.0f} MB of memory more"
    )


def measure_marks(store: Store, num_objects: int) -> None:
    """Print what reading objects with one mark each takes."""
    for n in range(num_objects):
        mark = Mark(f"{n}_00", f"{n:064x}", "flag", "pick", n + 1)
        store_marks(store, MarksObject("a" * 64, "anna", "tab", n, (mark,)))
    merged = MergedMarks(store, "a" * 64)
    one_by_one = seconds(merged.refresh)
    merged.write({})
    together = seconds(MergedMarks(store, "a" * 64).refresh)
    print(
        f"{num_objects:,} objects with marks in a folder: {one_by_one:.2f} s one by one, "
        f"{together:.2f} s from marks.parquet"
    )


def measure_thumbs(side: int, sampling_s: float) -> None:
    """Print the CPU time of a thumbnail and of its share of an atlas."""
    small = np.random.default_rng(7).integers(0, 255, (side // 16, side // 16, 3), np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))
    facts = replace(FACTS, image_id="0_00", width=side, height=side)
    thumb = thumb_of_pixels(pixels)
    made_ms = 1e3 * cpu_seconds(lambda: thumb_of_pixels(pixels), 20)
    atlas_ms = 1e3 * cpu_seconds(lambda: encode_atlas(dict.fromkeys(range(CELLS), thumb)), 5)
    png_ms = 1e3 * cpu_seconds(lambda: encode(pixels, facts, ImagesSpec()), 5)
    total_ms = made_ms + atlas_ms / CELLS
    share = total_ms / 1e3 / sampling_s
    print(
        f"{side} x {side}: thumbnail {made_ms:.1f} ms, its share of an atlas "
        f"{atlas_ms / CELLS:.1f} ms, the PNG file {png_ms:.1f} ms of CPU; "
        f"{share:.2%} of {sampling_s:g} s of sampling, in threads beside it"
    )


def seconds(work: Callable[[], object]) -> float:
    """How long something takes."""
    clock = time.perf_counter()
    work()
    return time.perf_counter() - clock


def cpu_seconds(work: Callable[[], object], times: int) -> float:
    """CPU seconds of one call, on average."""
    clock = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - clock) / times


def peak_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
