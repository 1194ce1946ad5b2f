"""Columns whose type differs between files."""

import pyarrow as pa
import pytest

from nightpress.pipelines.manifest.types import as_type, common_type, plain_type


@pytest.mark.parametrize(
    ("types", "common"),
    [
        ([pa.null(), pa.string()], pa.string()),
        ([pa.int8(), pa.int64()], pa.int64()),
        ([pa.int64(), pa.float64()], pa.float64()),
        ([pa.int64(), pa.string()], pa.string()),
        ([pa.list_(pa.int8()), pa.string()], pa.string()),
        ([pa.bool_(), pa.int8()], pa.string()),
    ],
)
def test_columns_of_different_types_become_the_wider_type_or_text(
    types: list[pa.DataType], common: pa.DataType
) -> None:
    assert common_type(types) == common
    assert common_type(reversed(types)) == common


def test_text_in_other_arrow_encodings_is_read_as_text() -> None:
    for type_ in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        assert plain_type(type_) == pa.string()


def test_lists_become_json_text() -> None:
    column = pa.chunked_array([pa.array([[1, 2], None])])
    assert as_type(column, pa.string()).to_pylist() == ["[1, 2]", None]
