"""What a manifest's files are once they are scanned, as a plan records them.

Readers of a run need these records, and none of the modules that scan files.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import pyarrow as pa

from nightpress.pipelines.manifest.formats import format_of
from nightpress.pipelines.manifest.partitions import partition_texts
from nightpress.pipelines.manifest.same_bytes import Content
from nightpress.pipelines.storage import Partition


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file that can be read by themselves."""

    start: int
    """A row group's number in Parquet; in a text file the first byte, after decompression."""
    num_bytes: int
    num_rows: int


@dataclass(frozen=True)
class ManifestFile:
    """One file of a manifest, as it was scanned."""

    url: str
    version: str
    num_bytes: int
    sha256: str
    format: str
    compression: str | None
    schema: pa.Schema
    """The columns, those that only the file's folders give last."""
    blocks: tuple[Block, ...]
    checksums: bytes = b""
    """Checksums of the stored bytes, see `Content`; empty if an older version scanned the file."""
    partition: Partition = ()
    """The columns that the file's folders give, see `partition_of`."""
    num_stored_columns: int | None = None
    """How many of the columns are in the file itself; all if None."""
    quotes_are_text: bool = False
    """Whether this is TSV without quoting; see `delimited`."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What a person should know of a campaign that was just scanned."""

    @property
    def stored_schema(self) -> pa.Schema:
        """The columns that are in the file itself."""
        return pa.schema(list(self.schema)[: self.num_stored_columns])

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes two files the same part of a manifest, wherever they are stored."""
        return identity_of(self.url, self.sha256, self.partition)

    @property
    def content(self) -> Content:
        """The stored bytes that were scanned."""
        return Content(self.num_bytes, self.sha256, self.checksums)

    @cached_property
    def num_rows(self) -> int:
        """The number of rows in the file."""
        return sum(block.num_rows for block in self.blocks)


@dataclass(frozen=True)
class RowRange:
    """Consecutive rows of one file."""

    file: ManifestFile
    first_row: int
    num_rows: int


class RowLocator:
    """Finds rows of a whole manifest in its files."""

    def __init__(self, files: Sequence[ManifestFile]) -> None:
        self._files = files
        self._ends = list(accumulate(file.num_rows for file in files))

    def row_ranges(self, first_row: int, num_rows: int) -> tuple[RowRange, ...]:
        """Split consecutive rows of the manifest into one range per file."""
        ranges = []
        index = bisect_right(self._ends, first_row)
        while num_rows:
            file, end = self._files[index], self._ends[index]
            count = min(num_rows, end - first_row)
            if count:
                ranges.append(RowRange(file, first_row - (end - file.num_rows), count))
            first_row += count
            num_rows -= count
            index += 1
        return tuple(ranges)


def identity_of(url: str, sha256: str, partition: Partition) -> tuple[str, ...]:
    """What makes a file the same part of a manifest as another.

    Its bytes and how they are read, and the columns that its folders give.
    """
    format_name, compression = format_of(url) or ("", None)
    compression = compression or "uncompressed"
    return (sha256, format_name, compression, *partition_texts(partition))
