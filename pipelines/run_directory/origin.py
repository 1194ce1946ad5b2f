"""Which image of a run a file is, also where its metadata was stripped."""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.image_files.embedded_metadata import Embedded, SealedFacts
from nightpress.pipelines.image_files.encoding import decoded, read_embedded
from nightpress.pipelines.image_files.file_report import pixels_sha256
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.records import METADATA_SCHEMA, ImageFacts
from nightpress.pipelines.run_directory.commit import metadata_columns
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import READ_THREADS

Row = Mapping[str, Any]
"""The metadata of an image, without carried columns."""


class Likeness(StrEnum):
    """How a file is found to be an image of a run, from the surest on."""

    FILE = "file"
    """Its bytes are those that were recorded."""
    PIXELS = "pixels"
    """It has the pixels of the image, and other bytes."""
    FACTS = "facts"
    """It has the embedded metadata of the image, but other pixels: somebody has edited it."""


@dataclass(frozen=True)
class Origin:
    """The image of a run that a file is."""

    url: str
    """URL of the run directory."""
    likeness: Likeness
    row: Row
    """The image's metadata."""


def find_origin(run: Run, data: bytes) -> Origin | None:
    """The image of a run that a file is; None if the run did not make it.

    It looks for the bytes first. Then it looks at the image that the embedded metadata names, if
    any. At last it compares the pixels with those of each stored image of the same size, which
    reads them all.

    Args:
        run: a run, finished or not.
        data: an image file.

    Raises:
        ValueError: the file is no intact image.
        StoreError: the run cannot be read.
    """
    with decoded(data) as image:
        size, pixels = image.size, pixels_sha256(image)
    row = row_of_bytes(run, data)
    if row is not None:
        return Origin(run.url, Likeness.FILE, row)
    named = _named(run, read_embedded(data))
    if named is not None and _pixels_of(run, named) == pixels:
        return Origin(run.url, Likeness.PIXELS, named)
    row = _with_pixels(run, size, pixels)
    if row is not None:
        return Origin(run.url, Likeness.PIXELS, row)
    return None if named is None else Origin(run.url, Likeness.FACTS, named)


def row_of_bytes(run: Run, data: bytes) -> Row | None:
    """The metadata of the image with exactly these bytes; None if there is none."""
    same = pc.field("sha256") == hashlib.sha256(data).hexdigest()
    return next(_rows(run, same), None)


def _named(run: Run, embedded: Embedded | None) -> Row | None:
    """The image whose facts are those of embedded metadata."""
    match embedded:
        case ImageFacts():
            with run.reading():
                row = run.row(embedded.image_id)
            if row is None or row["status"] != "ok" or ImageFacts.from_dict(row) != embedded:
                return None
            return row
        case SealedFacts():
            alike = pc.field("batch_size") == embedded.batch_size
            alike &= pc.field("status") == "ok"
            sealed = (row for row in _rows(run, alike) if _is_sealed(row, embedded))
            return next(sealed, None)
    return None


def _is_sealed(row: Row, sealed: SealedFacts) -> bool:
    return SealedFacts.of(ImageFacts.from_dict(dict(row))) == sealed


def _with_pixels(run: Run, size: tuple[int, int], pixels: str) -> Row | None:
    """The first stored image of a size that has these pixels."""
    width, height = size
    same_size = (pc.field("width") == width) & (pc.field("height") == height)
    rows = _rows(run, same_size & (pc.field("status") == "ok"), _WHERE_IT_LIES)

    def id_if_same(row: Row) -> str | None:
        return row["image_id"] if _pixels_of(run, row) == pixels else None

    with ThreadPoolExecutor(READ_THREADS) as pool:
        image_id = next(filter(None, map_ahead(pool, id_if_same, rows, READ_THREADS)), None)
    return None if image_id is None else next(_rows(run, pc.field("image_id") == image_id), None)


_WHERE_IT_LIES = ("image_id", "file", "member_offset", "num_bytes")


def _pixels_of(run: Run, row: Row) -> str | None:
    """The hash of a stored image's pixels; None if it is missing or damaged."""
    try:
        with decoded(image_bytes(run.store, row)) as image:
            return pixels_sha256(image)
    except (StoreMissing, ValueError):
        return None


def _rows(
    run: Run, condition: pc.Expression, names: tuple[str, ...] = tuple(METADATA_SCHEMA.names)
) -> Iterator[Row]:
    """The metadata of the images that meet a condition, without carried columns."""
    with run.reading():
        for batch in run.metadata.to_batches(columns=list(names), filter=condition):
            if len(batch):
                yield from metadata_columns(pa.Table.from_batches([batch]), names).to_pylist()
