"""Tables beside an export that may have a row for each image, written in bounded memory."""

import itertools
from collections.abc import Callable
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.pipelines.storage import Store

FILE_BYTES = 256 * 2**20
"""About as much as one file holds before the next begins; it is in memory until it is written."""

GROUP_ROWS = 100_000

Put = Callable[[str, bytes], None]


class TableFiles:
    """A table that is written as `stem.parquet` and, if it is large, `stem-1.parquet` and so on.

    Args:
        put: writes an object.
        stem: the name without its suffix.
        schema: of the table.
        file_bytes: what a file holds before the next begins.
    """

    def __init__(
        self, put: Put, stem: str, schema: pa.Schema, file_bytes: int = FILE_BYTES
    ) -> None:
        self._put, self._stem, self._schema, self._most = put, stem, schema, file_bytes
        self._waiting: list[pa.Table] = []
        self.paths: list[str] = []
        """The files that are begun, in order; complete after `finish`."""
        self._begin()

    def add(self, rows: pa.Table) -> None:
        """Add some rows."""
        if len(rows):
            self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= GROUP_ROWS:
            self._write_group()
            if self._file.tell() >= self._most:
                self._end()
                self._begin()

    def finish(self) -> tuple[str, ...]:
        """Write what is left; returns the paths of all files."""
        self._write_group()
        self._end()
        return tuple(self.paths)

    def _begin(self) -> None:
        self.paths.append(numbered(self._stem, len(self.paths)))
        self._file = BytesIO()
        self._writer = pq.ParquetWriter(
            self._file, self._schema, compression="zstd", write_page_checksum=True
        )

    def _write_group(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting = []

    def _end(self) -> None:
        self._writer.close()
        self._put(self.paths[-1], self._file.getvalue())


def numbered(stem: str, number: int) -> str:
    """`dropped.parquet`, `dropped-1.parquet`, ..."""
    return f"{stem}-{number}.parquet" if number else f"{stem}.parquet"


def delete_later_files(store: Store, stem: str, num_files: int) -> None:
    """Delete the files that a larger table of this name had."""
    for number in itertools.count(num_files):
        path = numbered(stem, number)
        if store.size(path) is None:
            return
        store.delete(path)
