"""Columns of codes: each code is replaced by what the job's `columns` says it means."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.job.sections import ColumnMap
from nightpress.pipelines.manifest.numbers import MAX_EXACT, Ints
from nightpress.pipelines.manifest.row_problems import RowProblems


def decoded(values: pa.Array, column: ColumnMap, problems: RowProblems) -> pa.Array:
    """Replace codes with the text of their meanings; null stays null."""
    encoded = _as_codes(values).dictionary_encode()
    is_decimal = pa.types.is_decimal(values.type)
    codes = encoded.dictionary.to_pylist()
    meanings = [_meaning(code, column, is_decimal) for code in codes]
    unknown = [
        meaning is None and code != "" for meaning, code in zip(meanings, codes, strict=True)
    ]
    problems.add(
        np.array([*unknown, False])[dictionary_indices(encoded)],
        column.column,
        lambda row: (
            f"{encoded[row].as_py()!r} is not one of the codes in the job file's `columns`: "
            f"{', '.join(column.values)}"
        ),
    )
    return pc.take(pa.array(meanings, pa.string()), encoded.indices)


def _meaning(code: str, column: ColumnMap, is_decimal: bool) -> str | None:
    """What a code stands for, if the job says so; the decimal 1.00 may also be written as 1."""
    if code not in column.values and is_decimal and "." in code:
        code = code.rstrip("0").rstrip(".")
    return str(column.values[code]) if code in column.values else None


def _as_codes(values: pa.Array) -> pa.Array:
    """The values as text, floats that are whole numbers without a point."""
    if pa.types.is_string(values.type):
        return pc.utf8_trim_whitespace(values)
    if pa.types.is_floating(values.type):
        values = pc.cast(values, pa.float32()) if pa.types.is_float16(values.type) else values
        fits = pc.less(pc.abs(values), MAX_EXACT)
        whole = pc.and_(fits, pc.equal(values, pc.floor(values)))
        integers = pc.cast(pc.if_else(whole, values, None), pa.int64())
        return pc.coalesce(pc.cast(integers, pa.string()), pc.cast(values, pa.string()))
    return pc.cast(values, pa.string())


def dictionary_indices(encoded: pa.DictionaryArray) -> Ints:
    """Each value's index in the dictionary; -1 for null, the last item of a list one longer."""
    return np.array(pc.fill_null(encoded.indices, -1))
