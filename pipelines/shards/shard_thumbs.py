"""The thumbnails of one attempt at a shard, made beside encoding and stored with its commit.

A clip has a strip, too: thumbnails of some of its frames. Strips are in atlases of their own.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.image_files.atlas import (
    CELLS,
    STRIPS,
    Strip,
    Thumb,
    num_frames_of_file,
    strip_of_file,
    strip_of_pixels,
    thumb_of_file,
    thumb_of_pixels,
)
from nightpress.pipelines.image_files.clips.frames import first_frame, is_clip
from nightpress.pipelines.records import ImageRecord
from nightpress.pipelines.run_directory.thumbs import (
    Atlas,
    ImageBytes,
    store_atlas,
    store_index,
    store_strips,
)
from nightpress.pipelines.storage import Store

MAX_HELD = 4 * CELLS
"""Thumbnails that are held in memory, 110 KB each at most, before atlases are not waited for."""

Made = TypeVar("Made")

AtlasKey = tuple[bool, int]
"""Whether an atlas has strips, and its number among those."""


@dataclass(frozen=True)
class ImageThumbs:
    """The thumbnail of an image, and the strip of a clip; None if it could not be made."""

    thumb: Thumb | None
    strip: Strip | None = None


class ShardThumbs:
    """Collects the thumbnails of an attempt; called from several threads.

    No error leaves this class: an image never fails for its thumbnail, and `nightpress review`
    makes those that are missing.

    Args:
        store: of the run.
        shard: the shard.
        image_ids: the images of the attempt in order. 64 of them are an atlas, and the strips of
            four, whatever the order in which they are made, so that every attempt makes the same
            atlases.
    """

    def __init__(self, store: Store, shard: int, image_ids: Sequence[str]) -> None:
        self._store, self._shard = store, shard
        self._numbers = {image_id: n for n, image_id in enumerate(image_ids)}
        self._sizes: Counter[AtlasKey] = Counter(
            key
            for n in self._numbers.values()
            for key in ((False, n // CELLS), (True, n // STRIPS))
        )
        """Atlas -> how many thumbnails or strips fill it."""
        self._held: dict[AtlasKey, dict[int, tuple[ImageBytes, Strip]]] = {}
        """Atlas -> place -> image and thumbnails, of atlases that are not stored yet."""
        self._stored: list[Atlas] = []
        self._lock = threading.Lock()
        self.errors: list[str] = []
        """Why thumbnails could not be made or stored."""

    def of_pixels(self, pixels: NDArray[np.uint8]) -> ImageThumbs:
        """The thumbnail of an image that was made, and the strip of a clip.

        Args:
            pixels: (H, W, 3), RGB; (F, H, W, 3) for a clip.
        """
        thumb = self._tried(lambda: thumb_of_pixels(first_frame(pixels)))
        moves = is_clip(pixels) and len(pixels) > 1
        strip = self._tried(lambda: strip_of_pixels(pixels)) if moves else None
        return ImageThumbs(thumb, strip)

    def of_file(self, data: bytes) -> ImageThumbs:
        """The thumbnail of an image that was found in the store, and the strip of a clip."""
        thumb = self._tried(lambda: thumb_of_file(data))
        num_frames = self._tried(lambda: num_frames_of_file(data)) or 1
        strip = self._tried(lambda: strip_of_file(data)) if num_frames > 1 else None
        return ImageThumbs(thumb, strip)

    def _tried(self, make: Callable[[], Made]) -> Made | None:
        """What is made; None if it cannot be."""
        try:
            return make()
        except Exception as error:  # whatever happens to its thumbnail, the image must not fail
            self._note(error)
            return None

    def add(self, image_id: str, sha256: str, thumbs: ImageThumbs | None) -> None:
        """Take the thumbnails of an image that is ok; a full atlas is stored at once."""
        number = self._numbers.get(image_id)
        if thumbs is None or number is None:
            return
        image = image_id, sha256
        if thumbs.thumb is not None:
            atlas, cell = divmod(number, CELLS)
            self._hold((False, atlas), cell, image, [thumbs.thumb])
        if thumbs.strip is not None:
            atlas, place = divmod(number, STRIPS)
            self._hold((True, atlas), place, image, thumbs.strip)

    def _hold(self, key: AtlasKey, place: int, image: ImageBytes, thumbs: Strip) -> None:
        with self._lock:
            parts = self._held.setdefault(key, {})
            parts[place] = image, thumbs
            full = len(parts) == self._sizes[key]
            if not full and sum(map(_num_thumbs, self._held.values())) > MAX_HELD:
                # Images that fail keep atlases from becoming full.
                key, full = max(self._held, key=lambda each: _num_thumbs(self._held[each])), True
            ready = self._held.pop(key) if full else None
        if ready:
            self._store_atlas(key, ready)

    def finish(self, records: Iterable[ImageRecord]) -> tuple[int, str | None]:
        """Store what is left, and which image is in which cell.

        Args:
            records: those that are about to be committed.

        Returns:
            How many images that are ok have no thumbnail, or clips no strip, and why the first of
            them has none.
        """
        with self._lock:
            held, self._held = self._held, {}
        for key, parts in held.items():
            self._store_atlas(key, parts)
        ok = [each for each in records if each.status == "ok"]
        images = {(each.facts.image_id, each.sha256) for each in ok}
        clips = {
            (each.facts.image_id, each.sha256) for each in ok if (each.facts.num_frames or 1) > 1
        }
        atlases = [each for each in self._stored if images & each.images]
        try:
            if atlases:
                store_index(self._store, self._shard, sorted(atlases, key=lambda each: each.path))
        except StoreError as error:
            self._note(error)
            atlases = []
        missing = images.difference(*(each.cells.values() for each in atlases))
        missing |= clips.difference(
            strip.image for each in atlases for strip in each.strips.values()
        )
        reason = self.errors[0] if self.errors else "it was not made"
        return len(missing), reason if missing else None

    def _store_atlas(self, key: AtlasKey, parts: Mapping[int, tuple[ImageBytes, Strip]]) -> None:
        has_strips, _ = key
        try:
            if has_strips:
                atlas = store_strips(self._store, self._shard, parts)
            else:
                images = {cell: image for cell, (image, _) in parts.items()}
                thumbs = {cell: thumb for cell, (_, [thumb]) in parts.items()}
                atlas = store_atlas(self._store, self._shard, images, thumbs)
        except Exception as error:  # as above
            self._note(error)
        else:
            with self._lock:
                self._stored.append(atlas)

    def _note(self, error: Exception) -> None:
        with self._lock:
            self.errors.append(f"{type(error).__name__}: {one_line(error, 200)}")


def _num_thumbs(parts: Mapping[int, tuple[ImageBytes, Strip]]) -> int:
    return sum(len(thumbs) for _, thumbs in parts.values())
