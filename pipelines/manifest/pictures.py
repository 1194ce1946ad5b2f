"""Read a column that names pictures: text, bytes, Hugging Face's {bytes, path}, or lists of these.

Lists may also stand as JSON in a column of text, as CSV files and mixed JSON Lines have them.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.job.settings import NAMED_SETTINGS, base_setting
from nightpress.pipelines.manifest.codes import dictionary_indices
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.picture_urls import refuse_unusable
from nightpress.pipelines.manifest.refusals import Refusals

PICTURE_SETTINGS = ("init_image", "mask_image", "last_image", "control_image", "reference_image")

IMAGE_FIELDS = {"bytes", "path"}
"""The fields of an image in the Parquet files of Hugging Face's datasets."""


@dataclass(frozen=True)
class Pictures:
    """The k pictures that one column names, in the order of the rows and of their lists."""

    setting: str
    """The role of the pictures, such as `control_image.depth`."""
    column: str
    """The column's name in the manifest."""
    rows: Ints
    """(k,) the index of each picture's row."""
    places: Ints
    """(k,) its place in the row's list, from 0; -1 where the row gives no list."""
    urls: pa.Array
    """(k,) string; null where the manifest holds the bytes."""
    data: pa.Array
    """(k,) binary; null where there is a URL."""

    def __len__(self) -> int:
        return len(self.rows)


def is_picture_type(type_: pa.DataType, setting: str) -> bool:
    """Whether a column of this type can hold the pictures of a setting."""
    if _is_list(type_) and base_setting(setting) in NAMED_SETTINGS:
        type_ = type_.value_type
    if pa.types.is_struct(type_):
        return set(type_.names) == IMAGE_FIELDS and all(
            _is_bytes(field.type) if field.name == "bytes" else _is_text(field.type)
            for field in type_
        )
    return _is_text(type_) or _is_bytes(type_)


def read_pictures(
    setting: str, column: str, values: pa.Array, is_mixed: bool, refusals: Refusals
) -> Pictures:
    """The pictures of a column.

    Args:
        setting: the setting that the column gives.
        column: the column's name in the manifest.
        values: (n,) of a type for which `is_picture_type` is true.
        is_mixed: whether values of other JSON types stand in the column as their JSON.
        refusals: receives what is wrong with rows.
    """
    if pa.types.is_string(values.type) and base_setting(setting) in NAMED_SETTINGS:
        values, is_json = _with_json_lists(values, column, is_mixed, refusals)
    else:
        is_json = np.zeros(0, np.bool_)
    rows, places = np.arange(len(values)), np.full(len(values), -1)
    if _is_list(values.type):
        rows, places = list_places(values)
        values = pc.list_flatten(values)
        if len(is_json):
            places = np.where(is_json[rows], places, -1)
    urls, data = _urls_and_bytes(values)
    given = _valid(urls) | _valid(data)
    if not given.all():
        kept = pa.array(given)
        rows, places, urls, data = rows[given], places[given], urls.filter(kept), data.filter(kept)
    found = Pictures(setting, column, rows, places, urls, data)
    refuse_unusable(urls, lambda bad, why: refusals.add_entries(bad, rows, column, why))
    empty = np.array(pc.fill_null(pc.equal(pc.binary_length(data), 0), False))
    refusals.add_entries(empty, rows, column, lambda entry: "the picture has no bytes")
    return found


def _with_json_lists(
    values: pa.Array, column: str, is_mixed: bool, refusals: Refusals
) -> tuple[pa.Array, np.ndarray]:
    """The values as lists if some are JSON lists; and (n,) where they are, empty if none is."""
    may_be = pc.starts_with(pc.utf8_ltrim_whitespace(values), "[")
    if not is_mixed and not pc.any(may_be).as_py():
        return values, np.zeros(0, np.bool_)
    encoded = values.dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    read = [_json_list(text, is_mixed) for text in texts]
    indices = dictionary_indices(encoded)
    refusals.add(
        np.array([*(each is None for each in read), False])[indices],
        column,
        lambda row: (
            f"{texts[indices[row]][:60]!r} is neither a path nor a list of paths; a list is "
            'written as JSON: ["a.png", "b.png"]'
        ),
    )
    lists = pa.array(read, pa.list_(pa.string()))
    is_json = np.array([*(text.lstrip().startswith("[") for text in texts), False])[indices]
    return pc.take(lists, encoded.indices), is_json


def _json_list(text: str, is_mixed: bool) -> list[str | None] | None:
    """The texts of a JSON list, or the text alone; None if it is another JSON value."""
    if not text.lstrip().startswith("[") and not is_mixed:
        return [text]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None if text.lstrip().startswith("[") else [text]
    if isinstance(value, list) and all(each is None or isinstance(each, str) for each in value):
        return value
    return [text] if isinstance(value, str) else None


def list_places(lists: pa.Array) -> tuple[Ints, Ints]:
    """The row and the place in its list of each value of lists."""
    rows = np.array(pc.list_parent_indices(lists)).astype(np.int64)
    lengths = np.bincount(rows, minlength=len(lists))
    return rows, np.arange(len(rows)) - (np.cumsum(lengths) - lengths)[rows]


def _urls_and_bytes(values: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Each value's URL without blanks around it, and its bytes; at most one of them not null."""
    if pa.types.is_struct(values.type):
        data = _as_bytes(pc.struct_field(values, "bytes"))
        path = _as_text(pc.struct_field(values, "path"))
        return pc.if_else(data.is_valid(), None, path), data
    if _is_bytes(values.type) and not pa.types.is_null(values.type):
        return pa.nulls(len(values), pa.string()), _as_bytes(values)
    return _as_text(values), pa.nulls(len(values), pa.binary())


def _as_text(values: pa.Array) -> pa.Array:
    """Texts without blanks around them; null where nothing is left."""
    texts = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
    empty = pc.equal(pc.binary_length(texts), 0)
    return pc.if_else(empty, None, texts) if pc.any(empty).as_py() else texts


def _as_bytes(values: pa.Array) -> pa.Array:
    return pc.cast(values, pa.binary())


def _is_list(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_fixed_size_list)
    return any(is_kind(type_) for is_kind in kinds)


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_null(type_))


def _is_bytes(type_: pa.DataType) -> bool:
    kinds = (pa.types.is_binary, pa.types.is_fixed_size_binary, pa.types.is_null)
    return any(is_kind(type_) for is_kind in kinds)


def _valid(values: pa.Array) -> np.ndarray:
    return np.ones(len(values), np.bool_) if not values.null_count else np.array(values.is_valid())
