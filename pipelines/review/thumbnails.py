"""Making the thumbnails and strips that a run lacks, from the bytes of its stored images."""

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import pyarrow.dataset as ds

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.image_files.atlas import (
    CELLS,
    STRIPS,
    Thumb,
    strip_of_file,
    thumb_of_file,
)
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.run_directory.clip_checks import has_clips
from nightpress.pipelines.run_directory.commit import metadata_columns, read_commit
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import (
    Atlas,
    ImageBytes,
    StripOf,
    Thumbs,
    store_atlas,
    store_index,
    store_strips,
)
from nightpress.pipelines.storage import READ_THREADS, Store

COLUMNS = (
    "image_id",
    "status",
    "file",
    "member",
    "member_offset",
    "num_bytes",
    "sha256",
    "num_frames",
)

Row = Mapping[str, Any]

Made = TypeVar("Made")


@dataclass(frozen=True)
class ThumbsMade:
    """How far making thumbnails is, after an atlas."""

    num_made: int
    """Thumbnails and strips that were made so far."""
    num_missing: int
    """Thumbnails and strips that were missing before this began."""
    unreadable: Mapping[str, str]
    """Image id -> why its thumbnail or strip could not be made."""
    atlas: Atlas | None = None
    """The atlas that was stored; None if none of its images could be read."""
    num_failed: int = 0
    """Thumbnails and strips that could not be made."""


def num_missing(run: Run, thumbs: Thumbs) -> int:
    """How many images have no thumbnail, and clips no strip.

    Args:
        run: the run.
        thumbs: the thumbnails of the run.
    """
    stills = sum(image not in thumbs.places for image in run.hashes().items())
    return stills + sum(clip not in thumbs.strips for clip in _clips(run))


def _clips(run: Run) -> Iterator[ImageBytes]:
    if not has_clips(run):
        return
    is_clip = (ds.field("status") == "ok") & (ds.field("num_frames") > 1)
    with run.reading():
        found = run.metadata.to_table(["image_id", "sha256"], is_clip)
    yield from zip(*(found.column(n).to_pylist() for n in ("image_id", "sha256")), strict=True)


def make_missing(run: Run, thumbs: Thumbs) -> Generator[ThumbsMade, None, None]:
    """Make and store the thumbnails and strips that are missing, and add them to `thumbs`.

    What is stored stays when this is interrupted. Memory holds the thumbnails of one atlas, and a
    few images.

    Raises:
        StoreError: the store failed.
    """
    missing, made, num_failed = num_missing(run, thumbs), 0, 0
    unreadable = dict[str, str]()
    if not missing:
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        for shard in run.committed:
            atlases: list[Atlas] = []
            try:
                for atlas, failed in _shard_atlases(run.store, shard, thumbs, pool):
                    unreadable = failed | unreadable
                    num_failed += len(failed)
                    if atlas is not None:
                        atlases.append(atlas)
                        made += len(atlas.cells) + len(atlas.strips)
                    yield ThumbsMade(made, missing, dict(unreadable), atlas, num_failed)
            finally:  # also when no more are asked for
                if atlases:
                    store_index(run.store, shard, atlases)
                    thumbs.add(atlases)


def _shard_atlases(
    store: Store, shard: int, thumbs: Thumbs, pool: Executor
) -> Iterator[tuple[Atlas | None, dict[str, str]]]:
    """Store the atlases that a shard lacks; yields each, and why images are not in it.

    An image has the cell that its actor would have given it, and a clip the strip.
    """
    part = metadata_columns(read_commit(store, shard), COLUMNS).to_pylist()
    ok = [(number, row) for number, row in enumerate(part) if row["status"] == "ok"]
    stills = [each for each in ok if _image(each[1]) not in thumbs.places]
    for thumbnails, failed in _made(store, stills, CELLS, thumb_of_file, pool):
        cells = {cell: image for cell, (image, _) in thumbnails.items()}
        pixels = {cell: thumb for cell, (_, thumb) in thumbnails.items()}
        yield (store_atlas(store, shard, cells, pixels) if cells else None), failed
    clips = [
        (number, row)
        for number, row in ok
        if (row["num_frames"] or 1) > 1 and _image(row) not in thumbs.strips
    ]
    for strips, failed in _made(store, clips, STRIPS, strip_of_file, pool):
        yield (store_strips(store, shard, strips) if strips else None), failed


def _made(
    store: Store,
    wanted: Sequence[tuple[int, Row]],
    num_places: int,
    make: Callable[[bytes], Made],
    pool: Executor,
) -> Iterator[tuple[dict[int, tuple[ImageBytes, Made]], dict[str, str]]]:
    """Make something of each image.

    Args:
        wanted: number in the shard, and row.
        num_places: in an atlas.
        make: takes the bytes of an image.

    Yields:
        For each atlas what is made, place -> image and that, and why the others are not in it.
    """
    results = map_ahead(
        pool, partial(_of_image, store, make), [row for _, row in wanted], READ_THREADS
    )
    for _, group in groupby(wanted, lambda each: each[0] // num_places):
        made, failed = dict[int, tuple[ImageBytes, Made]](), dict[str, str]()
        for number, row in group:
            result, reason = next(results)
            if result is None:
                failed[row["image_id"]] = reason
            else:
                made[number % num_places] = _image(row), result
        yield made, failed


def _image(row: Row) -> ImageBytes:
    return row["image_id"], row["sha256"]


def _of_image(store: Store, make: Callable[[bytes], Made], row: Row) -> tuple[Made | None, str]:
    """What is made of an image; or None, and why."""
    try:
        data = image_bytes(store, row)
    except StoreMissing:
        return None, "the image is not in the store"
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        return None, "its bytes are not those that were stored"
    try:
        return make(data), ""
    except ValueError as error:
        return None, str(error)


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
    by_image = {_image(row): row for row in rows if row["status"] == "ok"}
    cells = {cell: image for cell, image in atlas.cells.items() if image in by_image}
    strips = {first: strip for first, strip in atlas.strips.items() if strip.image in by_image}
    thumbs = _read_again(run.store, by_image, cells, strips)
    if not thumbs:
        return None
    run.store.delete(atlas.path)
    stored = store_atlas(
        run.store,
        shard,
        {cell: image for cell, image in cells.items() if cell in thumbs},
        thumbs,
        {first: strip for first, strip in strips.items() if first in thumbs},
    )
    if stored.path != atlas.path:
        store_index(run.store, shard, [stored])
    return run.store.read(stored.path)


def _read_again(
    store: Store,
    rows: Mapping[ImageBytes, Row],
    cells: Mapping[int, ImageBytes],
    strips: Mapping[int, StripOf],
) -> dict[int, Thumb]:
    """What the cells of an atlas show, of images that can be read; cell -> thumbnail."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        stills = pool.map(
            lambda image: _of_image(store, thumb_of_file, rows[image])[0], cells.values()
        )
        clips = pool.map(
            lambda strip: _of_image(store, strip_of_file, rows[strip.image])[0], strips.values()
        )
        thumbs = {
            cell: thumb for cell, thumb in zip(cells, stills, strict=True) if thumb is not None
        }
        for first, strip in zip(strips, clips, strict=True):
            thumbs.update(enumerate(strip or (), first))
    return thumbs
