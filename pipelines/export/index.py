"""`index/`: what an export holds of one source shard, as an object created once.

Its name has the size and the hash of the shard's commit. A commit that is rewritten becomes longer,
so one listing shows which shards of a run have changed since they were exported.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.export.statistics import ShardStatistics
from nightpress.pipelines.storage import Store

INDEX_FOLDER = "index"

FOOTER = b"nightpress.export"
"""Key in the Parquet footer: the `ShardIndex` without its rows, as JSON."""

SHA_DIGITS = 16

_NAME = re.compile(r"(?:index|survey)/(\d+)-(\d{5,})-(\d+)-([0-9a-f]{16})-([0-9a-f]{16})\.parquet")

ROWS = pa.schema(
    [
        pa.field("row", pa.int32(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("split", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("path", pa.string()),
        pa.field("member", pa.string()),
        pa.field("exported_sha256", pa.string()),
    ]
)
"""One row for each row of the commit: where its image is in the export, or why it is not there.
`sha256` is that of the image in its run, `exported_sha256` that of the bytes in the export."""


class Drop(StrEnum):
    """Why an image is not in the export."""

    FAILED = "failed"
    """It was never made; the detail is the type of its error, and why gates rejected it."""
    NOT_SELECTED = "not selected"
    CHANGED = "changed since it was selected"
    """The selection names other bytes."""
    SAME_BYTES = "same bytes as in another split"
    """The detail is the id of the image there."""
    NOT_COMPARED = "in no pair"
    """In the layout preference; the detail says why."""
    NEAR = "looks like an image of another split"
    """The detail is the id of the image there."""
    ALIKE = "embedding like that of an image of another split"
    """The detail is the id of the image there, and the cosine."""
    DUPLICATE = "same bytes as an earlier image"
    """The detail is the id of that image, which is in the same split."""
    NEAR_DUPLICATE = "looks like an earlier image"
    """The detail is the id of that image, which is in the same split."""
    ALIKE_DUPLICATE = "embedding like that of an earlier image"
    """The detail is the id of that image, which is in the same split, and the cosine."""
    NO_EMBEDDING = "no embedding to compare it by"


@dataclass(frozen=True)
class IndexKey:
    """What an index object belongs to; all of it is in its name."""

    source: int
    """The place of the run in the export's list, from 0."""
    shard: int
    commit_bytes: int
    variant: str
    """A hash of what else decides the content: the selection, and what leaves train."""

    def path(self, commit: str, folder: str = INDEX_FOLDER) -> str:
        """`index/0-00012-8123-<hash of the commit>-<variant>.parquet`."""
        commit = commit[:SHA_DIGITS]
        place = f"{self.source}-{self.shard:05d}-{self.commit_bytes}"
        return f"{folder}/{place}-{commit}-{self.variant}.parquet"


@dataclass(frozen=True)
class StoredObject:
    """An object of a part."""

    path: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class ShardIndex:
    """What an export holds of one source shard."""

    source: int
    shard: int
    commit: str
    """SHA-256 of the shard's commit."""
    commit_bytes: int
    objects: tuple[StoredObject, ...]
    num_images: Mapping[str, int]
    """Split -> images."""
    num_dropped: Mapping[str, int]
    """Reason -> images."""
    statistics: ShardStatistics
    rows: pa.Table = field(compare=False, repr=False)

    @property
    def num_bytes(self) -> int:
        """Size of its objects."""
        return sum(each.num_bytes for each in self.objects)

    def to_parquet(self) -> bytes:
        """As written to `index/`."""
        values = {
            "source": self.source,
            "shard": self.shard,
            "commit": self.commit,
            "commit_bytes": self.commit_bytes,
            "objects": [asdict(each) for each in self.objects],
            "num_images": dict(self.num_images),
            "num_dropped": dict(self.num_dropped),
            "statistics": self.statistics.as_dict(),
        }
        footer = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()
        sink = pa.BufferOutputStream()
        pq.write_table(
            self.rows.replace_schema_metadata({FOOTER: footer}),
            sink,
            compression="zstd",
            write_page_checksum=True,
        )
        data: bytes = sink.getvalue().to_pybytes()
        return data

    @classmethod
    def from_parquet(cls, data: bytes, url: str) -> Self:
        """The inverse of `to_parquet`.

        Args:
            data: the content of the object.
            url: where it lies, for the error.

        Raises:
            Damaged: it is no such object.
        """
        try:
            rows = pq.read_table(pa.BufferReader(data), page_checksum_verification=True)
            values: dict[str, Any] = json.loads(rows.schema.metadata[FOOTER])
            objects = tuple(StoredObject(**each) for each in values.pop("objects"))
            statistics = ShardStatistics.from_dict(values.pop("statistics"))
            plain = rows.replace_schema_metadata(None).cast(ROWS)
            return cls(objects=objects, statistics=statistics, rows=plain, **values)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(
                f"{url}: not the index of an export ({one_line(error, 200)}); delete it, and "
                "nightpress export writes it again"
            ) from error


def read_index(store: Store, path: str) -> ShardIndex:
    """Read an index object.

    Raises:
        Damaged: it is not what was written.
    """
    return ShardIndex.from_parquet(store.read(path), f"{store.url}/{path}")


def listed_entries(store: Store, folder: str = INDEX_FOLDER) -> dict[IndexKey, str]:
    """Key -> path of every object of a folder whose names are such keys, from one listing."""
    entries = {}
    for path in store.list(folder):
        match = _NAME.fullmatch(path)
        if match:
            source, shard, num_bytes = (int(match.group(n)) for n in (1, 2, 3))
            entries[IndexKey(source, shard, num_bytes, match.group(5))] = path
    return entries


def index_rows(rows: Iterable[Mapping[str, object]]) -> pa.Table:
    """Rows of an index object."""
    return pa.Table.from_pylist(list(rows), schema=ROWS)


def counted(values: Sequence[str | None]) -> dict[str, int]:
    """Value -> how often it occurs, without null."""
    found: dict[str, int] = {}
    for value in values:
        if value is not None:
            found[value] = found.get(value, 0) + 1
    return found
