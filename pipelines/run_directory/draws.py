"""`draws/`: the draws of places that lost, so that no start makes them again.

An object holds the losers of one batch of a shard. It is created once, under a name that its
content decides, before the batch's winners are stored.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from nightpress.pipelines.records import SCORES_TYPE
from nightpress.pipelines.storage import Store

DRAWS_FOLDER = "draws"

DRAWS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("draw", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("batch_size", pa.int32(), nullable=False),
        pa.field("passed", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("fault", pa.string()),
        pa.field("scores", SCORES_TYPE),
        pa.field("perceptual_hash", pa.string()),
        pa.field("thumbnail", pa.binary()),
    ]
)
"""One row for each draw that lost.

`passed` is true if a better draw was taken. Otherwise `reason` names the conditions that it did not
meet, with their scores, and `fault` says what was wrong if there was no image to score. `thumbnail`
is a small JPEG file, if the job keeps them.
"""


@dataclass(frozen=True)
class LostDraw:
    """A draw that lost."""

    image_id: str
    draw: int
    seed: int
    batch_size: int
    passed: bool
    reason: str | None = None
    """The conditions that it did not meet; None if it passed."""
    fault: str | None = None
    """The `FailureType` of a draw that has no image."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    perceptual_hash: str | None = None
    thumbnail: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class LostDraws:
    """The draws of a shard that earlier attempts recorded."""

    draws: Sequence[LostDraw]
    damaged: Sequence[str] = ()
    """Objects that are not what was written. Their draws are made again."""


def shard_folder(shard: int) -> str:
    """`draws/shard-00012`."""
    return f"{DRAWS_FOLDER}/shard-{shard:05d}"


def store_draws(store: Store, shard: int, draws: Sequence[LostDraw]) -> str:
    """Store the losers of a batch; returns the path of the object, which may exist already."""
    data = _encoded(draws)
    path = f"{shard_folder(shard)}/{_digest(data)}.parquet"
    store.create(path, data)
    return path


def read_draws(store: Store, shard: int) -> LostDraws:
    """Read the draws of a shard that lost, without their thumbnails.

    Raises:
        StoreError: the store fails.
    """
    found: dict[tuple[str, int], LostDraw] = {}
    damaged = []
    for path in store.list(shard_folder(shard)):
        data = store.read_if_any(path)
        if data is None:
            continue
        if path != f"{shard_folder(shard)}/{_digest(data)}.parquet":
            damaged.append(path)
            continue
        for each in _decoded(data):
            found.setdefault((each.image_id, each.draw), each)
    return LostDraws(list(found.values()), damaged)


def draws_dataset(store: Store) -> ds.Dataset:
    """All draws of a run that lost, read when they are asked for."""
    paths = [path for path in store.list(DRAWS_FOLDER) if path.endswith(".parquet")]
    if not paths:
        return ds.dataset(DRAWS_SCHEMA.empty_table())
    filesystem, root = store.arrow()
    files = [f"{root}/{path}" for path in paths]
    return ds.dataset(files, schema=DRAWS_SCHEMA, format="parquet", filesystem=filesystem)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _encoded(draws: Sequence[LostDraw]) -> bytes:
    rows = [
        {
            name: list(value.items()) if isinstance(value, Mapping) else value
            for name in DRAWS_SCHEMA.names
            for value in [getattr(each, name)]
        }
        for each in draws
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=DRAWS_SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def _decoded(data: bytes) -> list[LostDraw]:
    names = [name for name in DRAWS_SCHEMA.names if name != "thumbnail"]
    rows = pq.read_table(pa.BufferReader(data), columns=names).to_pylist()
    return [LostDraw(**{**row, "scores": dict(row["scores"] or ())}) for row in rows]
