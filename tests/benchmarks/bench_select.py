"""How long `select` and `gates` take on a large run, and whether planted near-duplicates are found.

::

    python tests/benchmarks/bench_select.py --images 1000000

The run has metadata and no images: made-up scores, and perceptual hashes at random or, with
`--layouts`, at random around so many layouts, as the pictures of so many templates have them.
Copies with a few bits changed are planted among them.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from support.scored_runs import Scored, begin, part  # noqa: E402

from nightpress import gates, select  # noqa: E402
from nightpress.pipelines.run_directory.commit import commit_shard  # noqa: E402
from nightpress.pipelines.scoring.near_duplicates import MOST_BITS  # noqa: E402

MEASURED = ("clip", "sharpness", "exposure", "clipping", "contrast")
LAYOUT_BITS = 14
"""Bits in which pictures of one layout differ from it."""


def main() -> None:
    """Make the run, select from it, try gates, and print seconds and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=10_000)
    parser.add_argument("--planted", type=int, default=1_000)
    parser.add_argument("--layouts", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hashes = made_hashes(arguments.images, arguments.planted, arguments.layouts)
        url = make(folder, hashes, arguments.shard_size)
        selection = timed(
            "select --by clip --top 1 --per id",
            lambda: select(url, "first", by="clip", top=1, per="id"),
        )
        print(f"  {selection.num_chosen:,} of {selection.num_committed:,} chosen")
        selection = timed(
            "select --dedup near", lambda: select(url, "near", by="clip", dedup="near")
        )
        found = sum(drop.num_images for drop in selection.drops)
        print(f"  {found:,} near-duplicates found, {arguments.planted:,} planted")
        tried = ["sharpness > 40", "clip > 0.3"]
        timed("gates", lambda: gates(url, require=tried, best_of=4, rank_by="clip", max_draws=32))


def made_hashes(num_images: int, planted: int, layouts: int) -> NDArray[np.uint8]:
    """(n, 32) hashes; the last ones are copies of others with a few bits changed."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (num_images, 32), np.uint8)
    if layouts:
        near = rng.integers(0, 2**64, layouts, np.uint64)[rng.integers(0, layouts, num_images)]
        hashes[:, :8] = flipped(near, LAYOUT_BITS, rng).view(np.uint8).reshape(-1, 8)
    originals = rng.choice(num_images - planted, planted, replace=False)
    copies = hashes[originals].copy()
    bits = np.ascontiguousarray(copies[:, :8]).view(np.uint64).ravel()
    copies[:, :8] = flipped(bits, MOST_BITS, rng).view(np.uint8).reshape(-1, 8)
    hashes[num_images - planted :] = copies
    return hashes


def flipped(bits: NDArray[np.uint64], most: int, rng: np.random.Generator) -> NDArray[np.uint64]:
    """Each one with up to `most` bits changed."""
    for _ in range(most):
        bits = bits ^ (np.uint64(1) << rng.integers(0, 64, len(bits)).astype(np.uint64))
    return bits


def make(folder: str, hashes: NDArray[np.uint8], shard_size: int) -> str:
    """A run whose images have these hashes, four a row; returns its URL."""
    run = begin(folder, len(hashes), shard_size)
    template = part([Scored("a", scores=dict.fromkeys(MEASURED, 0.5))])
    rng = np.random.default_rng(1)
    for shard, first in enumerate(range(0, len(hashes), shard_size)):
        numbers = np.arange(first, min(first + shard_size, len(hashes)))
        commit_shard(run.store, shard, filled(template, numbers, hashes[numbers], rng))
    return run.url


def filled(
    template: pa.Table, numbers: NDArray[np.int64], hashes: NDArray[np.uint8], rng: Any
) -> pa.Table:
    """The template's row for each number, with its own id, hashes and scores."""
    table = template.take(np.zeros(len(numbers), np.int64))
    offsets = np.arange(0, len(numbers) * len(MEASURED) + 1, len(MEASURED), np.int32)
    names = pa.array(list(MEASURED) * len(numbers))
    values = rng.random(len(names)) * np.tile([0.5, 100, 1, 0.1, 0.4], len(numbers))
    columns = {
        "image_id": [f"{number // 4:08d}_{number % 4:02d}" for number in numbers.tolist()],
        "id": [f"{number // 4:08d}" for number in numbers.tolist()],
        "sha256": [f"{number:064x}" for number in numbers.tolist()],
        "category": [f"c{number % 17}" for number in numbers.tolist()],
        "scores": pa.MapArray.from_arrays(offsets, names, pa.array(values)),
        "perceptual_hash": [bytes(each).hex() for each in hashes],
    }
    for name, column in columns.items():
        place, field = table.schema.get_field_index(name), table.schema.field(name)
        table = table.set_column(place, field, pa.array(column, field.type))
    return table


def timed(what: str, work: Callable[[], Any]) -> Any:
    """What the work returns; prints its seconds and the greatest memory so far."""
    began, cpu = time.perf_counter(), time.process_time()
    result = work()
    took, busy = time.perf_counter() - began, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {took:.1f} s, {busy:.1f} s of CPU, at most {memory:,.0f} MB", flush=True)
    return result


if __name__ == "__main__":
    main()
