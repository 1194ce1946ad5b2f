"""JSON Lines: one object a line, whose keys are the columns.

Arrow's parser reads most blocks. It accepts more than JSON and changes some values, so a block is
read by Python's `json`, line by line, if it may hold such a line. That also tells which line is
wrong. Text that looks like a date stays text.
"""

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
from numpy.typing import NDArray

from nightpress.pipelines.job.text_bytes import (
    BadText,
    check_characters,
    check_later_characters,
)
from nightpress.pipelines.manifest.json_types import (
    common_type,
    final_type,
    has_lists_of_null,
    may_differ,
    type_of_column,
    type_of_values,
)
from nightpress.pipelines.manifest.text import (
    OnBadRecord,
    ScannedBlock,
    line_starts,
    whole_lines,
)

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

BLANK = b" \t\r"

MAX_BRACKETS = 800
"""A line with fewer brackets cannot be nested so deeply that Arrow's parser crashes."""

NOT_AN_OBJECT = 'not a JSON object, such as {"prompt": "a cat"}'


class JsonLines:
    """One JSON object a line; blank lines are skipped."""

    has_header = False

    def whole_records(self, data: bytes, last: bool) -> int:
        """Up to the last line end: inside JSON text one is always escaped."""
        return whole_lines(data, last)

    def record_starts(self, data: bytes) -> list[int]:
        """The lines that are not blank."""
        starts = line_starts(data)
        ends = [*starts[1:], len(data)]
        return [
            start
            for start, end in zip(starts, ends, strict=True)
            if data[start:end].strip(BLANK + b"\n")
        ]

    def header(self, data: bytes, last: bool) -> tuple[pa.Schema, int]:
        """No columns: every object names its own."""
        first, _, others = data.lstrip(BLANK + b"\n").partition(b"\n")
        are_lists = bool(others.strip()) and _is_json(first)
        if (first.startswith(b"[") and not are_lists) or first.strip() == b"{":
            raise BadText(
                data.index(first),
                "it is one JSON value, but JSON Lines has one object a line; `jq -c .` writes an "
                "object on one line, and `jq -c '.[]'` those of a list",
            )
        return pa.schema([]), 0

    def scan(self, data: bytes, header: pa.Schema, on_bad_record: OnBadRecord) -> ScannedBlock:
        """Columns in order of first appearance."""
        if data.isspace():
            check_characters(data)
            return ScannedBlock(0, {})
        lines = _as_lines(data)
        table = None if lines is None else _inferred(lines)
        if table is None:
            check_characters(data)
            return _scan_lines(data, on_bad_record)
        check_later_characters(data)  # Arrow refuses the control characters of ASCII itself
        types = {name: type_of_column(table[name]) for name in table.schema.names}
        return ScannedBlock(table.num_rows, types)

    def common_type(self, one: pa.DataType | None, other: pa.DataType | None) -> pa.DataType | None:
        """See `json_types`."""
        return common_type(one, other)

    def final_type(self, type_: pa.DataType | None) -> pa.DataType:
        """See `json_types`."""
        return final_type(type_)

    def parse(self, data: bytes, schema: pa.Schema) -> pa.Table:
        """Missing keys are null."""
        if data.isspace():
            return schema.empty_table()
        if any(has_lists_of_null(field.type) for field in schema):
            return _parse_lines(data, schema)
        try:
            return _read(data, schema).select(schema.names)
        except pa.ArrowInvalid:
            return _parse_lines(data, schema)


@dataclass(frozen=True)
class _Lines:
    """Lines that each begin and end with braces, and may be given to Arrow."""

    data: bytes
    num_lines: int


def _as_lines(data: bytes) -> _Lines | None:
    """The lines without blank ones; None if one is no object, or nested too deeply for Arrow.

    Where every line begins with `{` and ends with `}`, no object goes on over several lines. With
    as many objects as lines, each is on a line of its own.
    """
    values = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(values == ord("\n"))
    first = np.concatenate([[0], ends[:-1] + 1])
    simple = (
        data.endswith(b"}\n")
        and (values[first] == ord("{")).all()
        and (values[np.maximum(ends - 1, 0)] == ord("}")).all()
    )
    if simple:
        return _Lines(data, len(ends)) if _is_shallow(values, ends) else None
    lines = [line for line in (line.strip(BLANK) for line in data.split(b"\n")) if line]
    stripped = b"\n".join(lines) + b"\n"
    return None if stripped == data else _as_lines(stripped)


