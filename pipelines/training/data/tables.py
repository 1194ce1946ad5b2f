"""Parquet files with a column of images, or of paths or URLs of images, and one of captions."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import DataError, StoreError
from nightpress.pipelines.storage import Options, Source, open_source, parsing
from nightpress.pipelines.storage.urls import public
from nightpress.pipelines.training.data.decoding import BadImageError
from nightpress.pipelines.training.data.finding import FoundSource
from nightpress.pipelines.training.data.roots import ImageRoots, OutsideRootsError
from nightpress.pipelines.training.data.samples import (
    CandidateSample,
    Sample,
    fetch,
    parse_captions,
)
from nightpress.pipelines.training.data.spec import CAPTION_NAMES, IMAGE_NAMES, DataSpec

WEB = ("http://", "https://")
"""A dead web link makes one bad image; an object that a store refuses ends the packing."""

BATCH_ROWS, BATCH_BYTES = 1024, 32 << 20
"""Limits of what is in memory at once while a file streams."""

BUFFER_BYTES = 1 << 20

BYTES_OR_PATH = ("bytes", "path")
"""Fields of an image struct, as the `datasets` library writes it."""

MALFORMED = (pa.ArrowInvalid, pa.ArrowNotImplementedError)
"""What Arrow raises about a file's bytes: not Parquet, or a kind that Arrow does not support."""


class ParquetReader:
    """Reads the rows of Parquet files."""

    def __init__(self, source: FoundSource, spec: DataSpec, options: Options) -> None:
        self._source, self._spec, self._options = source, spec, options

    def missing_captions(self) -> str:
        """Why there are no captions, judged by the columns before any row is read."""
        for file in self._source.files:
            with self._open(file) as parquet:
                schema = parquet.schema_arrow
            if self._caption_column(schema) is None:
                return (
                    f"{public(file.url)}: no caption column: looked for "
                    f"{', '.join(self._caption_names)}, holding strings or lists of strings; "
                    f"the columns are {_columns(schema)}"
                )
        return ""

    def candidates(self) -> Iterator[CandidateSample]:
        """Every row of every file.

        Raises:
            DataError: there are no rows, a file is malformed or has no image column, or a row
                names a file outside the table's folder and `data.roots`.
        """
        num = 0
        for file in self._source.files:
            roots = ImageRoots(file.url.rpartition("/")[0], self._spec.roots)
            for number, (image, caption) in enumerate(self._rows(file)):
                num += 1
                yield self._candidate(file, number, image, caption, roots)
        if not num:
            raise DataError(f"{public(self._source.root)}: the Parquet files have no rows")

    def _rows(self, file: Source) -> Iterator[tuple[Any, Any]]:
        """The image and caption cells of each row."""
        with self._open(file) as parquet:
            schema = parquet.schema_arrow
            image, caption = self._image_column(file, schema), self._caption_column(schema)
            columns = [image] if caption is None else [image, caption]
            for batch in parquet.iter_batches(
                _batch_rows(parquet), columns=columns, use_threads=False
            ):
                images = batch.column(image)
                captions = batch.column(caption) if caption is not None else None
                for row in range(batch.num_rows):
                    yield images[row].as_py(), captions and captions[row].as_py()

    def _candidate(
        self, file: Source, number: int, image: Any, caption: Any, roots: ImageRoots
    ) -> CandidateSample:
        value, where = _file_or_bytes(image), f"{public(file.url)}: row {number} (from 0)"
        url = ""
        if isinstance(value, str) and value:
            with _as_data_error(where):
                url = roots.resolve(value)

        def load() -> Sample:
            if isinstance(value, bytes):
                return Sample(value, parse_captions(caption))
            if not value:
                raise BadImageError("the row has no image")
            with _as_data_error(where):
                roots.require_real(url, value)
            return Sample(self._fetch(url), parse_captions(caption))

        return CandidateSample(f"{self._source.name(file.url)}#{number}", load)

    def _fetch(self, url: str) -> bytes:
        try:
            return fetch(url, self._options)
        except StoreError as error:
            if not url.lower().startswith(WEB):
                raise
            raise BadImageError(str(error)) from error

    def _image_column(self, file: Source, schema: pa.Schema) -> str:
        names = IMAGE_NAMES if self._spec.image is None else (self._spec.image,)
        name = _first_column(schema, names, _holds_images)
        if name is not None:
            return name
        raise DataError(
            f"{public(file.url)}: no image column: looked for {', '.join(names)}, holding bytes, "
            f"paths, or structs of bytes and path; the columns are {_columns(schema)}"
        )

    def _caption_column(self, schema: pa.Schema) -> str | None:
        return _first_column(schema, self._caption_names, _holds_strings)

    @property
    def _caption_names(self) -> Sequence[str]:
        return CAPTION_NAMES if self._spec.caption is None else (self._spec.caption,)

    @contextmanager
    def _open(self, file: Source) -> Iterator[pq.ParquetFile]:
        with (
            parsing(file.url, MALFORMED, partial(_unreadable, file.url)),
            open_source(file.url, self._options) as stream,
            pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False) as parquet,
        ):
            yield parquet


def _file_or_bytes(image: Any) -> bytes | str | None:
    """The image file of a cell, or its path or URL."""
    if isinstance(image, dict):
        data = image.get("bytes")
        image = image.get("path") if data is None else data
    value: bytes | str | None = image
    return value


@contextmanager
def _as_data_error(where: str) -> Iterator[None]:
    try:
        yield
    except OutsideRootsError as error:
        raise DataError(f"{where}: {error}") from error


def _first_column(
    schema: pa.Schema, names: Sequence[str], has_type: Callable[[pa.DataType], bool]
) -> str | None:
    present = (name for name in names if name in schema.names)
    return next((name for name in present if has_type(schema.field(name).type)), None)


def _is_string(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_string(type_.value_type)
    return bool(
        pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_string_view(type_)
    )


def _holds_strings(type_: pa.DataType) -> bool:
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return _is_string(type_.value_type)
    return _is_string(type_)


def _holds_images(type_: pa.DataType) -> bool:
    if pa.types.is_struct(type_):
        return any(_holds_images(field.type) for field in type_ if field.name in BYTES_OR_PATH)
    is_bytes = pa.types.is_binary(type_) or pa.types.is_large_binary(type_)
    return bool(is_bytes or pa.types.is_binary_view(type_)) or _is_string(type_)


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"


def _batch_rows(parquet: pq.ParquetFile) -> int:
    groups = [parquet.metadata.row_group(n) for n in range(parquet.num_row_groups)]
    row_bytes = sum(group.total_byte_size for group in groups) / max(parquet.metadata.num_rows, 1)
    return max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(row_bytes, 1))))


def _unreadable(url: str, error: Exception) -> DataError:
    return DataError(f"{public(url)}: cannot be read as Parquet: {one_line(error)}")
