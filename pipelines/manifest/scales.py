"""Read a column of scales: a number a row, or a list with a number for each adapter."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.manifest.codes import dictionary_indices
from nightpress.pipelines.manifest.numbers import Floats, Ints, numbers
from nightpress.pipelines.manifest.pictures import list_places
from nightpress.pipelines.manifest.refusals import Refusals


@dataclass(frozen=True)
class Scales:
    """The k scales that one column gives, those without a list first."""

    setting: str
    column: str
    """The column's name in the manifest."""
    rows: Ints
    """(k,) the index of each scale's row."""
    places: Ints
    """(k,) its place in the row's list, from 0; -1 where the row gives no list."""
    values: Floats
    """(k,)"""


def is_scale_type(type_: pa.DataType) -> bool:
    """Whether a column of this type can hold scales: numbers, text, or lists of numbers."""
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        return is_scale_type(type_.value_type) and not pa.types.is_string(type_.value_type)
    if pa.types.is_string(type_) or pa.types.is_null(type_):
        return True
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(is_kind(type_) for is_kind in kinds)


def read_scales(setting: str, column: str, values: pa.Array, refusals: Refusals) -> Scales:
    """The scales of a column, each finite and not negative.

    Args:
        setting: the setting that the column gives.
        column: the column's name in the manifest.
        values: (n,) of a type for which `is_scale_type` is true.
        refusals: receives what is wrong with rows.
    """
    lists = pa.nulls(len(values), pa.list_(pa.float64()))
    if pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        values, lists = pa.nulls(len(values)), values
    elif pa.types.is_string(values.type):
        values, lists = _split(values, column, refusals)
    alone, given = numbers(values, column, refusals.problems)
    listed, in_list = numbers(pc.list_flatten(lists), column, refusals.problems)
    list_rows, places = list_places(lists)
    rows = np.concatenate([np.flatnonzero(given), list_rows[in_list]])
    places = np.concatenate([np.full(given.sum(), -1), places[in_list]])
    found = np.concatenate([alone[given], listed[in_list]])
    bad = ~(np.isfinite(found) & (found >= 0))
    refusals.add_entries(
        bad, rows, column, lambda entry: f"{found[entry]:g} is not a finite number of 0 or more"
    )
    # adding 0.0 makes -0.0 the same scale as 0.0
    return Scales(setting, column, rows, places, np.where(bad, 0.0, found) + 0.0)


def _split(values: pa.Array, column: str, refusals: Refusals) -> tuple[pa.Array, pa.Array]:
    """The texts of numbers, and the lists that stand as JSON; null where it is the other one."""
    empty = pa.nulls(len(values), pa.list_(pa.float64()))
    is_list = pc.starts_with(pc.utf8_ltrim_whitespace(values), "[")
    if not pc.any(is_list).as_py():
        return values, empty
    encoded = pc.if_else(is_list, values, None).dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    read = [_numbers(text) for text in texts]
    indices = dictionary_indices(encoded)
    refusals.add(
        np.array([*(each is None for each in read), False])[indices],
        column,
        lambda row: f"{texts[indices[row]][:60]!r} is not a list of numbers, such as [0.5, 0.8]",
    )
    lists = pc.take(pa.array(read, pa.list_(pa.float64())), encoded.indices)
    return pc.if_else(is_list, None, values), lists


def _numbers(text: str) -> list[float | None] | None:
    """The numbers of a JSON list; None if it is no such list."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and all(_is_number(each) for each in value):
        return [None if each is None else float(each) for each in value]
    return None


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
