"""Sweeping: images and packs that no commit names are deleted, by the holder of the run's lease.

It is the only thing that takes an image away, and a start that was taken over may do anything
late. So what one may still commit must not go, and what was adopted must come back.
"""

from nightpress.pipelines.errors import LeaseLost, StoreError
from nightpress.pipelines.image_files.packing import packed_shard
from nightpress.pipelines.run_directory.commit import failed_rows, seal_commit
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.verify import orphan_images

TOGETHER = 32
"""Images that are held in memory until it is certain that they may go."""


def sweep(run: Run, fence: FencingToken) -> list[str]:
    """Delete the images that no commit names; returns their paths.

    Every shard of the run is committed. An earlier holder may be about to put an image in the
    place of a failed row, or a pack in that of another; sealed, the commit is not what it read
    any more.

    Raises:
        LeaseLost: another start has taken the run over; what it may have adopted is put back.
        Damaged: a commit cannot be read, so that nobody knows which images it names.
        StoreError: the store failed.
    """
    before = orphan_images(run)
    if not before:
        return []
    committed = run.committed
    packed = {packed_shard(path) for path in before} & set(committed)
    for shard in committed:
        if shard in packed or failed_rows(run.store, shard):
            seal_commit(run.store, shard, fence)
    # A pack that came only now may be about to be named by a commit that is not sealed.
    strays = [path for path in orphan_images(run) if packed_shard(path) in {None, *packed}]
    together = 1 if run.spec.images.is_packed else TOGETHER
    for start in range(0, len(strays), together):
        _delete(run, strays[start : start + together], fence)
    return strays


def _delete(run: Run, paths: list[str], fence: FencingToken) -> None:
    store = run.store
    images = {path: store.read_if_any(path) for path in paths}
    fence.require(store)
    try:
        for path in paths:
            store.delete(path)
        fence.require(store)
    except (LeaseLost, StoreError):
        # Whoever has taken over since may have found them, and named them in a commit.
        for path, data in images.items():
            if data is not None:
                store.create(path, data)
        raise
