"""Convert columns with lists or objects in which nothing but null was seen.

Arrow 26 miscounts such lists when it casts them to their own type, as it does with a part of an
object whose other parts change. They are cast to lists of integers first.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from nightpress.pipelines.manifest.python_values import with_types
from nightpress.pipelines.manifest.types import holds

Cast = Callable[[pa.ChunkedArray, pa.DataType], pa.ChunkedArray]


def cast_with(cast: Cast, column: pa.ChunkedArray, type_: pa.DataType) -> pa.ChunkedArray:
    """What `cast` makes of a column, with the right number of nulls in its lists."""
    if column.type.equals(type_, check_metadata=True):
        return column
    if not type_.num_fields or not holds(type_, pa.types.is_null):
        return cast(column, type_)
    integers = with_types(type_, lambda each: pa.int8() if pa.types.is_null(each) else each)
    chunks = [_with_nulls(chunk, type_) for chunk in cast(column, integers).chunks]
    return pa.chunked_array(chunks, type_)


def _with_nulls(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """The array with the null type in place of integers that are all null."""
    if array.type == type_:
        return array
    if pa.types.is_null(type_):
        return pa.nulls(len(array))
    if pa.types.is_struct(type_):
        fields = list(type_)
        children = [_with_nulls(array.field(i), field.type) for i, field in enumerate(fields)]
        return pa.StructArray.from_arrays(children, fields=fields, mask=array.is_null())
    if pa.types.is_list(type_):
        values = _with_nulls(array.values, type_.value_type)
        offsets = pa.array(np.array(array.offsets))
        return pa.ListArray.from_arrays(offsets, values, type=type_, mask=array.is_null())
    return pa.array(array.to_pylist(), type_)
