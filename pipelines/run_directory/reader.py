"""A run as its readers see it: the job, the metadata, the images and the progress.

Everything is read from the store, so any machine can do it. Nothing is written.
"""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from PIL import Image

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged, ImageNotFound
from nightpress.pipelines.image_files.packing import image_bytes, packed_shard
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import candidate_shards
from nightpress.pipelines.planning.later_names import carried_under_later_names
from nightpress.pipelines.records import (
    ADDED_TO_METADATA,
    METADATA_SCHEMA,
    SCORE_COLUMNS,
)
from nightpress.pipelines.run_directory.commit import (
    commit_sizes,
    committed_shards,
    metadata_columns,
    read_commit,
    read_commit_if_any,
    shard_path,
)
from nightpress.pipelines.run_directory.draws import draws_dataset
from nightpress.pipelines.run_directory.late_scores import (
    LatePart,
    late_parts,
    newest_parts,
    read_late,
    with_scores_of,
)
from nightpress.pipelines.run_directory.marks_merge import MergedMarks, Policy, decisions
from nightpress.pipelines.run_directory.metadata_rows import metadata_rows
from nightpress.pipelines.run_directory.metadata_schema import full_schema, with_carried
from nightpress.pipelines.run_directory.record import RunRecord, require_record
from nightpress.pipelines.run_directory.selections.files import (
    Selection,
    read_selection,
    selection_names,
)
from nightpress.pipelines.run_directory.stored import num_stored
from nightpress.pipelines.run_directory.summary import Summary
from nightpress.pipelines.run_directory.summary_index import read_totals
from nightpress.pipelines.storage import READ_THREADS, Store

IMAGES_AHEAD = 32
"""Images that are read before the caller asks for them."""


@dataclass(frozen=True)
class RunProgress:
    """The progress of a run, from its commits and the images that no commit names yet."""

    num_images: int
    """Images in the plan."""
    num_ok: int
    """Images that are committed and stored."""
    num_failed: int
    """Images that are committed as failed."""
    num_stored: int
    """Images that are stored, but not yet committed; see `stored.num_stored` for its limit."""
    num_shards: int
    num_committed_shards: int
    num_bytes: int
    """Size of the image files that are ok."""
    active_s: float
    """Seconds from the first sampled batch to the last, without the pauses between two starts."""
    images_per_s: float | None
    """Images sampled per second of `active_s`; None before the first commit."""
    first_at: str | None
    """UTC, ISO 8601."""
    last_at: str | None
    complete: bool
    """Whether every shard is committed; some images may have failed."""
    num_rejected: int = 0
    """How many of the images that have failed were rejected by the job's gates."""

    @property
    def num_done(self) -> int:
        """Images that are done: stored or failed, committed or not."""
        return self.num_ok + self.num_failed + self.num_stored


