"""Orphans: images and packs that no commit names, deleted by the holder of the run's lease.

This is the only code that deletes images. A process that has lost the lease may still act late,
so what it may yet commit is not deleted, and what a new holder may have adopted is put back.
"""

from concurrent.futures import ThreadPoolExecutor

from nightpress.pipelines.errors import LeaseLost, StoreError
from nightpress.pipelines.image_files.packing import packed_shard
from nightpress.pipelines.run_directory.commit import failed_rows, seal_commit
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.verify import orphan_images
from nightpress.pipelines.storage import READ_THREADS

DELETE_BATCH = 32
"""Images that are kept in memory until it is certain that they may be deleted."""


def delete_orphans(run: Run, fence: FencingToken) -> list[str]:
    """Delete the images and packs that no commit names, and return their paths.

    Every shard of the run must be committed. An earlier holder may be about to name an orphan in a
    commit with failed rows, or an orphaned pack in its shard's commit. Those commits are sealed
    first, so that it can no longer amend them.

    Raises:
        LeaseLost: another process has taken over the run; what it may have adopted is put back.
        Damaged: a commit cannot be read, so the images that it names are unknown.
        StoreError: the store failed.
    """
    before = orphan_images(run)
    if not before:
        return []
    committed = run.committed
    packed = {packed_shard(path) for path in before} & set(committed)

    def seal(shard: int) -> None:
        if shard in packed or failed_rows(run.store, shard):
            seal_commit(run.store, shard, fence)

    with ThreadPoolExecutor(READ_THREADS) as pool:
        for _ in map_ahead(pool, seal, committed, READ_THREADS):
            pass
    # A pack that was stored only now may be about to be named by a commit that is not sealed.
    orphans = [path for path in orphan_images(run) if packed_shard(path) in {None, *packed}]
    batch = 1 if run.spec.images.is_packed else DELETE_BATCH
    for start in range(0, len(orphans), batch):
        _delete(run, orphans[start : start + batch], fence)
    return orphans


def _delete(run: Run, paths: list[str], fence: FencingToken) -> None:
    store = run.store
    with ThreadPoolExecutor(READ_THREADS) as pool:
        images = dict(zip(paths, pool.map(store.read_if_any, paths), strict=True))
    fence.require(store)
    try:
        with ThreadPoolExecutor(READ_THREADS) as pool:  # at its end no deletion is under way
            list(pool.map(store.delete, paths))
        fence.require(store)
    except (LeaseLost, StoreError):
        # The new holder may have found them and named them in a commit.
        for path, data in images.items():
            if data is not None:
                store.create(path, data)
        raise
