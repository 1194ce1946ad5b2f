"""Parquet files with a column of pictures, or of paths to them, and one of captions."""

import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import DataError, StoreError
from nightpress.pipelines.storage import Options, Source, is_url, open_source, parsing
from nightpress.pipelines.storage.urls import public
from nightpress.pipelines.training.data.finding import Place
from nightpress.pipelines.training.data.pictures import BadPicture
from nightpress.pipelines.training.data.samples import Candidate, Sample, as_captions, fetch
from nightpress.pipelines.training.data.spec import CAPTION_NAMES, IMAGE_NAMES, DataSpec

WEB = ("http://", "https://")
"""Where single addresses die; a store that refuses one object is a reason to stop."""

BATCH_ROWS, BATCH_BYTES = 1024, 32 << 20
"""What is in memory at once while a file streams."""

BUFFER_BYTES = 1 << 20

MALFORMED = (pa.ArrowInvalid, pa.ArrowNotImplementedError)
"""What Arrow raises about a file's bytes: not Parquet, or a kind that Arrow does not support."""


class Tables:
    """The rows of Parquet files."""

    def __init__(self, place: Place, spec: DataSpec, options: Options) -> None:
        self._place, self._spec, self._options = place, spec, options

    def no_captions(self) -> str:
        """Told by the columns, before any row is read."""
        for source in self._place.files:
            with self._open(source) as parquet:
                schema = parquet.schema_arrow
            if self._caption_column(schema) is None:
                return f"{public(source.url)}: {self._no_caption(schema)}"
        return ""

    def candidates(self) -> Iterator[Candidate]:
        """Every row of every file.

        Raises:
            DataError: there are no rows, or a file is broken or lacks the column of pictures.
        """
        num = 0
        for source in self._place.files:
            file = self._place.name(source.url)
            folder = source.url.rpartition("/")[0]
            for number, (picture, caption) in enumerate(self._rows(source)):
                num += 1
                yield self._candidate(f"{file}#{number}", picture, caption, folder)
        if not num:
            raise DataError(f"{public(self._place.root)}: the Parquet files have no rows")

    def _rows(self, source: Source) -> Iterator[tuple[Any, Any]]:
        with self._open(source) as parquet:
            schema = parquet.schema_arrow
            image, caption = self._image_column(source, schema), self._caption_column(schema)
            columns = [image] if caption is None else [image, caption]
            for batch in parquet.iter_batches(
                _batch_rows(parquet), columns=columns, use_threads=False
            ):
                pictures = batch.column(image)
                captions = batch.column(caption) if caption is not None else None
                for row in range(batch.num_rows):
                    yield pictures[row].as_py(), captions and captions[row].as_py()

    def _candidate(self, name: str, picture: Any, caption: Any, folder: str) -> Candidate:
        def load() -> Sample:
            return Sample(self._bytes(picture, folder), as_captions(caption))

        return Candidate(name, load)

    def _bytes(self, picture: Any, folder: str) -> bytes:
        """The picture of a cell: its bytes, else what its path names."""
        if isinstance(picture, dict):
            data = picture.get("bytes")
            picture = picture.get("path") if data is None else data
        if isinstance(picture, bytes):
            return picture
        if not picture:
            raise BadPicture("the row has no picture")
        url = picture if is_url(picture) or picture.startswith("/") else f"{folder}/{picture}"
        try:
            return fetch(url if is_url(url) else posixpath.normpath(url), self._options)
        except StoreError as error:
            if not url.lower().startswith(WEB):
                raise
            raise BadPicture(str(error)) from error

    def _image_column(self, source: Source, schema: pa.Schema) -> str:
        names = IMAGE_NAMES if self._spec.image is None else (self._spec.image,)
        name = _first(schema, names, _holds_pictures)
        if name is not None:
            return name
        raise DataError(
            f"{public(source.url)}: no column of pictures; looked for {', '.join(names)} as bytes, "
            f"paths, or structs of bytes and path; the columns are {_columns(schema)}"
        )

    def _caption_column(self, schema: pa.Schema) -> str | None:
        names = CAPTION_NAMES if self._spec.caption is None else (self._spec.caption,)
        return _first(schema, names, _holds_texts)

    def _no_caption(self, schema: pa.Schema) -> str:
        names = CAPTION_NAMES if self._spec.caption is None else (self._spec.caption,)
        return (
            f"no column of captions; looked for {', '.join(names)} as text or lists of texts; "
            f"the columns are {_columns(schema)}"
        )

    @contextmanager
    def _open(self, source: Source) -> Iterator[pq.ParquetFile]:
        with (
            parsing(source.url, MALFORMED, partial(_unreadable, source.url)),
            open_source(source.url, self._options) as stream,
            pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False) as parquet,
        ):
            yield parquet


def _first(schema: pa.Schema, names: Sequence[str], fits: Any) -> str | None:
    present = (name for name in names if name in schema.names)
    return next((name for name in present if fits(schema.field(name).type)), None)


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    return bool(
        pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_string_view(type_)
    )


def _holds_texts(type_: pa.DataType) -> bool:
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return _is_text(type_.value_type)
    return _is_text(type_)


def _holds_pictures(type_: pa.DataType) -> bool:
    if pa.types.is_struct(type_):
        return any(_holds_pictures(field.type) for field in type_ if field.name in BYTES_OR_PATH)
    is_bytes = pa.types.is_binary(type_) or pa.types.is_large_binary(type_)
    return bool(is_bytes or pa.types.is_binary_view(type_)) or _is_text(type_)


BYTES_OR_PATH = ("bytes", "path")


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"


def _batch_rows(parquet: pq.ParquetFile) -> int:
    groups = [parquet.metadata.row_group(n) for n in range(parquet.num_row_groups)]
    row_bytes = sum(group.total_byte_size for group in groups) / max(parquet.metadata.num_rows, 1)
    return max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(row_bytes, 1))))


def _unreadable(url: str, error: Exception) -> DataError:
    return DataError(f"{public(url)}: cannot be read as Parquet: {one_line(error)}")