def _is_shallow(values: Bytes, ends: Ints) -> bool:
    """Whether no line has so many brackets that it may be nested too deeply for Arrow's parser."""
    if np.diff(ends, prepend=0).max() < MAX_BRACKETS:
        return True
    opening = np.flatnonzero((values == ord("{")) | (values == ord("[")))
    per_line = np.diff(np.searchsorted(opening, ends), prepend=0)
    return bool(per_line.max() < MAX_BRACKETS)


def _inferred(lines: _Lines) -> pa.Table | None:
    """The lines as Arrow reads them without a schema; None unless that is exactly what they say."""
    try:
        table = _read(lines.data, pa.schema([]))
    except pa.ArrowInvalid:
        return None
    if table.num_rows != lines.num_lines or any(map(may_differ, table.columns)):
        return None
    return table


def _read(data: bytes, schema: pa.Schema) -> pa.Table:
    return pyarrow.json.read_json(
        pa.BufferReader(data),
        pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        pyarrow.json.ParseOptions(
            explicit_schema=schema,
            unexpected_field_behavior="ignore" if schema.names else "infer",
        ),
    )


def _scan_lines(data: bytes, on_bad_record: OnBadRecord) -> ScannedBlock:
    columns: dict[str, list[Any]] = {}
    lines = _lines(data)
    for number, line in enumerate(lines):
        try:
            row = _object(line)
        except ValueError as error:
            on_bad_record(number, str(error))
            continue
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    types = {name: type_of_values(values) for name, values in columns.items()}
    return ScannedBlock(len(lines), types)


def _lines(data: bytes) -> list[str]:
    return [line for line in data.decode().split("\n") if line.strip(BLANK.decode())]


def _object(line: str) -> dict[str, Any]:
    """A line's object.

    Raises:
        ValueError: the line is not one JSON object, or it says something twice or not exactly.
    """
    try:
        value = DECODER.decode(line)
        has_surrogate = "\\u" in line and _has_lone_surrogate(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.colno}") from error
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(NOT_AN_OBJECT)
    if has_surrogate:
        raise ValueError("its text has half a character: a lone surrogate such as \\ud800")
    return value


def _is_json(line: bytes) -> bool:
    """Whether a line is a whole JSON value by itself."""
    try:
        DECODER.decode(line.decode().strip())
    except (ValueError, RecursionError):
        return False
    return True


def _has_lone_surrogate(value: Any) -> bool:
    """Whether a string holds a surrogate that JSON can escape but UTF-8 cannot encode."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it has the key {name!r} twice")
    return values


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        shown = text if len(text) <= 20 else f"{text[:10]}...{text[-5:]}"
        raise ValueError(f"the number {shown} is larger than any float")
    return value


DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats, parse_float=_number)


def _parse_lines(data: bytes, schema: pa.Schema) -> pa.Table:
    """A block that Arrow cannot read with this schema: some columns are the text of any JSON.

    Raises:
        ArrowInvalid: this is not the block that was scanned.
    """
    lines = _lines(data)
    try:
        rows = [_object(line) for line in lines]
        columns = [_column(field, rows, lines) for field in schema]
    except (ValueError, TypeError, RecursionError) as error:
        raise pa.ArrowInvalid(str(error)) from error
    return pa.table(columns, schema=schema)


def _column(field: pa.Field, rows: list[dict[str, Any]], lines: list[str]) -> pa.Array:
    values = [row.get(field.name) for row in rows]
    if pa.types.is_string(field.type):
        values = [
            value if value is None or isinstance(value, str) else _as_written(line, field.name)
            for value, line in zip(values, lines, strict=True)
        ]
    return pa.array(values, field.type)


def _as_written(line: str, wanted: str) -> str:
    """The JSON of one key's value, just as the line has it."""
    position = _past_blanks(line, line.index("{") + 1)
    while True:
        name, position = DECODER.raw_decode(line, position)
        start = _past_blanks(line, _past_blanks(line, position) + 1)
        _, end = DECODER.raw_decode(line, start)
        if name == wanted:
            return line[start:end]
        position = _past_blanks(line, _past_blanks(line, end) + 1)


def _past_blanks(line: str, position: int) -> int:
    while line[position] in " \t\r":
        position += 1
    return position
