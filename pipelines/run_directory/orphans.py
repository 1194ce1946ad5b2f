"""Orphans: what no commit names, deleted by the holder of the run's lease.

This is the only code that deletes images. A process that has lost the lease may still act late,
so what it may yet commit is not deleted, and what a new holder may have adopted is put back.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa

from nightpress.pipelines.errors import Damaged, LeaseLost, StoreError
from nightpress.pipelines.hashing import Hashes, hash64
from nightpress.pipelines.image_files.packing import packed_shard
from nightpress.pipelines.run_directory.commit import failed_rows, read_commit, seal_commit
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.named_hashes import NamedHashes
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import (
    THUMBS_FOLDER,
    is_atlas,
    is_index,
    read_indexes,
)
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


def orphan_thumbs(run: Run) -> list[str]:
    """Objects of `thumbs/` that show no image of the run any more, in order.

    These are indexes that are damaged or name no bytes that a commit names, and atlases that no
    other index names. Objects with other names are left alone, and all of them where a newer
    version has written an index.

    Raises:
        Damaged: a commit cannot be read.
        StoreError: the store failed.
    """
    listed = run.store.list(THUMBS_FOLDER)
    if not listed:
        return []
    named = NamedHashes.of_commits(run, partial(_image_hashes, run))
    kept, used = set[str](), set[str]()
    for path, read in read_indexes(run.store, [path for path in listed if is_index(path)]):
        if isinstance(read, str):  # a form that this version does not read
            return []
        atlases = () if isinstance(read, Damaged) else read
        hashes = [sha256 for atlas in atlases for _, sha256 in atlas.images]
        if named.include(hash64(pa.array(hashes, pa.string()), 0)).any():
            kept.add(path)
            used.update(atlas.path for atlas in atlases)
    ours = (path for path in listed if is_atlas(path) or is_index(path))
    return sorted(path for path in ours if path not in kept | used)


def delete_thumbs(run: Run, fence: FencingToken) -> list[str]:
    """Delete the objects of `thumbs/` that show no image any more, and return their paths.

    If another process is about to name an atlas, its thumbnails are found missing and made again.

    Raises:
        LeaseLost: another process has taken over the run.
        StoreError: the store failed.
    """
    orphans = orphan_thumbs(run)
    fence.require(run.store)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        list(pool.map(run.store.delete, orphans))
    return orphans


def _image_hashes(run: Run, shard: int) -> Hashes:
    """Hashes of the SHA-256 of every image that a commit names."""
    column = read_commit(run.store, shard, ["sha256"]).column("sha256").drop_null()
    return hash64(column.combine_chunks().cast(pa.string()), 0)
