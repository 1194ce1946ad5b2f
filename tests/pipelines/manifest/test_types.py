"""What happens when files disagree on a column's type."""

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
def test_columns_meet_in_the_wider_type_or_in_text(
    types: list[pa.DataType], common: pa.DataType
) -> None:
    assert common_type(types) == common
    assert common_type(reversed(types)) == common


def test_other_encodings_of_text_are_text() -> None:
    for type_ in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        assert plain_type(type_) == pa.string()


def test_lists_become_text_as_json_writes_them() -> None:
    column = pa.chunked_array([pa.array([[1, 2], None])])
    assert as_type(column, pa.string()).to_pylist() == ["[1, 2]", None]
