"""Reading the images of a source shard, and checking that they are what their rows say."""

import threading
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from nightpress.pipelines.errors import Damaged, StoreMissing
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.image_files.stripping import without_facts
from nightpress.pipelines.storage import Store

PACK_BYTES = 256 * 2**20
"""A pack up to this size is read whole, so that its images take one request."""

PACKS_KEPT = 2
"""Packs in memory; rows come in the order of their packs."""

LOCATION = ("image_id", "file", "member", "member_offset", "num_bytes", "sha256")
"""The metadata columns that say where an image lies in its run, and which bytes it has."""


def is_in_small_pack(row: Mapping[str, Any]) -> bool:
    """Whether an image lies in the part of a pack that is read at once, so that threads would only
    wait for each other."""
    offset = row["member_offset"]
    return offset is not None and offset + row["num_bytes"] <= PACK_BYTES


class ShardImages:
    """The images of one shard of a run; its methods may be called by several threads.

    Args:
        store: the run directory.
        shard: the shard, for errors.
    """

    def __init__(self, store: Store, shard: int) -> None:
        self._store, self._shard = store, shard
        self._packs: dict[str, bytes | None] = {}
        self._lock = threading.Lock()

    def read(self, row: Mapping[str, Any], *, with_facts: bool) -> bytes:
        """The bytes of an image.

        Args:
            row: its metadata, at least `LOCATION`.
            with_facts: whether to keep what is embedded in the file.

        Raises:
            Damaged: it is not in the store, or has other bytes than its row says.
        """
        try:
            data = self._bytes(row)
        except StoreMissing:
            raise self._damaged(row, "it is not in the store") from None
        if sha256(data).hexdigest() != row["sha256"]:
            raise self._damaged(row, "its bytes are not those that the metadata has")
        try:
            return data if with_facts else without_facts(data)
        except ValueError as error:
            raise self._damaged(row, str(error)) from error

    def _bytes(self, row: Mapping[str, Any]) -> bytes:
        if row["member_offset"] is None:
            return image_bytes(self._store, row)
        pack = self._pack(row["file"])
        if pack is None:
            return image_bytes(self._store, row)
        return bytes(pack[row["member_offset"] :][: row["num_bytes"]])

    def _pack(self, path: str) -> memoryview | None:
        """A whole pack; None if it is too large for the memory."""
        with self._lock:
            if path not in self._packs:
                while len(self._packs) >= PACKS_KEPT:
                    del self._packs[next(iter(self._packs))]
                size = self._store.size(path)
                fits = size is not None and size <= PACK_BYTES
                self._packs[path] = self._store.read(path) if fits else None
            pack = self._packs[path]
        return None if pack is None else memoryview(pack)

    def _damaged(self, row: Mapping[str, Any], what: str) -> Damaged:
        return Damaged(
            f"{self._store.url}: image {row['image_id']}: {what}; nightpress verify --repair makes "
            "it again",
            self._shard,
        )
