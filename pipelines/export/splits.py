"""Which split each image is in: a hash of the seed and its group, so it never moves."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.campaign.near_names import did_you_mean
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.export.spec import SplitSpec
from nightpress.pipelines.hashing import hash64

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
"""A split is stored as its place in this."""


def splits_of(rows: pa.Table, split: SplitSpec | None, seed: int) -> NDArray[np.uint8]:
    """The split of each row, as its place in `SPLITS`; (n,) uint8.

    A group's hash falls into [0, 2^64). The test split has the lowest part of that range, the
    validation split the next, and train the rest: a set that grows moves no image that it had.

    Args:
        rows: with the columns `id` and `split.by`; an image without a value there is in the group
            of its `id`.
        split: None puts every image into train.
        seed: the export's seed.
    """
    if split is None:
        return np.zeros(len(rows), np.uint8)
    hashes = hash64(_groups(rows, split.by), seed)
    shares = split.shares
    test = _bound(shares[TEST])
    validation = _bound(shares[TEST] + shares[VALIDATION])
    found = np.where(_below(hashes, validation), SPLITS.index(VALIDATION), SPLITS.index(TRAIN))
    return np.where(_below(hashes, test), SPLITS.index(TEST), found).astype(np.uint8)


def _groups(rows: pa.Table, by: str) -> pa.Array:
    column = rows.column(by)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    texts = pc.coalesce(column.cast(pa.string()), rows.column("id").cast(pa.string()))
    return texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts


def _bound(share: Decimal) -> int:
    return int(share * 2**64)


def _below(hashes: NDArray[np.uint64], bound: int) -> NDArray[np.bool_]:
    if bound >= 2**64:
        return np.ones(len(hashes), np.bool_)
    return hashes < np.uint64(bound)


def require_split_column(split: SplitSpec | None, schema: pa.Schema) -> None:
    """Check that a run has the column that decides its splits.

    Raises:
        SpecError: it has none of that name, or its values are lists or bytes.
    """
    if split is None:
        return
    if split.by not in schema.names:
        hint = did_you_mean(split.by, schema.names, "columns")
        raise SpecError(f"split.by: there is no column {split.by!r}; {hint}")
    type_ = schema.field(split.by).type
    if pa.types.is_nested(type_) or pa.types.is_binary(type_):
        raise SpecError(f"split.by: column {split.by!r} is {type_}, which has no text form")
