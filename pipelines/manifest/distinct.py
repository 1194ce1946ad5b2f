"""The distinct rows of some columns."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from nightpress.pipelines.manifest.numbers import Floats, Ints


def distinct_rows(columns: Sequence[Ints | Floats]) -> tuple[Ints, Ints]:
    """Number the distinct rows of some columns.

    Args:
        columns: (n,) each; NaN equals NaN.

    Returns:
        (n,) the number of each row's values, and (m,) the first row with each number.
    """
    length = len(columns[0])
    codes: Ints = np.zeros(length, np.int64)
    for column in columns:
        same = column == column[:1]
        if same.all() or np.isnan(column).all():
            continue
        encoded = pa.array(column).dictionary_encode()
        numbered = np.array(encoded.indices).astype(np.int64)
        merged = pa.array(codes * len(encoded.dictionary) + numbered).dictionary_encode()
        codes = np.array(merged.indices).astype(np.int64)
    firsts = np.zeros(int(codes.max(initial=-1)) + 1, np.int64)
    firsts[codes[::-1]] = np.arange(length)[::-1]
    return codes, firsts
