"""CSV and TSV: find where records end and which quotation marks delimit a field.

Real files mix two conventions. MLPerf's captions quote a field and double the quotes inside;
PartiPrompts quotes nothing and has fields such as `"WOMBAT" painted on a wall`. One rule reads
both: a field is quoted if it begins with a quote and that quote closes right before a separator or
the end of the line; any other quote is text. Quoted fields may contain separators and newlines.
"""

import csv
import io
import re
from collections.abc import Callable

import pyarrow as pa
import pyarrow.csv

from nightpress.pipelines.formatting import plural
from nightpress.pipelines.manifest.text import OnBadRecord

MAX_FIELD_BYTES = 1 << 20
"""A quote that is not closed within this many bytes is text, which bounds the memory used."""

QUOTED = rb'"[^"]*+(?:""[^"]*+)*+"'
"""Matches a quoted field, whatever follows it."""


class Delimited:
    """Text with one record a line and fields separated by a comma or a tab."""

    has_header = True

    def __init__(self, separator: str) -> None:
        self.separator = separator
        separator_pattern = re.escape(separator.encode())
        inside, end = b"[^" + separator_pattern + rb"\r\n]", b"[" + separator_pattern + rb"\r\n]"
        quoted = QUOTED + b"(?=" + end + b")"
        quoted_in_front = QUOTED + b'(?=[^"])' + inside + b"++"
        unquoted = b'(?!")' + inside + b"*+"
        field = b"(?:" + quoted + b"|" + quoted_in_front + b"|" + unquoted + b")"
        # Groups repeat greedily, not possessively: before Python 3.11.5 a possessive group loses
        # the alternatives inside it (CPython issue 106052).
        record = field + b"(?:" + separator_pattern + field + b")*" + rb"\r?\n"
        self._record = re.compile(record)
        self._records = re.compile(b"(?:" + record + b")*")
        self._fields = re.compile(b"(?:" + field + separator_pattern + b")*")
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
        """The column names in the first record; a nameless column is called `unnamed_<number>`."""
        data = _ended(data)
        num_bytes = _past(self._record, data, 0) or data.index(b"\n") + 1
        text = self._canonical(data[:num_bytes]).decode()
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=self.separator), [])
        fields = [(name or f"unnamed_{number}", pa.string()) for number, name in enumerate(names)]
        return pa.schema(fields), num_bytes

    def parse(self, data: bytes, schema: pa.Schema, on_bad_record: OnBadRecord) -> pa.Table:
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
                invalid_row_handler=_reporter(on_bad_record),
            ),
            pyarrow.csv.ConvertOptions(
                column_types=schema,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    def _canonical(self, data: bytes) -> bytes:
        """The same records in standard CSV: fields that merely begin with a quote are quoted."""
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
    """The end of a match of `pattern` at `position`; `position` if it does not match."""
    match = pattern.match(data, position)
    return match.end() if match else position


def _reporter(on_bad_record: OnBadRecord) -> Callable[["pyarrow.csv.InvalidRow"], str]:
    def report(row: "pyarrow.csv.InvalidRow") -> str:
        on_bad_record(
            row.number - 1,
            f"it has {plural(row.actual_columns, 'field')}, but the header names "
            f"{row.expected_columns}",
        )
        return "skip"

    return report
