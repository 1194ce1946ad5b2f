"""CSV and TSV: where records end, and which quotes are quotes.

Files in the wild mix two habits. MLPerf's captions quote a field and double the quotes inside;
PartiPrompts quotes nothing and has fields such as `"WOMBAT" painted on a wall`. One rule reads
both: a field is quoted when it begins with a quote and that quote closes right before a separator
or the end of the line; every other quote is text. Quoted fields may hold separators and newlines.
"""

import csv
import io
import re
from collections.abc import Callable

import pyarrow as pa
import pyarrow.csv

from nightpress.pipelines.manifest.text import Found

MAX_FIELD_BYTES = 1 << 20
"""A quote that has not closed after this many bytes is text: memory stays bounded."""

QUOTED = rb'"[^"]*+(?:""[^"]*+)*+"'
"""A quoted field, whatever follows it."""


class Delimited:
    """One dialect, told by what separates its fields: a comma or a tab."""

    has_header = True

    def __init__(self, separator: str) -> None:
        self.separator = separator
        between = re.escape(separator.encode())
        inside, end = b"[^" + between + rb"\r\n]", b"[" + between + rb"\r\n]"
        quoted = QUOTED + b"(?=" + end + b")"
        quoted_in_front = QUOTED + b'(?=[^"])' + inside + b"++"
        unquoted = b'(?!")' + inside + b"*+"
        field = b"(?:" + quoted + b"|" + quoted_in_front + b"|" + unquoted + b")"
        # Groups repeat greedily, not possessively: before Python 3.11.5 a possessive group loses
        # the alternatives inside it (CPython issue 106052).
        record = field + b"(?:" + between + field + b")*" + rb"\r?\n"
        self._record = re.compile(record)
        self._records = re.compile(b"(?:" + record + b")*")
        self._fields = re.compile(b"(?:" + field + between + b")*")
        self._sound = re.compile(b"(?:(?:" + QUOTED + b"|" + unquoted + b")" + end + b")*")
        self._inside = re.compile(inside + b"*+")
        self._quote_begins = re.compile(b"(?:^|" + end + b')"')

    def whole_records(self, data: bytes) -> int:
        """Up to the last newline that is not inside a quoted field."""
        if not self._quote_begins.search(data):
            return data.rfind(b"\n") + 1
        end = position = 0
        while True:
            start, position = position, _past(self._records, data, position)
            end = position if position > start else end
            stuck = _past(self._fields, data, position)
            if len(data) - stuck < MAX_FIELD_BYTES:
                return end
            position = _past(self._inside, data, stuck)

    def header(self, data: bytes) -> tuple[pa.Schema, int]:
        """The first record; a column without a name is called after its place."""
        data = _ended(data)
        num_bytes = _past(self._record, data, 0) or data.index(b"\n") + 1
        text = self._canonical(data[:num_bytes]).decode()
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=self.separator), [])
        fields = [(name or f"unnamed_{place}", pa.string()) for place, name in enumerate(names)]
        return pa.schema(fields), num_bytes

    def parse(self, data: bytes, schema: pa.Schema, found: Found) -> pa.Table:
        """Strings in every column; an empty field is null unless it is quoted."""
        canonical = self._canonical(_ended(data))
        return pyarrow.csv.read_csv(
            pa.BufferReader(canonical),
            pyarrow.csv.ReadOptions(
                use_threads=False, block_size=len(canonical) + 1, column_names=schema.names
            ),
            pyarrow.csv.ParseOptions(
                delimiter=self.separator,
                newlines_in_values=True,
                invalid_row_handler=_reporter(found),
            ),
            pyarrow.csv.ConvertOptions(
                column_types=schema,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    def _canonical(self, data: bytes) -> bytes:
        """The same records, with quotes around fields that only begin with a quote."""
        if not self._quote_begins.search(data):
            return data
        pieces, position = [], 0
        while position < len(data):
            sound = _past(self._sound, data, position)
            pieces.append(data[position:sound])
            position = _past(self._inside, data, sound)
            if position > sound:
                pieces.append(b'"' + data[sound:position].replace(b'"', b'""') + b'"')
        return b"".join(pieces)


def _ended(data: bytes) -> bytes:
    return data if data.endswith(b"\n") else data + b"\n"


def _past(pattern: "re.Pattern[bytes]", data: bytes, position: int) -> int:
    """Where a match of `pattern` at `position` ends; `position` if there is none."""
    match = pattern.match(data, position)
    return match.end() if match else position


def _reporter(found: Found) -> Callable[["pyarrow.csv.InvalidRow"], str]:
    def report(row: "pyarrow.csv.InvalidRow") -> str:
        found(
            row.number - 1,
            f"it has {row.actual_columns} fields, and the header names {row.expected_columns}",
        )
        return "skip"

    return report
