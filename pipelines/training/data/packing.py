"""Reading a data set once, checking every picture, and keeping it on this machine.

Owns the cache of packed data sets: one folder for each content, whole from the moment that it has
its name. Knows nothing of how the kinds of sources are read.
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
from nightpress.pipelines.training.data.finding import Found, Place, find
from nightpress.pipelines.training.data.packed import BLOB, INDEX, SCHEMA, PackedImages
from nightpress.pipelines.training.data.pictures import BadPicture, bombs_are_refused, decode
from nightpress.pipelines.training.data.samples import Candidate, Reader
from nightpress.pipelines.training.data.spec import DataSpec

T = TypeVar("T")
R = TypeVar("R")

VERSION = 1
"""Of the packed form; another one is packed again."""

THREADS = 8
"""Reading waits for a store, and decoding leaves Python alone."""

AHEAD = 32
"""Pictures that are being read at once."""

INDEX_ROWS = 65_536

NAMES = {"encoding": "utf-8", "errors": "backslashreplace"}
"""File names need not be text; they are told apart all the same."""

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
    """The usable pictures of a data set, read and checked once for this machine and content.

    Pictures that a Parquet file only names are not looked at again while that file stays.

    Args:
        spec: where they are.
        resolution: pixels; pictures with a smaller side are left out.
        need_captions: leave out pictures without a caption, and refuse a data set without any.
        options: fsspec options by protocol.
        cache: where packed data sets are kept; unless given, in the user's cache folder.
        progress: called with the number of pictures read so far; never where nothing is to do.

    Raises:
        DataError: there are no pictures, no captions though they are needed, or none is usable.
        StoreError: a store refuses or fails.
    """
    options = options or {}
    found = find(spec, options)
    cache = cache or cache_folder() / "data"
    folder = cache / _key(spec, found)
    where = ", ".join(public(absolute(url)) for url in spec.sources)
    with _room(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.name}.lock"):
            if not folder.is_dir():
                readers = [_reader(found, place, spec, options) for place in found.places]
                if need_captions:
                    _refuse_without_captions(readers)
                _write(folder, readers, progress or (lambda num: None))
    return PackedImages(folder, resolution, need_captions, where)


def _key(spec: DataSpec, found: Found) -> str:
    facts = [VERSION, spec.model_dump(mode="json"), found.content()]
    return hashlib.sha256(canonical_json(facts).encode(**NAMES)).hexdigest()[:32]


def _reader(found: Found, place: Place, spec: DataSpec, options: Options) -> Reader:
    match found.kind:
        case "webdataset":
            from nightpress.pipelines.training.data.tars import Tars

            return Tars(place, spec, options)
        case "parquet":
            from nightpress.pipelines.training.data.tables import Tables

            return Tables(place, spec, options)
        case "folder":
            from nightpress.pipelines.training.data.folders import Folder

            return Folder(place, spec, options)


def _write(folder: Path, readers: list[Reader], progress: Progress) -> None:
    """Pack into a folder that has its name only when it is whole."""
    # Whoever holds the lock is alone, so what lies there half done was left by the dead.
    for left in folder.parent.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.partial-"))
    try:
        with (partial / BLOB).open("wb") as blob, bombs_are_refused():
            index = _batches(_rows(readers, blob, progress))
            _write_index(partial / "rows.arrow", SCHEMA, index)
        missing = " ".join(filter(None, (reader.no_captions() for reader in readers)))
        _finish_index(partial, missing)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_without_captions(readers: list[Reader]) -> None:
    for reader in readers:
        if missing := reader.no_captions():
            raise DataError(missing)


def _rows(readers: list[Reader], blob: BinaryIO, progress: Progress) -> Iterator[Row]:
    """Write each sound picture to the blob; yields the index rows of all."""
    candidates = (candidate for reader in readers for candidate in reader.candidates())
    for num, (row, data) in enumerate(_in_order(_checked, candidates), 1):
        row["offset"] = blob.tell()
        blob.write(data)
        progress(num)
        yield row


def _checked(candidate: Candidate) -> tuple[Row, bytes]:
    """Load a picture and decode it fully; a bad one has a reason and no bytes."""
    name = candidate.name.encode(**NAMES).decode()
    row: Row = {"name": name, "num_bytes": 0, "width": 0, "height": 0, "captions": []}
    try:
        sample = candidate.load()
        image = decode(sample.data)
    except BadPicture as error:
        return row | {"reason": str(error)}, b""
    row |= {"num_bytes": len(sample.data), "captions": list(sample.captions)}
    row |= {"width": image.width, "height": image.height}
    return row | {"sha256": hashlib.sha256(sample.data).digest()}, sample.data


def _batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    held: list[Row] = []
    for row in rows:
        held.append(row)
        if len(held) == INDEX_ROWS:
            yield pa.RecordBatch.from_pylist(held, SCHEMA)
            held = []
    if held:
        yield pa.RecordBatch.from_pylist(held, SCHEMA)


def _finish_index(partial: Path, missing: str) -> None:
    """The index again under its name, with what is known when all is read."""
    schema = SCHEMA.with_metadata({"no_captions": missing})
    with pa.memory_map(str(partial / "rows.arrow")) as file:
        reader = pa.ipc.open_file(file)
        batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
        _write_index(partial / INDEX, schema, batches)
    (partial / "rows.arrow").unlink()


def _write_index(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with path.open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch.cast(schema))


def _in_order(action: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results of an action on each item, some of them worked on ahead in threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(action, item))
                if len(waiting) == AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _room(cache: Path) -> Iterator[None]:
    """What the cache's disk refuses, in a line; a source's own errors are no OSError."""
    try:
        yield
    except OSError as error:
        free = size(shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free)
        raise DataError(
            f"{cache}: cannot keep the packed pictures there: {error.strerror or error} "
            f"({free} free); XDG_CACHE_HOME names another place for the cache"
        ) from error
