"""Text manifests: split a file into blocks of whole records; plain text with one prompt a line.

Each block can be read again by itself from its position, so a large file is neither held in memory
nor read from its start for every part of the plan.
"""

from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc

BLOCK_BYTES = 4 << 20

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

OnBadRecord = Callable[[int, str], None]
"""Called with the number of a record in its block and what is wrong with it."""


class TextFormat(Protocol):
    """How one text format is split into records and parsed."""

    has_header: bool

    def whole_records(self, data: bytes) -> int:
        """How many leading bytes of `data`, which begins with a record, form whole records."""

    def header(self, data: bytes) -> tuple[pa.Schema, int]:
        """The columns named at the beginning of `data`, and how many bytes the header takes."""

    def parse(self, data: bytes, schema: pa.Schema, on_bad_record: OnBadRecord) -> pa.Table:
        """Parse whole records into a table.

        Args:
            data: UTF-8 without a byte order mark.
            schema: the columns and types to read; if empty, they are inferred from the data.
            on_bad_record: called for each record that cannot be read; the table leaves it out.
        """


class PlainLines:
    """Plain text: every line is a prompt."""

    has_header = False

    def whole_records(self, data: bytes) -> int:
        """Up to the last newline."""
        return data.rfind(b"\n") + 1

    def header(self, data: bytes) -> tuple[pa.Schema, int]:
        """The one column, `prompt`; the file has no header."""
        return pa.schema([("prompt", pa.string())]), 0

    def parse(self, data: bytes, schema: pa.Schema, on_bad_record: OnBadRecord) -> pa.Table:
        """The lines without their line endings; an empty line is an empty prompt."""
        lines = pa.array([data.removesuffix(b"\n").decode()])
        prompts = pc.list_flatten(pc.split_pattern(lines, "\n"))
        return pa.table({"prompt": pc.utf8_rtrim(prompts, "\r")})


def split_into_blocks(
    stream: BinaryIO, form: TextFormat, start: int
) -> Iterator[tuple[int, bytes]]:
    """Blocks of whole records, each with the position in bytes where it begins.

    Args:
        stream: positioned at the first record.
        start: that position in bytes.
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
    """Read `num_bytes` unless the stream ends, so that blocks do not depend on the store."""
    chunks = []
    while num_bytes and (chunk := stream.read(num_bytes)):
        chunks.append(bytes(chunk))
        num_bytes -= len(chunk)
    return b"".join(chunks)
