"""A run as its reader sees it: the job, the metadata, the images, and how far it is.

Everything comes from the store, so any machine can look. Writes nothing.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged, ImageNotFound
from nightpress.pipelines.image_files.packing import image_bytes, packed_shard
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.records import METADATA_SCHEMA
from nightpress.pipelines.run_directory.commit import committed_shards, shard_path
from nightpress.pipelines.run_directory.record import RunRecord, require_record
from nightpress.pipelines.storage import Store

READ_THREADS = 16

IMAGES_AHEAD = 32
"""Images that may be read before they are asked for."""

WHERE = ("file", "member_offset", "num_bytes")
"""Columns that say where an image lies."""

PAUSE_S = 60.0
"""A longer time in which nothing was sampled lies between two starts of a run."""


@dataclass(frozen=True)
class RunProgress:
    """How far a run is, by what it has committed."""

    num_images: int
    """Planned."""
    num_ok: int
    num_failed: int
    num_shards: int
    num_committed_shards: int
    num_bytes: int
    """Of the images that are ok."""
    active_s: float
    """Seconds from the first sample to the last, less the pauses between starts."""
    images_per_s: float | None
    """Sampled in that time; None before the first."""
    first_at: str | None
    """UTC, ISO 8601."""
    last_at: str | None
    complete: bool
    """Every shard is committed; some images may have failed."""


class Run:
    """One run directory; `open_run` makes it.

    ::

        run = open_run("s3://press/runs/campaign")
        run.metadata.to_table(columns=["image_id", "seed"]).to_pandas()
        run.image("poster_00").show()
        for row, image in run.images(pyarrow.dataset.field("width") == 1024):
            print(row["prompt"], image.size)
    """

    def __init__(self, store: Store, record: RunRecord) -> None:
        self.store = store
        self.record = record

    def __repr__(self) -> str:
        return f"Run({self.url!r})"

    @property
    def url(self) -> str:
        """Of the run directory."""
        return self.store.url

    @property
    def spec(self) -> RunSpec:
        """The job that made it."""
        return self.record.spec

    @property
    def committed(self) -> list[int]:
        """The shards that are committed now, in order."""
        return sorted(committed_shards(self.store))

    @property
    def metadata(self) -> ds.Dataset:
        """The metadata that is committed now: one row an image, carried columns last."""
        shards = self.committed
        return self.shards(shards, self._schema(shards))

    def shards(self, shards: list[int], schema: pa.Schema = METADATA_SCHEMA) -> ds.Dataset:
        """The metadata of some committed shards, in the columns of a schema."""
        if not shards:
            return ds.dataset(schema.empty_table())
        filesystem, root = self.store.arrow()
        paths = [f"{root}/{shard_path(shard)}" for shard in shards]
        return ds.dataset(paths, schema=schema, format="parquet", filesystem=filesystem)

    def image(self, image_id: str) -> Image.Image:
        """One image by its id.

        Raises:
            ImageNotFound: the run has no such image, or failed to make it.
        """
        wanted = ds.field("image_id") == image_id
        columns = ["status", *WHERE, "error_type", "error"]
        with self.reading():
            rows = self.metadata.to_table(columns=columns, filter=wanted).to_pylist()
        if not rows:
            raise ImageNotFound(f"{self.url}: no image {image_id!r} is committed")
        row = rows[0]
        if row["status"] != "ok":
            raise ImageNotFound(
                f"{self.url}: image {image_id!r} failed: {row['error_type']}: {row['error']}"
            )
        return self._open(row)

    def images(
        self, where: ds.Expression | None = None
    ) -> Iterator[tuple[dict[str, Any], Image.Image]]:
        """The images that are ok, each with its metadata row, in sampling order.

        Args:
            where: an Arrow expression over the metadata columns.
        """
        wanted = ds.field("status") == "ok"
        if where is not None:
            wanted = wanted & where
        batches = self.metadata.to_batches(filter=wanted, batch_size=IMAGES_AHEAD)
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for batch in batches:
                rows = batch.to_pylist()
                yield from zip(rows, pool.map(self._open, rows), strict=True)

    @property
    def packs(self) -> list[str]:
        """URLs of the packs that are committed now, in sampling order.

        Others may lie beside them, of attempts that came to no commit.
        """
        files: dict[str, None] = {}
        with self.reading():
            for batch in self.metadata.to_batches(columns=["file"]):
                files |= dict.fromkeys(batch.column("file").unique().drop_null().to_pylist())
        return [f"{self.url}/{file}" for file in files if packed_shard(file) is not None]

    def progress(self, committed: list[int] | None = None) -> RunProgress:
        """How far the run is now, or was when these shards were listed as committed."""
        shards = self.committed if committed is None else committed
        with self.reading():
            tally = _Tally.of(self.shards(shards))
        layout = self.record.layout
        return RunProgress(
            num_images=layout.num_images,
            num_ok=tally.num_ok,
            num_failed=tally.num_failed,
            num_shards=layout.num_shards,
            num_committed_shards=len(shards),
            num_bytes=tally.num_bytes,
            active_s=tally.active_s,
            images_per_s=tally.num_sampled / tally.active_s if tally.active_s else None,
            first_at=_iso(tally.starts.min()) if len(tally.starts) else None,
            last_at=_iso((tally.starts + tally.durations).max()) if len(tally.starts) else None,
            complete=len(shards) == layout.num_shards,
        )

    def _schema(self, shards: list[int]) -> pa.Schema:
        """The metadata's columns, then the carried ones, which are the same in every shard."""
        if not shards:
            return METADATA_SCHEMA
        filesystem, root = self.store.arrow()
        with self.reading():
            part = pq.read_schema(f"{root}/{shard_path(shards[0])}", filesystem=filesystem)
        carried = [_plain(field) for field in part if field.name not in METADATA_SCHEMA.names]
        return pa.schema([*METADATA_SCHEMA, *carried])

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around reads of metadata: what goes wrong leaves in one line."""
        try:
            with self.store.as_store_errors("metadata"):
                yield
        except pa.ArrowException as error:
            reason = one_line(error, 200)
            raise Damaged(
                f"{self.url}/metadata: a part is damaged ({reason}); nightpress verify says which, "
                "and with --repair makes it again"
            ) from error

    def _open(self, row: Mapping[str, Any]) -> Image.Image:
        image = Image.open(BytesIO(image_bytes(self.store, row)))
        image.load()
        return image


def open_run(url: str, storage: Mapping[str, Mapping[str, Any]] | None = None) -> Run:
    """The run in a run directory, finished or not.

    Args:
        url: of the folder with run.json in it, anywhere fsspec reaches.
        storage: fsspec options by protocol, as in a job file.

    Raises:
        RunNotFound: there is no run.
        StoreError: the store cannot be reached.
    """
    store = Store(url, storage or {})
    return Run(store, require_record(store))


@dataclass(frozen=True)
class _Tally:
    """Sums over metadata rows."""

    num_ok: int
    num_failed: int
    num_bytes: int
    num_sampled: int
    starts: np.ndarray
    """(batches,) seconds since the epoch, of every batch that was sampled."""
    durations: np.ndarray
    """(batches,) seconds."""

    @classmethod
    def of(cls, dataset: ds.Dataset) -> "_Tally":
        """One pass over four columns, a batch at a time."""
        num_ok = num_failed = num_bytes = num_sampled = 0
        sampled: list[pa.Table] = []
        for batch in dataset.to_batches(
            columns=["status", "num_bytes", "started_at", "sampling_s"]
        ):
            ok = pc.sum(pc.equal(batch.column("status"), "ok")).as_py() or 0
            num_ok += ok
            num_failed += batch.num_rows - ok
            num_bytes += pc.sum(batch.column("num_bytes")).as_py() or 0
            sampled.append(_sampled_batches(batch))
            num_sampled += pc.sum(sampled[-1].column("sampling_s_count")).as_py() or 0
        starts = [table.column("started_at").to_numpy() for table in sampled]
        durations = [table.column("sampling_s_sum").to_numpy() for table in sampled]
        return cls(
            num_ok,
            num_failed,
            num_bytes,
            num_sampled,
            np.concatenate([np.empty(0), *starts]),
            np.concatenate([np.empty(0), *durations]),
        )

    @property
    def active_s(self) -> float:
        """Seconds in which something was being sampled somewhere, short gaps included."""
        if not len(self.starts):
            return 0.0
        order = np.argsort(self.starts)
        starts, durations = self.starts[order], self.durations[order]
        busy_until = np.maximum.accumulate(starts + durations)
        gaps = starts[1:] - busy_until[:-1]
        return float(busy_until[-1] - starts[0] - gaps[gaps > PAUSE_S].sum())


def _sampled_batches(rows: pa.RecordBatch) -> pa.Table:
    """Start and length in seconds of what was sampled together: rows share their batch's start."""
    table = pa.table(
        {
            "started_at": pc.divide(
                pc.cast(rows.column("started_at").cast("int64"), "float64"), 1e6
            ),
            "sampling_s": rows.column("sampling_s"),
        }
    ).filter(pc.is_valid(rows.column("sampling_s")))
    return table.group_by("started_at").aggregate([("sampling_s", "sum"), ("sampling_s", "count")])


def _plain(field: pa.Field) -> pa.Field:
    """The field without the dictionary that some part may have been written with."""
    if pa.types.is_dictionary(field.type):
        return field.with_type(field.type.value_type).remove_metadata()
    return field.remove_metadata()


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
