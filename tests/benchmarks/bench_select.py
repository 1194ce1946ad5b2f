"""How long `select` and `gates` take on a large run, and whether planted near-duplicates are found.

::

    python tests/benchmarks/bench_select.py --images 1000000
    python tests/benchmarks/bench_select.py --images 1000000 --only embeddings

The run has metadata and no images: made-up scores, and perceptual hashes at random or, with
`--layouts`, at random around so many layouts, as the pictures of so many templates have them.
Copies with a few bits changed are planted among them.

Embeddings are made up, too: directions of which a few are strong, as those of trained networks have
them. Among them are planted copies that are just alike enough, and as many that just are not.
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

from nightpress import gates, open_run, select  # noqa: E402
from nightpress.pipelines.run_directory.commit import commit_shard  # noqa: E402
from nightpress.pipelines.run_directory.embeddings import write_embeddings  # noqa: E402
from nightpress.pipelines.run_directory.selections.duplicates import (  # noqa: E402
    read_duplicates,
)
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
    parser.add_argument("--embedded", type=int, help="images with embeddings [default: --images]")
    parser.add_argument("--width", type=int, default=768, help="numbers of an embedding")
    parser.add_argument("--similarity", type=float, default=0.95)
    parser.add_argument("--only", choices=["hashes", "embeddings"])
    arguments = parser.parse_args()
    if arguments.only != "embeddings":
        by_hashes(arguments)
    if arguments.only != "hashes":
        by_embeddings(arguments)


def by_hashes(arguments: argparse.Namespace) -> None:
    """Select by scores and hashes, and try gates."""
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


def by_embeddings(arguments: argparse.Namespace) -> None:
    """Select by embeddings; prints how many of the planted near-duplicates are found."""
    number = arguments.embedded or arguments.images
    with tempfile.TemporaryDirectory() as folder:
        url = make(folder, made_hashes(number, 0, 0), arguments.shard_size)
        vectors, planted = made_vectors(
            number, arguments.width, arguments.planted, arguments.similarity
        )
        for shard, start in enumerate(range(0, number, arguments.shard_size)):
            some = range(start, min(start + arguments.shard_size, number))
            content = {f"{each:064x}": vectors[each].astype("<f2").tobytes() for each in some}
            write_embeddings(open_run(url).store, shard, "look", "f" * 64, content)
        del vectors
        how = {"dedup": "embeddings", "similarity": arguments.similarity}
        selection = timed(
            f"select --dedup embeddings, {number:,} of {arguments.width} numbers",
            lambda: select(url, "alike", **how),
        )
        listed = read_duplicates(open_run(url).store, selection.duplicates).to_pydict()
    found = {*zip(listed["duplicate_of"], listed["image_id"], strict=True)}
    wanted = {(image_id(one), image_id(other)) for one, other in planted.tolist()}
    right = len(found & wanted)
    print(f"  {len(wanted):,} planted: recall {right / max(1, len(wanted)):.4f}, ", end="")
    print(f"precision {right / max(1, len(found)):.4f}")


STRONG = 64
"""Directions of made-up embeddings that are stronger than the rest."""


def made_vectors(
    number: int, width: int, planted: int, similarity: float
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """(n, d) embeddings of length 1, and (m, 2) which are near-duplicates: original and copy.

    The last `planted` are copies that are alike enough; as many before them just are not.
    """
    rng = np.random.default_rng(2)
    strength = np.ones(width, np.float32)
    strength[:STRONG] = np.linspace(10, 3, min(STRONG, width))
    vectors = np.empty((number, width), np.float16)
    for start in range(0, number, 10_000):
        some = vectors[start : start + 10_000]
        drawn = rng.standard_normal(some.shape, np.float32) * strength
        drawn[:, 0] += 20  # as with trained networks, images have much in common
        some[:] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    originals = rng.choice(number - 2 * planted, 2 * planted, replace=False)
    copies = np.arange(number - 2 * planted, number)
    least = np.where(np.arange(2 * planted) < planted, similarity - 0.02, similarity + 0.001)
    most = np.where(np.arange(2 * planted) < planted, similarity - 0.001, 0.999)
    cosine = rng.uniform(least, most)[:, None]
    base = vectors[originals].astype(np.float64)
    aside = rng.standard_normal(base.shape)
    aside -= np.sum(aside * base, axis=1, keepdims=True) * base
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    vectors[copies] = base * cosine + aside * np.sqrt(1 - cosine**2)
    return vectors, np.stack([originals, copies], axis=1)[planted:]


def image_id(number: int) -> str:
    """The id of an image of the run."""
    return f"{number // 4:08d}_{number % 4:02d}"


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
        "image_id": [image_id(number) for number in numbers.tolist()],
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
