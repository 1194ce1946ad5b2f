"""What one process needs to export a shard: the plan of the whole export, and the shard's task."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256

import pyarrow as pa

from nightpress.pipelines.export.index import SHA_DIGITS, Drop, IndexKey
from nightpress.pipelines.export.sources import ExportSource
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.job.spec import canonical_json
from nightpress.pipelines.manifest.types import one_chunk
from nightpress.pipelines.run_directory.commit import read_commit
from nightpress.pipelines.run_directory.late_scores import LatePart
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.storage import READ_THREADS, Store


@dataclass(frozen=True)
class ExportPlan:
    """What is the same for every shard of an export."""

    spec: ExportSpec
    store: Store
    """The export's directory."""
    stores: tuple[Store, ...]
    """The directories of its runs."""
    names: tuple[str, ...]
    """Their names."""
    schemas: tuple[pa.Schema, ...]
    """The metadata columns of each."""
    columns: pa.Schema
    """The columns of the export, beside image and caption."""
    fence: FencingToken | None = None
    """Fencing token of the lease, if several processes may write."""
    embeddings: str | None = None
    """The scorer whose vectors are compared, if any are."""


def plan_of(
    spec: ExportSpec,
    store: Store,
    sources: Sequence[ExportSource],
    columns: pa.Schema,
    fence: FencingToken | None = None,
) -> ExportPlan:
    """The plan of an export, given its runs and its columns."""
    return ExportPlan(
        spec=spec,
        store=store,
        stores=tuple(each.run.store for each in sources),
        names=tuple(each.name for each in sources),
        schemas=tuple(each.schema for each in sources),
        columns=columns,
        fence=fence,
        embeddings=sources[0].embeddings,
    )


@dataclass(frozen=True)
class Leak:
    """Why an image is left out because of another: it leaks, or is a duplicate."""

    reason: Drop
    other: str
    """The id of the other image, with the cosine if vectors were compared; "" if there is none."""


@dataclass(frozen=True)
class ShardTask:
    """One source shard that is to be exported."""

    source: int
    shard: int
    commit_bytes: int
    """Size of the commit, as listed."""
    selection: str | None = None
    """SHA-256 of the run's selection, if the export has one."""
    leaks: Mapping[int, Leak] = field(default_factory=dict)
    """Row -> why it is left out because of another image."""
    late: LatePart | None = None
    """The part with its late scores, if it has one."""
    wanted: Mapping[int, str] | None = None
    """Row -> SHA-256 that the selection has for it; None if the export has no selection."""

    @property
    def key(self) -> IndexKey:
        """What the shard's index object will be called, but for the hash of the commit."""
        leaks = [[row, each.reason, each.other] for row, each in sorted(self.leaks.items())]
        late = [] if self.late is None else [self.late.path]
        text = canonical_json([self.selection, leaks, *late])
        variant = sha256(text.encode()).hexdigest()[:SHA_DIGITS]
        return IndexKey(self.source, self.shard, self.commit_bytes, variant)


def tasks_of(
    sources: Iterable[ExportSource], leaks: Mapping[tuple[int, int], Mapping[int, Leak]]
) -> list[ShardTask]:
    """A task for every shard of every run, in order.

    Args:
        sources: the runs.
        leaks: (source, shard) -> its rows that are left out because of other images.
    """
    return [
        ShardTask(
            source=number,
            shard=shard,
            commit_bytes=each.sizes[shard],
            selection=None if each.selection is None else each.selection.sha256,
            leaks=leaks.get((number, shard), {}),
            late=each.late.get(shard),
        )
        for number, each in enumerate(sources)
        for shard in sorted(each.sizes)
    ]


def with_wanted(
    sources: tuple[ExportSource, ...], tasks: Iterable[ShardTask]
) -> Generator[ShardTask, None, None]:
    """The tasks with the rows that are selected, read from the commits a few at a time.

    So no task has to read a selection, which may hold millions of images.

    Raises:
        Damaged: a commit is not what was written.
    """
    with ThreadPoolExecutor(READ_THREADS) as pool:
        yield from map_ahead(pool, lambda task: _wanted(sources, task), tasks, READ_THREADS)


def _wanted(sources: tuple[ExportSource, ...], task: ShardTask) -> ShardTask:
    source = sources[task.source]
    if source.selection is None:
        return task
    part = read_commit(source.run.store, task.shard, ["image_id"])
    wanted = source.selection.wanted(one_chunk(part.column("image_id").cast(pa.string())))
    return replace(task, wanted=wanted)
