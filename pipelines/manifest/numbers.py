"""Convert columns of integers, floats, decimals or text to numbers.

Whole columns are converted at once. A value that cannot be converted is recorded as a problem of
its row, not raised.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.manifest.row_problems import Mask, RowProblems

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"

WHOLE = r"^[+-]?\d*\.?0*$|[eE]"
"""A number in text without a fraction, or with an exponent. As floats, more numbers are whole."""

MAX_EXACT = 2.0**63
"""Floats from here on do not fit into an int64."""


def whole_numbers(column: pa.Array, name: str, problems: RowProblems) -> tuple[Ints, Mask]:
    """The column as integers: (n,) int64, and (n,) bool that is True where there is a number.

    `7`, `7.0` and the text `"7"` are whole numbers; other values except null are problems.
    """
    if pa.types.is_integer(column.type):
        return _integers(column, name, problems)
    if pa.types.is_string(column.type) or pa.types.is_decimal(column.type):
        column = _stripped(column) if pa.types.is_string(column.type) else column
        try:
            integers = pc.cast(column, pa.int64())
        except pa.ArrowInvalid:
            integers = None  # some value is no plain integer; the conversion to floats finds which
        is_text = pa.types.is_string(column.type)
        if integers is not None and not (is_text and _any_hexadecimal(column)):
            return _numpy(integers), _valid(column)
    values, given = numbers(column, name, problems)
    with np.errstate(invalid="ignore"):
        is_nan = np.isnan(values)
        fits = (np.abs(values) < MAX_EXACT) | is_nan
        whole = (np.floor(values) == values) | is_nan
    if pa.types.is_string(column.type):
        whole &= _flags(pc.match_substring_regex(column, WHOLE))
    problems.add(given & is_nan, name, _shown(column, "is not a number"))
    problems.add(given & ~fits, name, _shown(column, "is out of range"))
    problems.add(given & fits & ~whole, name, _shown(column, "is not a whole number"))
    given &= fits & whole & ~is_nan
    return np.where(given, values, 0.0).astype(np.int64), given


def _integers(column: pa.Array, name: str, problems: RowProblems) -> tuple[Ints, Mask]:
    """Integers of any width, never by way of floats; those of 2^63 and more are problems."""
    given = _valid(column)
    if pa.types.is_uint64(column.type):
        too_large = _flags(pc.greater_equal(column, pa.scalar(2**63, pa.uint64())))
        problems.add(too_large, name, _shown(column, "is out of range"))
        given &= ~too_large
        column = pc.if_else(pa.array(given), column, None)
    return _numpy(pc.cast(column, pa.int64())), given


def numbers(column: pa.Array, name: str, problems: RowProblems) -> tuple[Floats, Mask]:
    """The column as floats: (n,) float64, and (n,) bool that is True where there is a number.

    A float32 becomes the float64 with the same shortest decimal form: 7.1 stays 7.1.
    """
    if pa.types.is_null(column.type):
        return np.zeros(len(column)), np.zeros(len(column), np.bool_)
    if pa.types.is_floating(column.type) and column.type.bit_width < 64:
        column = _widened(column)
    if pa.types.is_string(column.type):
        column = _stripped(column)
        good = _flags(pc.match_substring_regex(column, NUMBER)) | ~_valid(column)
        problems.add(~good, name, lambda row: _not_a_number(column[row].as_py()))
        column = pc.if_else(pa.array(good), column, None)
    values = _numpy(pc.cast(column, pa.float64(), safe=False))
    return values, _valid(column)


def _not_a_number(text: str) -> str:
    hint = ""
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", text):
        hint = "; write it without commas between the thousands"
    elif re.fullmatch(r"[+-]?\d+,\d+", text):
        hint = "; write a decimal point, not a comma"
    return f"{text!r} is not a number{hint}"


def _any_hexadecimal(column: pa.Array) -> bool:
    """Whether a text has an x: Arrow takes `0x1F` for an integer."""
    return any(pc.any(pc.match_substring(column, letter)).as_py() for letter in "xX")


def _widened(column: pa.Array) -> pa.Array:
    encoded = column.dictionary_encode()
    texts = pc.cast(pc.cast(encoded.dictionary, pa.float32()), pa.string())
    return pc.take(pc.cast(texts, pa.float64()), encoded.indices)


def _stripped(column: pa.Array) -> pa.Array:
    """The texts without surrounding white space; null where nothing is left."""
    texts = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), None, texts)


def _shown(column: pa.Array, what: str) -> Callable[[int], str]:
    return lambda row: f"{column[row].as_py()!r} {what}"


def _numpy(column: pa.Array) -> NDArray[Any]:
    """A writable copy with 0 for null."""
    filled = pc.fill_null(column, 0) if column.null_count else column
    return np.array(filled)


def _valid(column: pa.Array) -> Mask:
    if not column.null_count:
        return np.ones(len(column), np.bool_)
    return _flags(pc.is_valid(column))


def _flags(column: pa.Array) -> Mask:
    filled = pc.fill_null(column, False) if column.null_count else column
    return np.array(filled)
