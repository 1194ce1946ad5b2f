"""Making the thumbnails that a run lacks, from the bytes of its stored images."""

import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.image_files.atlas import CELLS, Thumb, thumb_of_file
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.run_directory.commit import metadata_columns, read_commit
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import (
    Atlas,
    ImageBytes,
    Thumbs,
    store_atlas,
    store_index,
)
from nightpress.pipelines.storage import READ_THREADS, Store

COLUMNS = ("image_id", "status", "file", "member", "member_offset", "num_bytes", "sha256")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ThumbsMade:
    """How far making thumbnails is, after an atlas."""

    num_made: int
    """Thumbnails that were made so far."""
    num_missing: int
    """Images that have none before this began."""
    unreadable: Mapping[str, str]
    """Image id -> why its thumbnail could not be made."""
    atlas: Atlas | None = None
    """The atlas that was stored; None if none of its images could be read."""


def num_missing(thumbs: Thumbs, hashes: Mapping[str, str]) -> int:
    """How many images have no thumbnail.

    Args:
        thumbs: the thumbnails of the run.
        hashes: image id -> SHA-256 of its file, of the images that are ok.
    """
    return sum(image not in thumbs.places for image in hashes.items())


def make_missing(run: Run, thumbs: Thumbs) -> Generator[ThumbsMade, None, None]:
    """Make and store the thumbnails that are missing, and add them to `thumbs`.

    What is stored stays when this is interrupted. Memory holds the thumbnails of one atlas, and a
    few images.

    Raises:
        StoreError: the store failed.
    """
    missing, made, unreadable = num_missing(thumbs, run.hashes()), 0, dict[str, str]()
    if not missing:
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for shard in run.committed:
            atlases: list[Atlas] = []
            try:
                for atlas, failed in _shard_atlases(run.store, shard, thumbs, pool):
                    unreadable |= failed
                    if atlas is not None:
                        atlases.append(atlas)
                        made += len(atlas.cells)
                    yield ThumbsMade(made, missing, dict(unreadable), atlas)
            finally:  # also when no more are asked for
                if atlases:
                    store_index(run.store, shard, atlases)
                    thumbs.add(atlases)


def _shard_atlases(
    store: Store, shard: int, thumbs: Thumbs, pool: Executor
) -> Iterator[tuple[Atlas | None, dict[str, str]]]:
    """Store the atlases that a shard lacks; yields each, and why images are not in it."""
    part = metadata_columns(read_commit(store, shard), COLUMNS).to_pylist()
    wanted = [
        (number, row)
        for number, row in enumerate(part)
        if row["status"] == "ok" and (row["image_id"], row["sha256"]) not in thumbs.places
    ]
    made = map_ahead(pool, partial(_thumb, store), [row for _, row in wanted], READ_THREADS)
    # An image has the cell that its actor would have given it.
    for _, group in groupby(wanted, lambda each: each[0] // CELLS):
        numbered = list(group)
        results = [next(made) for _ in numbered]
        yield _atlas(store, shard, numbered, results)


def _atlas(
    store: Store,
    shard: int,
    numbered: Sequence[tuple[int, Row]],
    results: Sequence[Thumb | str],
) -> tuple[Atlas | None, dict[str, str]]:
    cells: dict[int, ImageBytes] = {}
    found: dict[int, Thumb] = {}
    failed: dict[str, str] = {}
    for (number, row), result in zip(numbered, results, strict=True):
        if isinstance(result, str):
            failed[row["image_id"]] = result
        else:
            cells[number % CELLS] = row["image_id"], row["sha256"]
            found[number % CELLS] = result
    return (store_atlas(store, shard, cells, found) if cells else None), failed


def _thumb(store: Store, row: Row) -> Thumb | str:
    """The thumbnail of an image, or why it has none."""
    try:
        data = image_bytes(store, row)
    except StoreMissing:
        return "the image is not in the store"
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        return "its bytes are not those that were stored"
    try:
        return thumb_of_file(data)
    except ValueError as error:
        return str(error)


def make_again(run: Run, atlas: Atlas) -> bytes | None:
    """Make a damaged atlas again, from those of its images that can still be read.

    The store then has it under the same name. Where other images or another version of Pillow make
    other bytes, it has another atlas instead of the damaged one.

    Returns:
        The bytes of the atlas; None if none of its images can be read.

    Raises:
        StoreError: the store failed.
    """
    shard = int(atlas.path.split("-")[1])
    rows = metadata_columns(read_commit(run.store, shard), COLUMNS).to_pylist()
    by_image = {(row["image_id"], row["sha256"]): row for row in rows if row["status"] == "ok"}
    cells = {cell: image for cell, image in atlas.cells.items() if image in by_image}
    with ThreadPoolExecutor(READ_THREADS) as pool:
        made = pool.map(lambda image: _thumb(run.store, by_image[image]), cells.values())
        thumbs = {
            cell: thumb
            for cell, thumb in zip(cells, made, strict=True)
            if not isinstance(thumb, str)
        }
    if not thumbs:
        return None
    run.store.delete(atlas.path)
    stored = store_atlas(run.store, shard, {cell: cells[cell] for cell in thumbs}, thumbs)
    if stored.path != atlas.path:
        store_index(run.store, shard, [stored])
    return run.store.read(stored.path)
