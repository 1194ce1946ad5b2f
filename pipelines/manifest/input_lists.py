"""The list of pictures of each row, as the plan has it, from the pictures of its columns."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.pictures import Pictures
from nightpress.pipelines.records import PLAN_SCHEMA, PLANNED_INPUT_TYPE

INPUTS_TYPE = PLAN_SCHEMA.field("inputs").type


def input_lists(groups: Sequence[tuple[Pictures, Ints]], num_rows: int) -> pa.Array:
    """The pictures of each row, (n,) as in `PLAN_SCHEMA`; null for a row without any.

    Args:
        groups: the pictures of each column, each with a rank: a row's pictures are listed by rank,
            and in the order of the columns and lists among equal ranks.
        num_rows: the number of rows.
    """
    filled = [(pictures, ranks) for pictures, ranks in groups if len(pictures)]
    if not filled:
        return pa.nulls(num_rows, INPUTS_TYPE)
    rows = np.concatenate([pictures.rows for pictures, _ in filled])
    ranks = np.concatenate([ranks for _, ranks in filled])
    numbers = [np.full(len(pictures), number) for number, (pictures, _) in enumerate(filled)]
    roles = pa.array([pictures.setting for pictures, _ in filled])
    values = [
        pc.take(roles, pa.array(np.concatenate(numbers))),
        pa.concat_arrays([pictures.urls for pictures, _ in filled]),
        pa.concat_arrays([pictures.data for pictures, _ in filled]),
        pa.nulls(len(rows), pa.string()),
    ]
    entries = pa.StructArray.from_arrays(values, fields=list(PLANNED_INPUT_TYPE))
    keys = rows * (int(ranks.max()) + 1) + ranks
    if (np.diff(keys) < 0).any():
        entries = entries.take(pa.array(np.argsort(keys, kind="stable")))
    counts = np.bincount(rows, minlength=num_rows)
    offsets = np.zeros(num_rows + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    empty = pa.array(counts == 0) if not counts.all() else None
    return pa.ListArray.from_arrays(pa.array(offsets), entries, type=INPUTS_TYPE, mask=empty)
