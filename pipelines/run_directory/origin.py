"""Which image of a run a file is, also where its metadata was stripped."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.image_files.embedded_metadata import Embedded, SealedFacts
from nightpress.pipelines.image_files.encoding import decoded, read_embedded
from nightpress.pipelines.image_files.file_report import pixels_sha256
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.records import METADATA_SCHEMA, ImageFacts
from nightpress.pipelines.run_directory.commit import metadata_columns
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.scoring.perceptual_hash import perceptual_hash
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


@dataclass(frozen=True)
class _Picture:
    """What the pixels of a file are compared by."""

    size: tuple[int, int]
    pixels: str
    """`pixels_sha256`."""
    digits: str
    """`perceptual_hash`."""

    @classmethod
    def of(cls, image: Image.Image) -> "_Picture":
        digits = perceptual_hash(np.asarray(image.convert("RGB")))
        return cls(image.size, pixels_sha256(image), digits)


def find_origin(runs: Sequence[Run], data: bytes) -> Origin | None:
    """The image of one of some runs that a file is, by the surest likeness; None if none made it.

    It looks for the bytes in every run first. Then it looks at the images that the embedded
    metadata names, if any, and compares the pixels with those of the stored images of the same
    size that have the same perceptual hash, or none.

    Args:
        runs: finished or not.
        data: an image file.

    Raises:
        ValueError: the file is no intact image.
        StoreError: a run cannot be read.
    """
    with decoded(data) as image:
        picture = _Picture.of(image)
    for run in runs:
        if (row := row_of_bytes(run, data)) is not None:
            return Origin(run.url, Likeness.FILE, row)
    embedded = read_embedded(data)
    named = [(run, row) for run in runs if (row := _named(run, embedded)) is not None]
    for run, row in named:
        if _pixels_of(run, row) == picture.pixels:
            return Origin(run.url, Likeness.PIXELS, row)
    for run in runs:
        if (row := _with_pixels(run, picture)) is not None:
            return Origin(run.url, Likeness.PIXELS, row)
    return next((Origin(run.url, Likeness.FACTS, row) for run, row in named), None)


def row_of_bytes(run: Run, data: bytes) -> Row | None:
    """The metadata of the image with exactly these bytes; None if there is none."""
    same = pc.field("sha256") == hashlib.sha256(data).hexdigest()
    found = next(_rows(run, same, ("image_id",)), None)
    return None if found is None else row_of(run, found["image_id"])


def row_of(run: Run, image_id: str) -> Row | None:
    """The metadata of an image; None if it is not committed."""
    with run.reading():
        return run.row(image_id)


def _named(run: Run, embedded: Embedded | None) -> Row | None:
    """The image whose facts are those of embedded metadata."""
    match embedded:
        case ImageFacts():
            row = row_of(run, embedded.image_id)
            if row is None or row["status"] != "ok" or ImageFacts.from_dict(dict(row)) != embedded:
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


def _with_pixels(run: Run, picture: _Picture) -> Row | None:
    """The first stored image with these pixels; equal pixels have equal perceptual hashes."""
    width, height = picture.size
    alike = (pc.field("width") == width) & (pc.field("height") == height)
    digits = pc.field("perceptual_hash")  # runs of older versions have none
    alike &= (digits == picture.digits) | digits.is_null()
    rows = _rows(run, alike & (pc.field("status") == "ok"), _WHERE_IT_LIES)

    def id_if_same(row: Row) -> str | None:
        return row["image_id"] if _pixels_of(run, row) == picture.pixels else None

    with ThreadPoolExecutor(READ_THREADS) as pool:
        image_id = next(filter(None, map_ahead(pool, id_if_same, rows, READ_THREADS)), None)
    return None if image_id is None else row_of(run, image_id)


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
