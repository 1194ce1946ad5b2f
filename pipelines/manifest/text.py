"""Text manifests: a file as blocks of whole records, and the plain form with a prompt a line.

A block can be read again by itself from its place in the file, so a large file is neither held
whole nor read from its start for every part. Knows nothing of what the columns mean.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc

BLOCK_BYTES = 4 << 20

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Found = Callable[[int, str], None]
"""Called with a record's number in its block and what is wrong with it."""


class TextFormat(Protocol):
    """How one kind of text file is cut into records and read."""

    has_header: bool

    def whole_records(self, data: bytes) -> int:
        """How many leading bytes of `data`, which begins with a record, are whole records."""

    def header(self, data: bytes) -> tuple[pa.Schema, int]:
        """The columns that `data` begins with naming, and how many bytes that takes."""

    def parse(self, data: bytes, schema: pa.Schema, found: Found) -> pa.Table:
        """Whole records as a table.

        Args:
            data: UTF-8 without a byte order mark.
            schema: the columns and types to read; an empty one finds them in the data.
            found: for a record that cannot be read, which the table then lacks.
        """


class PlainLines:
    """A prompt a line, every line a prompt."""

    has_header = False

    def whole_records(self, data: bytes) -> int:
        """Up to the last newline."""
        return data.rfind(b"\n") + 1

    def header(self, data: bytes) -> tuple[pa.Schema, int]:
        """The one column; nothing in the file names it."""
        return pa.schema([("prompt", pa.string())]), 0

    def parse(self, data: bytes, schema: pa.Schema, found: Found) -> pa.Table:
        """Lines without what ends them; an empty line is an empty prompt."""
        lines = pa.array([data.removesuffix(b"\n").decode()])
        prompts = pc.list_flatten(pc.split_pattern(lines, "\n"))
        return pa.table({"prompt": pc.utf8_rtrim(prompts, "\r")})


def blocks(stream: BinaryIO, form: TextFormat, start: int) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole records and the places where they begin.

    Args:
        stream: positioned at the first record.
        start: that position, in bytes.
    """
    rest = b""
    while chunk := read_up_to(stream, BLOCK_BYTES):
        data = rest + chunk
        end = form.whole_records(data)
        if end:
            yield start, data[:end]
        start += end
        rest = data[end:]
    if rest:
        yield start, rest


def read_up_to(stream: BinaryIO, num_bytes: int) -> bytes:
    """That many bytes, fewer only at the end: where blocks end must not depend on the store."""
    chunks = []
    while num_bytes and (chunk := stream.read(num_bytes)):
        chunks.append(bytes(chunk))
        num_bytes -= len(chunk)
    return b"".join(chunks)
