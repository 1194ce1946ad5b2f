"""Images of runs that look like a file: it may be a copy of one, compressed again or resized."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.image_files.encoding import decoded
from nightpress.pipelines.run_directory.origin import Row, row_of
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.scoring.near_duplicates import HashArray, distances
from nightpress.pipelines.scoring.perceptual_hash import HashDistance, perceptual_hash

MOST_BITS = 10
"""Bits of the luminance hash by which a copy may differ.

Copies of the built-in model's pictures at half the size, as JPEG of quality 60 or as screenshots of
other sizes differ in up to 4 bits and 1 level, and with their edges cut off by 2% in up to 10 bits
and 2 levels. Of 2,211 pairs of its different pictures, none were within 12 bits and 3 levels.
"""

MOST_LEVELS = 2
"""Levels by which the colour of a cell may differ in a copy."""

MOST_LISTED = 20
"""So many of the nearest images are named."""


@dataclass(frozen=True)
class Lookalike:
    """An image that looks like a file, which is no proof that the file is a copy of it."""

    url: str
    """URL of the run directory."""
    apart: HashDistance
    row: Row
    """The image's metadata."""


@dataclass(frozen=True)
class Lookalikes:
    """The images of some runs that look like a file."""

    nearest: tuple[Lookalike, ...] = ()
    """At most `MOST_LISTED`, the nearest first."""
    num_found: int = 0
    num_without_hash: int = 0
    """Images that could not be compared, because an older version made them."""


NO_LOOKALIKES = Lookalikes()


class _Found(NamedTuple):
    """An image that looks like a file, in the order in which they are listed."""

    bits: int
    levels: int
    run: int
    image_id: str


def find_lookalikes(runs: Sequence[Run], data: bytes) -> Lookalikes:
    """The images that look like a file, by their perceptual hashes; no image is read.

    Args:
        runs: finished or not.
        data: an image file.

    Raises:
        ValueError: the file is no intact image.
        StoreError: a run cannot be read.
    """
    with decoded(data) as image:
        digits = perceptual_hash(np.asarray(image.convert("RGB")))
    nearest, num_found, num_without_hash = list[_Found](), 0, 0
    for number, run in enumerate(runs):
        for table in _hashes(run):
            known = table.filter(table.column("perceptual_hash").is_valid())
            num_without_hash += len(table) - len(known)
            found = _near(run, number, known, digits)
            num_found += len(found)
            nearest = nsmallest(MOST_LISTED, nearest + found)
    return Lookalikes(tuple(_with_rows(runs, nearest)), num_found, num_without_hash)


def _hashes(run: Run) -> Iterator[pa.Table]:
    """The ids and perceptual hashes of the stored images, some at a time."""
    names, is_ok = ["image_id", "perceptual_hash"], pc.field("status") == "ok"
    with run.reading():
        for batch in run.metadata.to_batches(columns=names, filter=is_ok):
            yield pa.Table.from_batches([batch])


def _near(run: Run, number: int, table: pa.Table, digits: str) -> list[_Found]:
    try:
        others = HashArray.of(table.column("perceptual_hash").to_pylist())
    except ValueError as error:  # another program has written what is no perceptual hash
        raise Damaged(f"{run.url}/metadata: {error}") from error
    bits, levels = distances(HashArray.of([digits]), others)
    near = np.flatnonzero((bits <= MOST_BITS) & (levels <= MOST_LEVELS))
    ids = table.column("image_id").take(pa.array(near)).to_pylist()
    pairs = zip(bits[near].tolist(), levels[near].tolist(), ids, strict=True)
    return [_Found(bits, levels, number, image_id) for bits, levels, image_id in pairs]


def _with_rows(runs: Sequence[Run], nearest: Sequence[_Found]) -> Iterator[Lookalike]:
    """The metadata of the nearest images, in their order."""
    for each in nearest:
        run = runs[each.run]
        row = row_of(run, each.image_id)
        if row is not None:
            yield Lookalike(run.url, HashDistance(each.bits, each.levels), row)
