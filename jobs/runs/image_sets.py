"""Sets of images that are compared: those of a run, or of files at any URL."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from nightpress.diffusion_core.errors import one_line
from nightpress.jobs.runs.copying import intact_image
from nightpress.jobs.runs.delivery_choice import Choice, ChosenRows
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.errors import Damaged, DataError, SpecError
from nightpress.pipelines.image_files.encoding import decoded
from nightpress.pipelines.image_files.packing import members_of
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.record import RUN_FILE
from nightpress.pipelines.storage import READ_THREADS, Options, Store
from nightpress.pipelines.storage.sources import Source, find
from nightpress.pipelines.storage.streams import open_source
from nightpress.pipelines.storage.urls import has_glob, public

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TABLE_SUFFIX, TAR_SUFFIX = ".parquet", ".tar"
SUFFIXES = (*IMAGE_SUFFIXES, TABLE_SUFFIX, TAR_SUFFIX)

IMAGE_COLUMN = "image"
"""The column of a Parquet file with its images: bytes, or a struct with a field `bytes`."""

ROWS_AT_ONCE = 16

T = TypeVar("T")

Named = tuple[str, Callable[[], bytes]]
"""What an error calls an image, and what reads its bytes."""


@dataclass(frozen=True)
class ImageSet:
    """Some images, in an order that is always the same."""

    url: str
    images: Callable[[], Iterator[Named]]

    def each(self, use: Callable[[Image.Image], T]) -> Iterator[T]:
        """What a function makes of each image; it is called in threads, somewhat ahead.

        Raises:
            DataError: a file of the set is not an intact image.
            Damaged: an image of a run is missing or damaged.
            StoreError: a store failed.
        """
        with ThreadPoolExecutor(READ_THREADS) as pool:
            yield from map_ahead(pool, partial(_used, use), self.images(), READ_THREADS)


def image_set(
    target: ImageTarget,
    storage: Options | None = None,
    *,
    where: str | None = None,
    selection: str | None = None,
) -> ImageSet:
    """The images of a run that are ok, or those in the files that a URL names.

    Args:
        target: a run, as other commands take it; or the URL of image, Parquet or tar files, of a
            folder with such files, or a pattern that they match.
        storage: fsspec options by protocol, for URLs.
        where: a condition on the metadata of the run.
        selection: the name of a selection of the run.

    Raises:
        SpecError: the images of files are to be chosen by what only a run has.
        StoreMissing: there are no such files.
        RunNotFound, SelectionNotFound, StoreError: as for other commands.
    """
    if isinstance(target, str) and not _is_run(target, storage or {}):
        if where is not None or selection is not None:
            raise SpecError(f"{public(target)}: no run here, so there is nothing to choose by")
        sources = find([target], storage, SUFFIXES)
        return ImageSet(public(target), partial(_in_files, sources, storage or {}))
    if where is not None and selection is not None:
        raise SpecError("choose images by a condition or by a selection, not by both")
    run = open_images(target, storage)
    rows = ChosenRows(run, Choice(where=where, selection=selection))
    rows.survey()
    name = run.url if selection is None else f"{run.url}/selections/{selection}"
    return ImageSet(name, partial(_in_run, run, rows))


def _is_run(url: str, storage: Options) -> bool:
    if has_glob(url) or url.lower().endswith(SUFFIXES):
        return False
    return Store(url, storage).size(RUN_FILE) is not None


def _used(use: Callable[[Image.Image], T], named: Named) -> T:
    name, read = named
    data = read()
    try:
        return use(decoded(data))
    except ValueError as error:
        raise DataError(f"{name}: {one_line(error)}") from error


def _in_run(run: Run, rows: ChosenRows) -> Iterator[Named]:
    for row in chain.from_iterable(rows.images()):
        yield f"{run.url}: image {row['image_id']}", partial(_of_row, run, row)


def _of_row(run: Run, row: Mapping[str, Any]) -> bytes:
    data = intact_image(run, row)
    if isinstance(data, str):
        raise Damaged(
            f"{run.url}: image {row['image_id']} is missing or damaged; nightpress verify --repair "
            "makes it again"
        )
    return data


def _in_files(sources: list[Source], storage: Options) -> Iterator[Named]:
    num_images = 0
    for source in sources:
        for named in _in_file(source.url, storage):
            num_images += 1
            yield named
    if not num_images:
        raise DataError(
            f"{public(sources[0].url)}: no images; a Parquet file has them in a column "
            f"{IMAGE_COLUMN!r}"
        )


def _in_file(url: str, storage: Options) -> Iterator[Named]:
    name = public(url)
    if url.lower().endswith(IMAGE_SUFFIXES):
        yield name, partial(_read, url, storage)
    elif url.lower().endswith(TAR_SUFFIX):
        try:
            for member, data in members_of(url, _read(url, storage)):
                if member.lower().endswith(IMAGE_SUFFIXES):
                    yield f"{name}: {member}", partial(bytes, data)
        except ValueError as error:
            raise DataError(f"{name}: {one_line(error)}") from error
    else:
        yield from _in_table(url, storage)


def _in_table(url: str, storage: Options) -> Iterator[Named]:
    """The images of a Parquet file; none if it has no column of them."""
    name, number = public(url), 0
    try:
        with open_source(url, storage) as stream, pq.ParquetFile(stream) as file:
            if IMAGE_COLUMN not in file.schema_arrow.names:
                return
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[IMAGE_COLUMN]):
                for value in batch.column(0).to_pylist():
                    data = value.get("bytes") if isinstance(value, dict) else value
                    if not isinstance(data, bytes):
                        raise DataError(f"{name}: row {number} has no image bytes")
                    yield f"{name}: row {number}", partial(bytes, data)
                    number += 1
    except pa.ArrowException as error:
        raise DataError(f"{name}: truncated or invalid: {one_line(error, 200)}") from error


def _read(url: str, storage: Options) -> bytes:
    with open_source(url, storage) as stream:
        return stream.read()
