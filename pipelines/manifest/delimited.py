"""CSV and TSV: where records end, and what is in quotes.

Reads what Python's `csv` module reads with `strict=True`, and refuses the rest: a field that begins
with a quote must end with one, and quotes inside it are doubled; any other quote is text. Readers
that are not strict disagree on what `"WOMBAT" painted` is, and drop its quotes.

TSV has a second dialect, without quoting (IANA text/tab-separated-values, `csv.QUOTE_NONE`):
`QuotesAreText`. PartiPrompts is written in it.
"""

import csv
import io
import re
from collections.abc import Callable

import pyarrow as pa
import pyarrow.csv

from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.text_bytes import BadText, check_characters, lone_cr
from nightpress.pipelines.manifest.text import OnBadRecord, ScannedBlock, whole_lines

QUOTED = rb'"[^"]*+(?:""[^"]*+)*+"'
"""Matches a quoted field, whatever follows it."""

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


SHOWN_BYTES = 160
"""Enough for the first forty characters of a field."""


class TextAfterQuote(BadText):
    """A field begins with a quoted text but goes on after it."""


class Delimited:
    """Text with one record a line and fields separated by a comma or a tab."""

    has_header = True

    def __init__(self, separator: str) -> None:
        self.separator = separator
        separator_pattern = re.escape(separator.encode())
        inside, end = b"[^" + separator_pattern + rb"\r\n]", b"[" + separator_pattern + rb"\r\n]"
        quoted = QUOTED + b"(?=" + end + b")"
        unquoted = b'(?!")' + inside + b"*+"
        field = b"(?:" + quoted + b"|" + unquoted + b")"
        # Groups repeat greedily, not possessively: before Python 3.11.5 a possessive group loses
        # the alternatives inside it (CPython issue 106052).
        record = field + b"(?:" + separator_pattern + field + b")*" + rb"\r?\n"
        self._record = re.compile(record)
        self._records = re.compile(b"(?:" + record + b")*")
        self._fields = re.compile(b"(?:" + field + separator_pattern + b")*")
        self._field = re.compile(field)
        self._quoted = re.compile(QUOTED)
        self._quote_begins = re.compile(b"(?:^|" + end + b')"')

    def whole_records(self, data: bytes, last: bool) -> int:
        """Up to the last line end that is not inside a quoted field."""
        if not self._has_quoted_fields(data):
            return whole_lines(data, last)
        text = _ended(data) if last else data
        end = _past(self._records, text, 0)
        if end < len(text):
            self._refuse_broken(text, _past(self._fields, text, end), last)
        return len(data) if last else end

    def record_starts(self, data: bytes) -> list[int]:
        """Empty lines between records are no records."""
        text, starts, position = _ended(data), [], 0
        while position < len(data):
            end = max(_past(self._record, text, position), position + 1)
            if text[position:end].strip(b"\r\n"):
                starts.append(position)
            position = end
        return starts

    def header(self, data: bytes, last: bool) -> tuple[pa.Schema, int]:
        """The column names in the first record; a nameless column is called `unnamed_<number>`."""
        data = _ended(data) if last else data
        num_bytes = _past(self._record, data, 0)
        self._refuse_other_separators(data[: num_bytes or data.find(b"\n")])
        if not num_bytes:
            self._refuse_broken(data, _past(self._fields, data, 0), last)
            raise BadText(0, f"the header does not end within {len(data) >> 20} MiB")
        line = data[:num_bytes]
        if not line.strip():
            raise BadText(0, "this line is empty, but the first line must name the columns")
        self._refuse_separator_line(line)
        names = _all_named(self._names(line))
        return pa.schema([(name, pa.string()) for name in names]), num_bytes

    def scan(self, data: bytes, header: pa.Schema, on_bad_record: OnBadRecord) -> ScannedBlock:
        """Count the records, and report those with another number of fields than the header."""
        check_characters(data)
        num_bad = 0

        def report(row: "pyarrow.csv.InvalidRow") -> str:
            nonlocal num_bad
            num_bad += 1
            on_bad_record(row.number - 1, self._wrong_count(row))
            return "skip"

        table = self._read(data, header, report)
        types = {field.name: field.type for field in table.schema}
        return ScannedBlock(table.num_rows + num_bad, types)

    def common_type(self, one: pa.DataType, other: pa.DataType) -> pa.DataType:
        """Text."""
        return pa.string()

    def final_type(self, type_: pa.DataType) -> pa.DataType:
        """Text."""
        return type_

    def parse(self, data: bytes, schema: pa.Schema) -> pa.Table:
        """Strings in every column; an empty field is null unless it is quoted."""
        return self._read(data, schema, lambda row: "skip")

    def _read(
        self,
        data: bytes,
        schema: pa.Schema,
        on_bad_row: Callable[["pyarrow.csv.InvalidRow"], str],
    ) -> pa.Table:
        return pyarrow.csv.read_csv(
            pa.BufferReader(data),
            pyarrow.csv.ReadOptions(
                use_threads=False, block_size=len(data) + 1, column_names=schema.names
            ),
            self._dialect(on_bad_row),
            pyarrow.csv.ConvertOptions(
                column_types=schema,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )

    def _dialect(
        self, on_bad_row: Callable[["pyarrow.csv.InvalidRow"], str]
    ) -> "pyarrow.csv.ParseOptions":
        return pyarrow.csv.ParseOptions(
            delimiter=self.separator, newlines_in_values=True, invalid_row_handler=on_bad_row
        )

    def _names(self, line: bytes) -> list[str]:
        text = io.StringIO(line.decode(), newline="")
        return next(csv.reader(text, delimiter=self.separator, strict=True))

    def _has_quoted_fields(self, data: bytes) -> bool:
        return b'"' in data and self._quote_begins.search(data) is not None

    def _refuse_broken(self, data: bytes, start: int, last: bool) -> None:
        """Raise if the field at `start`, which no whole record holds, can never become one."""
        quoted = self._quoted.match(data, start)
        end = _past(self._field, data, start) if quoted is None else quoted.end()
        after = data[end : end + 2]
        if data.startswith(b'"', start) and quoted is None:
            if last:
                raise BadText(start, f"a quote opens here and is not closed: {_shown(data, start)}")
        elif after.startswith(b"\r") and after not in (b"\r", b"\r\n"):
            raise lone_cr(end)
        elif quoted is not None and after not in (b"", b"\r"):
            if not last and b"\n" not in data[end:] and len(data) - start < SHOWN_BYTES:
                return  # shows more of the field when there is more of it
            raise TextAfterQuote(
                start,
                f"text follows a closing quote: {_shown(data, start, end)}; a field that begins "
                "with a quote must end with one, and quotes inside it are doubled",
            )

    def _refuse_other_separators(self, line: bytes) -> None:
        """Refuse a header that another separator cuts into more columns."""
        text = self._quoted.sub(b"", line).decode("utf-8", "ignore")
        own = text.count(self.separator)
        for separator, name in SEPARATORS.items():
            if separator != self.separator and text.count(separator) > own:
                right = SEPARATORS[self.separator]
                otherwise = f"or put the name of a column in quotes if {name} belong to it"
                if _is_separator_line(line, separator):
                    otherwise = "without Excel's separator line"
                raise BadText(
                    0,
                    f"it looks like {name} separate its columns; save it with {right}, {otherwise}",
                )

    def _refuse_separator_line(self, line: bytes) -> None:
        if _is_separator_line(line, self.separator):
            raise BadText(0, "this is Excel's separator line, not the names of columns; delete it")

    def _wrong_count(self, row: "pyarrow.csv.InvalidRow") -> str:
        found = plural(row.actual_columns, "field")
        what = f"it has {found}, but the header names {row.expected_columns}"
        if row.actual_columns <= row.expected_columns:
            return what
        name = "comma" if self.separator == "," else "tab"
        return f"{what}; a field that contains a {name} must be in quotes"


class QuotesAreText(Delimited):
    """Fields separated by tabs in which no quote has a meaning: `csv.QUOTE_NONE`.

    A field that is wholly in quotes is refused, because then they may have a meaning.
    """

    def __init__(self, separator: str) -> None:
        super().__init__(separator)
        end = b"(?:" + re.escape(separator.encode()) + rb"|\r|\n|\Z)"
        self._wholly_quoted = re.compile(b"(?:^|" + end + b")(" + QUOTED + b")(?=" + end + b")")
        self._record = re.compile(rb"[^\r\n]*\r?\n")

    def whole_records(self, data: bytes, last: bool) -> int:
        """Up to the last line end."""
        end = whole_lines(data, last)
        self._refuse_wholly_quoted(data[:end])
        return end

    def header(self, data: bytes, last: bool) -> tuple[pa.Schema, int]:
        """The column names in the first line."""
        schema, num_bytes = super().header(data, last)
        self._refuse_wholly_quoted(data[:num_bytes])
        return schema, num_bytes

    def _refuse_wholly_quoted(self, data: bytes) -> None:
        match = self._wholly_quoted.search(data)
        if match:
            raise TextAfterQuote(match.start(1), "a field is wholly in quotes")

    def _dialect(
        self, on_bad_row: Callable[["pyarrow.csv.InvalidRow"], str]
    ) -> "pyarrow.csv.ParseOptions":
        return pyarrow.csv.ParseOptions(
            delimiter=self.separator, quote_char=False, invalid_row_handler=on_bad_row
        )

    def _names(self, line: bytes) -> list[str]:
        return line.decode().rstrip("\r\n").split(self.separator)


def _all_named(names: list[str]) -> list[str]:
    """The names of all columns, with a name for those that have none."""
    named = [name or f"unnamed_{number}" for number, name in enumerate(names)]
    for number, (name, given) in enumerate(zip(named, names, strict=True), 1):
        if not given and name in names:
            raise BadText(
                0,
                f"column number {number} has no name, and {name!r}, which it would get, is that "
                "of another column; give it a name",
            )
    return named


def _is_separator_line(line: bytes, separator: str) -> bool:
    """Whether it is `sep=,`, which tells Excel how the lines below are separated."""
    text = line.decode("utf-8", "ignore").strip("\r\n").lower()
    return text.strip('"') == f"sep={separator}"


def _ended(data: bytes) -> bytes:
    return data if data.endswith(b"\n") else data + b"\n"


def _past(pattern: "re.Pattern[bytes]", data: bytes, position: int) -> int:
    """The end of a match of `pattern` at `position`; `position` if it does not match."""
    match = pattern.match(data, position)
    return match.end() if match else position


def _shown(data: bytes, start: int, after: int = 0) -> str:
    """The beginning of a field, for messages, up to the line end that comes after `after`."""
    line_end = data.find(b"\n", after) if after else -1
    stop = start + SHOWN_BYTES if line_end < 0 else min(line_end, start + SHOWN_BYTES)
    text = data[start:stop].decode("utf-8", "ignore")
    shown = " ".join(text[:40].split())
    return f"{shown}..." if len(text) > 40 else shown
