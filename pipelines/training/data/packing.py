"""Read a data set once, check every image, and keep a copy in this machine's cache.

The cache has one folder per content; a folder gets its final name only when it is complete.
"""

import hashlib
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
from filelock import FileLock

from nightpress.diffusion_core.cache_folder import cache_folder
from nightpress.pipelines.errors import DataError
from nightpress.pipelines.formatting import size
from nightpress.pipelines.job.spec import canonical_json
from nightpress.pipelines.storage import Options
from nightpress.pipelines.storage.urls import absolute, public
from nightpress.pipelines.training.data.decoding import (
    BadImageError,
    decode,
    refuse_decompression_bombs,
)
from nightpress.pipelines.training.data.finding import FoundData, FoundSource, find_data
from nightpress.pipelines.training.data.packed import BLOB, INDEX, SCHEMA, PackedImages
from nightpress.pipelines.training.data.samples import CandidateSample, SourceReader
from nightpress.pipelines.training.data.spec import DataSpec, Kind

T = TypeVar("T")
R = TypeVar("R")

VERSION = 1
"""Version of the packed format; data in another version is packed again."""

THREADS = 8
"""Threads that read and decode; reading waits for the store, decoding releases the GIL."""

MAX_PENDING = 32
"""Images that are read ahead of the one being written."""

INDEX_ROWS = 65_536

NAME_ENCODING = {"encoding": "utf-8", "errors": "backslashreplace"}
"""Keeps file names that are not valid UTF-8 distinct."""

Row = dict[str, Any]
Progress = Callable[[int], None]


def pack(
    spec: DataSpec,
    resolution: int,
    need_captions: bool,
    options: Options | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> PackedImages:
    """Read and check a data set, or open the packed copy of the same content.

    Images to which a Parquet file only refers are not checked for changes as long as that file
    is unchanged.

    Args:
        spec: the job's `data` section.
        resolution: pixels; images with a smaller side are left out.
        need_captions: leave out images without a caption, and refuse a data set without any.
        options: fsspec options by protocol.
        cache: folder for packed data sets; default: in the user's cache folder.
        progress: called with the number of images read so far; not called for a cached data set.

    Raises:
        DataError: there are no images, no captions although they are needed, or no usable image.
        StoreError: a store refuses or fails.
    """
    options = options or {}
    found = find_data(spec, options)
    cache = cache or cache_folder() / "data"
    folder = cache / _key(spec, found)
    where = ", ".join(public(absolute(url)) for url in spec.sources)
    with cache_errors(cache, "the packed images"):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.name}.lock"):
            if not folder.is_dir():
                readers = [_reader(found.kind, source, spec, options) for source in found.sources]
                if need_captions:
                    _refuse_without_captions(readers)
                _write(folder, readers, progress or (lambda num: None))
    return PackedImages(folder, resolution, need_captions, where)


def _key(spec: DataSpec, found: FoundData) -> str:
    # Without roots, the key is that of versions that knew none.
    values = spec.model_dump(mode="json", exclude=None if spec.roots else {"roots"})
    content = [VERSION, values, found.content()]
    return hashlib.sha256(canonical_json(content).encode(**NAME_ENCODING)).hexdigest()[:32]


def _reader(kind: Kind, source: FoundSource, spec: DataSpec, options: Options) -> SourceReader:
    match kind:
        case "webdataset":
            from nightpress.pipelines.training.data.tars import TarReader

            return TarReader(source, spec, options)
        case "parquet":
            from nightpress.pipelines.training.data.tables import ParquetReader

            return ParquetReader(source, spec, options)
        case "folder":
            from nightpress.pipelines.training.data.folders import FolderReader

            return FolderReader(source, spec, options)


def _write(folder: Path, readers: list[SourceReader], progress: Progress) -> None:
    """Pack into a temporary folder, and rename it when it is complete."""
    # This process holds the lock, so partial folders belong to processes that have died.
    for abandoned in folder.parent.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.partial-"))
    try:
        with (partial / BLOB).open("wb") as blob, refuse_decompression_bombs():
            index = _batches(_rows(readers, blob, progress))
            _write_index(partial / "rows.arrow", SCHEMA, index)
        reasons = " ".join(filter(None, (reader.missing_captions() for reader in readers)))
        _finish_index(partial, reasons)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_without_captions(readers: list[SourceReader]) -> None:
    for reader in readers:
        if reason := reader.missing_captions():
            raise DataError(reason)


def _rows(readers: list[SourceReader], blob: BinaryIO, progress: Progress) -> Iterator[Row]:
    """Write each decodable image to the blob; yield the index rows of all images."""
    candidates = (candidate for reader in readers for candidate in reader.candidates())
    for num, (row, data) in enumerate(_map_in_order(_check, candidates), 1):
        row["offset"] = blob.tell()
        blob.write(data)
        progress(num)
        yield row


def _check(candidate: CandidateSample) -> tuple[Row, bytes]:
    """Load an image and decode it fully; a bad one has a reason and no bytes."""
    name = candidate.name.encode(**NAME_ENCODING).decode()
    row: Row = {"name": name, "num_bytes": 0, "width": 0, "height": 0, "captions": []}
    try:
        sample = candidate.load()
        image = decode(sample.data)
    except BadImageError as error:
        return row | {"reason": str(error)}, b""
    row |= {"num_bytes": len(sample.data), "captions": list(sample.captions)}
    row |= {"width": image.width, "height": image.height}
    return row | {"sha256": hashlib.sha256(sample.data).digest()}, sample.data


def _batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    buffered: list[Row] = []
    for row in rows:
        buffered.append(row)
        if len(buffered) == INDEX_ROWS:
            yield pa.RecordBatch.from_pylist(buffered, SCHEMA)
            buffered = []
    if buffered:
        yield pa.RecordBatch.from_pylist(buffered, SCHEMA)


def _finish_index(partial: Path, missing_captions: str) -> None:
    """Write the final index, whose metadata says why captions are missing, if they are."""
    schema = SCHEMA.with_metadata({"no_captions": missing_captions})
    with pa.memory_map(str(partial / "rows.arrow")) as file:
        reader = pa.ipc.open_file(file)
        batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
        _write_index(partial / INDEX, schema, batches)
    (partial / "rows.arrow").unlink()


def _write_index(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with path.open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch.cast(schema))


def _map_in_order(action: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Apply an action to each item in threads, ahead of the consumer; results in order."""
    with ThreadPoolExecutor(THREADS) as pool:
        pending: deque[Future[R]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(action, item))
                if len(pending) == MAX_PENDING:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def cache_errors(cache: Path, what: str) -> Iterator[None]:
    """Report an OSError of the cache's disk as a DataError; sources raise other errors.

    Args:
        cache: the folder.
        what: what is written there, such as `the packed images`.
    """
    try:
        yield
    except OSError as error:
        free = size(shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free)
        raise DataError(
            f"{cache}: cannot write {what}: {error.strerror or error} ({free} free); "
            "to use another folder, set XDG_CACHE_HOME"
        ) from error