class Run:
    """One run directory, opened by `open_run`.

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
        """URL of the run directory."""
        return self.store.url

    @property
    def spec(self) -> RunSpec:
        """The job that made the run."""
        return self.record.spec

    @property
    def committed(self) -> list[int]:
        """The shards that are committed now, in order."""
        return sorted(committed_shards(self.store))

    @property
    def metadata(self) -> ds.Dataset:
        """The metadata that is committed now: one row per image, carried columns last.

        Scores that were made later are among the others.
        """
        sizes = commit_sizes(self.store)
        if not sizes:
            return ds.dataset(METADATA_SCHEMA.empty_table())
        shards, late = sorted(sizes), newest_parts(self.store)
        stored = [self._stored_schema(shard) for shard in self._first_of_sections(shards)]
        if any(carried_under_later_names(schema, ADDED_TO_METADATA) for schema in stored):
            return self._renamed(shards, late)
        schema = full_schema(stored)
        paths = {
            shard: late[shard].path if shard in late else shard_path(shard)
            for shard in shards
            if shard not in late or late[shard].num_bytes == sizes[shard]
        }
        parts = [
            self._dataset([paths[shard] for shard in group], schema)
            if are_read
            else ds.dataset([with_carried(self._part(n, late), schema) for n in group])
            for are_read, group in groupby(shards, paths.__contains__)
        ]
        return parts[0] if len(parts) == 1 else ds.dataset(parts)

    @property
    def draws(self) -> ds.Dataset:
        """The draws that the job's gates have not taken, as `DRAWS_SCHEMA`."""
        return draws_dataset(self.store)

    def _first_of_sections(self, shards: list[int]) -> list[int]:
        """The first of some shards in each edition, whose carried columns may differ."""
        starts = [each.parts[0].first_shard for each in self.record.layout.sections if each.parts]
        firsts = {bisect_right(starts, shard): shard for shard in reversed(shards)}
        return sorted(firsts.values())

    def shards(self, shards: list[int], schema: pa.Schema = METADATA_SCHEMA) -> ds.Dataset:
        """The metadata of some committed shards, with the columns of a schema, as committed."""
        if not shards:
            return ds.dataset(schema.empty_table())
        return self._dataset([shard_path(shard) for shard in shards], schema)

    def _dataset(self, paths: list[str], schema: pa.Schema) -> ds.Dataset:
        filesystem, root = self.store.arrow()
        full = [f"{root}/{path}" for path in paths]
        return ds.dataset(full, schema=schema, format="parquet", filesystem=filesystem)

    def selection(self, name: str) -> Selection:
        """A selection of the run's images, made by `nightpress select`.

        Raises:
            SelectionNotFound: the run has none of that name.
            Damaged: the stored one is not what was written.
            StoreError: it cannot be read.
        """
        return read_selection(self.store, name)

    @property
    def selections(self) -> tuple[str, ...]:
        """The names of the run's selections, in alphabetical order."""
        return selection_names(self.store)

    @property
    def marks(self) -> pa.Table:
        """What reviewers said about images, merged, as MARKS_SCHEMA; read anew each time.

        Warns with a `MarksWarning` for each object that is damaged or of another run.
        """
        found = MergedMarks(self.store, self.record.fingerprint_at_first)
        found.refresh()
        found.warn()
        return found.table(self.hashes() if found.counted else {})

    def decisions(self, policy: str = "any", lead: str | None = None) -> pa.Table:
        """What the marks on each image come to, as DECISIONS_SCHEMA.

        Args:
            policy: `any`, `all`, `majority` or `lead`; see `marks_merge.Policy`.
            lead: the reviewer who decides under `lead`.

        Raises:
            MarksError: there is no such policy, or the lead has marked nothing.
        """
        return decisions(self.marks, Policy.of(policy, lead))

    def hashes(self) -> dict[str, str]:
        """Image id -> SHA-256 of its file, of the images that are ok."""
        with self.reading():
            found = self.metadata.to_table(["image_id", "sha256"], ds.field("status") == "ok")
        columns = (found.column(name).to_pylist() for name in ("image_id", "sha256"))
        return dict(zip(*columns, strict=True))

    def row(self, image_id: str) -> dict[str, Any] | None:
        """The metadata row of an image, with late scores; None if it is not committed.

        Raises:
            StoreError: the metadata cannot be read.
        """
        found = self._find(image_id)
        if found is None:
            return None
        shard, row = found
        if late := late_parts(self.store, shard):
            rows = read_late(self.store, late[-1]).rows
            same = (pc.field("image_id") == image_id) & (pc.field("sha256") == row["sha256"])
            for scored in metadata_rows(rows.filter(same).select(list(SCORE_COLUMNS))):
                row |= scored
        return row

    def _find(self, image_id: str) -> tuple[int, dict[str, Any]] | None:
        """The shard of an image and its row in the commit; None if it is not committed."""
        layout, seed = self.record.layout, self.spec.seed
        shards = list(candidate_shards(self.store, layout, seed, image_id))
        with ThreadPoolExecutor(READ_THREADS) as pool:
            rows = pool.map(partial(self._row_in_shard, image_id), shards)
            found = zip(shards, rows, strict=True)
            return next(((shard, row) for shard, row in found if row is not None), None)

    def image(self, image_id: str) -> Image.Image:
        """Read one image by its id.

        The plan's index tells which shard to look in, so usually only one commit is read.

        Raises:
            ImageNotFound: no such image is committed, or it failed.
        """
        found = self._find(image_id)
        if found is None:
            raise ImageNotFound(f"{self.url}: no image {image_id!r} is committed")
        row = found[1]
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
                rows = metadata_rows(pa.Table.from_batches([batch]))
                yield from zip(rows, pool.map(self._open, rows), strict=True)

    @property
    def packs(self) -> list[str]:
        """URLs of the packs that are committed now, in sampling order.

        Other packs in the folder come from attempts that did not commit.
        """
        files: dict[str, None] = {}
        with self.reading():
            for batch in self.metadata.to_batches(columns=["file"]):
                files |= dict.fromkeys(batch.column("file").unique().drop_null().to_pylist())
        return [f"{self.url}/{file}" for file in files if packed_shard(file) is not None]

    def progress(self, committed: list[int] | None = None) -> RunProgress:
        """The run's progress, from the totals of its commits and the names of stored images.

        Args:
            committed: count only these shards, which are committed; all if None.
        """
        totals = read_totals(self.store)
        shards = list(totals) if committed is None else committed
        total = Summary.total(totals[shard].summary for shard in shards)
        return self.progress_of(total, shards)

    def progress_of(self, total: Summary, committed: Collection[int]) -> RunProgress:
        """The run's progress, given its committed shards and their totals."""
        layout, sampling = self.record.layout, total.sampling
        return RunProgress(
            num_images=layout.num_images,
            num_ok=total.num_ok,
            num_failed=total.num_failed,
            num_stored=num_stored(self.store, self.record, committed),
            num_shards=layout.num_shards,
            num_committed_shards=len(committed),
            num_bytes=total.num_bytes,
            active_s=total.active_s,
            images_per_s=total.num_sampled / total.active_s if total.active_s else None,
            first_at=_iso(sampling[0][0]) if sampling else None,
            last_at=_iso(sampling[-1][1]) if sampling else None,
            complete=len(committed) == layout.num_shards,
            num_rejected=total.num_rejected,
        )

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn errors in reading metadata into one-line `PipelineError`s."""
        try:
            with self.store.as_store_errors("metadata"):
                yield
        except pa.ArrowException as error:
            raise Damaged(
                f"{self.url}/metadata: a part is damaged ({one_line(error, 200)}); nightpress "
                "verify tells which, and nightpress verify --repair makes it again"
            ) from error

    def _stored_schema(self, shard: int) -> pa.Schema:
        filesystem, root = self.store.arrow()
        with self.reading():
            return pq.read_schema(f"{root}/{shard_path(shard)}", filesystem=filesystem)

    def _renamed(self, shards: list[int], late: Mapping[int, LatePart]) -> ds.Dataset:
        """The metadata of a run that an older version began with a carried column called `mode`.

        Its commits are read whole, because such a column has another name now.
        """
        parts = [self._part(shard, late) for shard in shards]
        schema = full_schema([part.schema for part in parts])
        tables = [with_carried(part, schema) for part in parts]
        return ds.dataset(tables)

    def _part(self, shard: int, late: Mapping[int, LatePart]) -> pa.Table:
        """A commit, with late scores."""
        return with_scores_of(self.store, read_commit(self.store, shard), late.get(shard))

    def _row_in_shard(self, image_id: str, shard: int) -> dict[str, Any] | None:
        part = read_commit_if_any(self.store, shard)
        if part is None:
            return None
        rows = metadata_rows(metadata_columns(part).filter(pc.field("image_id") == image_id))
        return rows[0] if rows else None

    def _open(self, row: Mapping[str, Any]) -> Image.Image:
        image = Image.open(BytesIO(image_bytes(self.store, row)))
        image.load()
        return image


def open_run(url: str, storage: Mapping[str, Mapping[str, Any]] | None = None) -> Run:
    """Open the run in a run directory, finished or not.

    Args:
        url: URL of the folder that holds run.json, anywhere fsspec reaches.
        storage: fsspec options by protocol, as in a job file.

    Raises:
        RunNotFound: there is no run.
        UnsupportedFormat: the run was written in a newer format.
        StoreError: the store cannot be reached.
    """
    store = Store(url, storage or {})
    store.require_answer()
    return Run(store, require_record(store))


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
