"""Images that are stored, but whose shard is not committed yet.

An interrupted run finds them again: it samples only what is missing. Shards are handed out in
order, so these images are among the next ones of the plan, and there is no need to look further.
"""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.planning import PlanLayout
from nightpress.pipelines.records import ImageFacts
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.storage import READ_THREADS, Store, open_source

MAX_READ = 2_048
"""How many stored images `stored_facts` reads."""

HEAD_BYTES = 64 * 2**10
"""More than what a PNG or JPEG file holds before its pixels."""

MAX_LOOKED_FOR = 16_384
"""How many of the next images are looked for; that many names are about 17 pages of a listing."""


def num_stored(store: Store, record: RunRecord, committed: Collection[int]) -> int:
    """Count the stored images among the next `MAX_LOOKED_FOR` of the shards that are not committed.

    It is 0 for packed images, which are stored with their whole shard.

    Args:
        store, record: of the run.
        committed: the shards that are committed.

    Raises:
        StoreError: the store fails.
    """
    return len(_stored(store, record, committed))


def stored_facts(
    store: Store, record: RunRecord, committed: Collection[int]
) -> Iterator[ImageFacts]:
    """The embedded facts of the images that `num_stored` counts, of the first `MAX_READ` of them.

    Of a PNG or JPEG file, only the beginning is read. Files that do not tell their facts, as
    `provenance.embed` says, are left out.

    Raises:
        StoreError: the store fails.
    """

    # What decodes images is imported here: who only counts them does not need it.
    from nightpress.pipelines.image_files.encoding import read_facts

    def facts(path: str) -> ImageFacts | None:
        found = read_facts(store.read_part(path, 0, HEAD_BYTES))
        return found or read_facts(store.read_if_any(path) or b"")

    tells = record.spec.provenance.embed == "full"
    paths = sorted(_stored(store, record, committed))[:MAX_READ] if tells else []
    with ThreadPoolExecutor(READ_THREADS) as pool:
        yield from (found for found in pool.map(facts, paths) if found is not None)


def _stored(store: Store, record: RunRecord, committed: Collection[int]) -> set[str]:
    layout = record.layout
    if record.spec.images.is_packed or len(committed) >= layout.num_shards:
        return set()
    names: list[str] = []
    for files in _planned_files(store, layout, set(committed)):
        names += files
        if len(names) >= MAX_LOOKED_FOR:
            break
    return store.present(names) if names else set()


def _planned_files(store: Store, layout: PlanLayout, committed: set[int]) -> Iterator[list[str]]:
    """The planned files of each shard that is not committed, in the order of the shards.

    It ends where the plan is not written yet, or is damaged.
    """
    place, group = None, pa.chunked_array([], pa.string())
    for shard in range(layout.num_shards):
        if shard in committed:
            continue
        part, section = layout.part_of(shard), layout.section_of(shard)
        first_image = (shard - part.first_shard) * section.shard_size
        number, offset = divmod(first_image, section.row_group_size)
        if place != (part.path, number):
            try:
                place, group = (part.path, number), _files_of_group(store, part.path, number)
            except (StoreMissing, pa.ArrowException, OSError):
                return
        yield group.slice(offset, section.shard_size).to_pylist()


def _files_of_group(store: Store, path: str, group: int) -> pa.ChunkedArray:
    with (
        open_source(f"{store.url}/{path}", store.options) as stream,
        pq.ParquetFile(stream) as parquet,
    ):
        return parquet.read_row_group(group, columns=["file"]).column("file")
