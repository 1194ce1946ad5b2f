"""The thumbnails of one attempt at a shard, made beside encoding and stored with its commit."""

import threading
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.image_files.atlas import (
    CELLS,
    Thumb,
    thumb_of_file,
    thumb_of_pixels,
)
from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.run_directory.thumbs import (
    Atlas,
    ImageBytes,
    store_atlas,
    store_index,
)
from nightpress.pipelines.storage import Store

MAX_HELD = 4 * CELLS
"""Thumbnails that are held in memory, 110 KB each at most, before atlases are not waited for."""


class ShardThumbs:
    """Collects the thumbnails of an attempt; called from several threads.

    No error leaves this class: an image never fails for its thumbnail, and `nightpress review`
    makes those that are missing.

    Args:
        store: of the run.
        shard: the shard.
        image_ids: the images of the attempt in order. 64 of them are an atlas, whatever the order
            in which they are made, so that every attempt makes the same atlases.
    """

    def __init__(self, store: Store, shard: int, image_ids: Sequence[str]) -> None:
        self._store, self._shard = store, shard
        self._places = {image_id: divmod(n, CELLS) for n, image_id in enumerate(image_ids)}
        """Image id -> its atlas and its cell."""
        self._sizes = Counter(atlas for atlas, _ in self._places.values())
        self._held: dict[int, dict[int, tuple[ImageBytes, Thumb]]] = {}
        """Atlas -> cell -> image and thumbnail, of atlases that are not stored yet."""
        self._stored: list[Atlas] = []
        self._lock = threading.Lock()
        self.errors: list[str] = []
        """Why thumbnails could not be made or stored."""

    def of_pixels(self, pixels: NDArray[np.uint8]) -> Thumb | None:
        """The thumbnail of an image that was made; None if it cannot be made.

        Args:
            pixels: (H, W, 3), RGB.
        """
        try:
            return thumb_of_pixels(pixels)
        except Exception as error:  # whatever happens to its thumbnail, the image must not fail
            self._note(error)
            return None

    def of_file(self, data: bytes) -> Thumb | None:
        """The thumbnail of an image that was found in the store; None if it cannot be made."""
        try:
            return thumb_of_file(data)
        except Exception as error:  # as above
            self._note(error)
            return None

    def add(self, image_id: str, sha256: str, thumb: Thumb | None) -> None:
        """Take the thumbnail of an image that is ok; a full atlas is stored at once."""
        place = self._places.get(image_id)
        if thumb is None or place is None:
            return
        atlas, cell = place
        with self._lock:
            cells = self._held.setdefault(atlas, {})
            cells[cell] = (image_id, sha256), thumb
            num_held = sum(map(len, self._held.values()))
            full = len(cells) == self._sizes[atlas]
            if not full and num_held > MAX_HELD:  # failed images keep atlases from becoming full
                atlas, full = max(self._held, key=lambda each: len(self._held[each])), True
            ready = self._held.pop(atlas) if full else None
        if ready:
            self._store_atlas(ready)

    def finish(self, records: Iterable[ImageRecord]) -> tuple[int, str | None]:
        """Store what is left, and which image is in which cell.

        Args:
            records: those that are about to be committed.

        Returns:
            How many images that are ok have no thumbnail, and why the first of them has none.
        """
        with self._lock:
            held, self._held = self._held, {}
        for cells in held.values():
            self._store_atlas(cells)
        ok = {(r.facts.image_id, r.sha256) for r in records if r.status == "ok"}
        atlases = [each for each in self._stored if ok.intersection(each.cells.values())]
        try:
            if atlases:
                store_index(self._store, self._shard, sorted(atlases, key=lambda each: each.path))
        except StoreError as error:
            self._note(error)
            atlases = []
        missing = ok.difference(*(each.cells.values() for each in atlases))
        reason = self.errors[0] if self.errors else "it was not made"
        return len(missing), reason if missing else None

    def _store_atlas(self, cells: dict[int, tuple[ImageBytes, Thumb]]) -> None:
        images = {cell: image for cell, (image, _) in cells.items()}
        thumbs = {cell: thumb for cell, (_, thumb) in cells.items()}
        try:
            atlas = store_atlas(self._store, self._shard, images, thumbs)
        except Exception as error:  # as above
            self._note(error)
        else:
            with self._lock:
                self._stored.append(atlas)

    def _note(self, error: Exception) -> None:
        with self._lock:
            self.errors.append(f"{type(error).__name__}: {one_line(error, 200)}")
