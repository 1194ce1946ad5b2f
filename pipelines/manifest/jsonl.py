"""JSON Lines: one object a line, whose keys are the columns.

Arrow's parser reads most blocks. A block that is malformed or mixes types in a column is parsed
again in Python, line by line, which tells which line is at fault. Dates stay text.
"""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.json

from nightpress.pipelines.manifest.text import OnBadRecord
from nightpress.pipelines.manifest.types import to_text


class JsonLines:
    """One JSON object a line; blank lines are skipped."""

    has_header = False

    def whole_records(self, data: bytes) -> int:
        """Up to the last newline: inside JSON text a newline is always escaped."""
        return data.rfind(b"\n") + 1

    def header(self, data: bytes) -> tuple[pa.Schema, int]:
        """No columns: every object names its own."""
        return pa.schema([]), 0

    def parse(self, data: bytes, schema: pa.Schema, on_bad_record: OnBadRecord) -> pa.Table:
        """Columns in order of first appearance; missing keys are null, mixed types become text."""
        if not data.strip():
            return schema.empty_table()
        try:
            table = _read(data, schema)
            names = schema.names or table.schema.names
            dated = [field.name for field in table.schema if pa.types.is_temporal(field.type)]
            if dated and not schema.names:
                table = _read(data, pa.schema([(name, pa.string()) for name in dated]), "infer")
        except pa.ArrowInvalid:
            return _read_lines(data, schema, on_bad_record)
        return table.select(names)


def _read(data: bytes, schema: pa.Schema, others: str = "ignore") -> pa.Table:
    return pyarrow.json.read_json(
        pa.BufferReader(data),
        pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        pyarrow.json.ParseOptions(
            explicit_schema=schema,
            unexpected_field_behavior=others if schema.names else "infer",
        ),
    )


def _read_lines(data: bytes, schema: pa.Schema, on_bad_record: OnBadRecord) -> pa.Table:
    rows = list(_objects(data, on_bad_record))
    types = {field.name: field.type for field in schema}
    if not types:
        types = dict.fromkeys(name for row in rows for name in row)
    return pa.table(
        {name: _column([row.get(name) for row in rows], type_) for name, type_ in types.items()}
    )


def _objects(data: bytes, on_bad_record: OnBadRecord) -> Iterator[dict[str, Any]]:
    lines = (line for line in data.decode().split("\n") if line.strip())
    for number, line in enumerate(lines):
        try:
            value = json.loads(line)
        except ValueError as error:
            on_bad_record(number, f"not JSON: {error}")
            continue
        if _has_lone_surrogate(value):
            on_bad_record(number, "its text has half a character: a lone surrogate such as \\ud800")
        elif isinstance(value, dict):
            yield value
        else:
            on_bad_record(number, 'not a JSON object, such as {"prompt": "a cat"}')


def _has_lone_surrogate(value: Any) -> bool:
    """Whether a string holds a surrogate that JSON can escape but UTF-8 cannot encode."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _column(values: list[Any], type_: pa.DataType | None) -> pa.Array:
    """The values as one column; as text where they share no type."""
    if type_ is not None and pa.types.is_string(type_):
        return to_text(values)
    try:
        return pa.array(values, type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return to_text(values)
