"""The ids of rows that have none of their own."""

import pytest

from nightpress.pipelines.manifest.rows import row_number_ids


@pytest.mark.parametrize("first_row", [0, 9_998, 12_345_670, 10**8 - 3, 10**8 - 2, 10**9])
def test_an_id_is_the_row_number_with_eight_digits_or_more(first_row: int) -> None:
    ids = row_number_ids(first_row, 3).to_pylist()
    assert ids == [f"{first_row + number:08d}" for number in range(3)]


def test_no_rows_have_no_ids() -> None:
    assert row_number_ids(7, 0).to_pylist() == []
