"""What a README tells `datasets` about the samples of tars, which it would else guess.

It guesses from the first samples: a column that is null in these could then not be read at all, and
images of a second format would be null.
Reference: huggingface.co/docs/datasets, "Structure your repository", the key `dataset_info`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa


def tar_features(suffixes: Sequence[str], columns: pa.Schema) -> list[dict[str, Any]]:
    """The features of samples with an image, `.txt` and, if there are columns, `.json`.

    Args:
        suffixes: those of the images, without dots.
        columns: the columns that a `.json` holds, with their types before they became JSON.
    """
    texts = [{"name": name, "dtype": "string"} for name in ("txt", "__key__", "__url__")]
    images = [{"name": suffix, "dtype": "image"} for suffix in suffixes]
    json = [{"name": "json", "struct": _struct(columns)}] if len(columns) else []
    return [*images, *json, *texts]


def _struct(fields: Iterable[pa.Field]) -> list[dict[str, Any]]:
    return [{"name": field.name, **_feature(field.type)} for field in fields]


def _feature(type_: pa.DataType) -> dict[str, Any]:
    """The feature of a value as JSON has it: what has no form of its own there is text."""
    if pa.types.is_struct(type_):
        return {"struct": _struct(type_)}
    if (
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
    ):
        inner = _feature(type_.value_type)
        return {"list": inner.get("dtype") or inner.get("struct") or inner}
    if pa.types.is_boolean(type_):
        return {"dtype": "bool"}
    if pa.types.is_integer(type_):
        return {"dtype": "uint64" if type_ == pa.uint64() else "int64"}
    return {"dtype": "float64" if pa.types.is_floating(type_) else "string"}


_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
