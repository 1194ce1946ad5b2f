"""Image sinks: where the images of an attempt go, each in a file of its own or all in one pack.

Only this module creates, finds and replaces objects below `images/` while a shard is made.
"""

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from nightpress.pipelines.image_files.encoding import is_whole, without_digest
from nightpress.pipelines.image_files.naming import FOLDER
from nightpress.pipelines.image_files.packing import (
    Member,
    Packing,
    is_intact_pack,
    member_name,
    members_of,
    pack,
    pack_path,
    packed_shard,
)
from nightpress.pipelines.records import PLAN_SCHEMA, FailureType, ImageRecord
from nightpress.pipelines.run_directory.commit import metadata_columns
from nightpress.pipelines.run_directory.rewriting import rewrite
from nightpress.pipelines.shards.attempt import Attempt, EncodedImage
from nightpress.pipelines.shards.batching import PlannedImage
from nightpress.pipelines.shards.kept_frames import frame_path

MIN_EQUAL_SHARE = 0.9
"""Share of equal bytes above which a damaged file counts as a copy of an image."""


class ImageSink(Protocol):
    """Stores the images of one attempt."""

    def find(self, images: Sequence[PlannedImage]) -> dict[str, ImageRecord]:
        """Find images that need not be made; returns their records by image id."""
        ...

    def store(self, encoded: EncodedImage) -> ImageRecord:
        """Store an image, now or when the sink is flushed; called from several threads."""
        ...

    def flush(self, records: Mapping[int, ImageRecord], rows: pa.Table) -> dict[int, ImageRecord]:
        """Store what a commit of the records refers to and the store does not hold yet.

        Args:
            records: row in the shard -> its record.
            rows: the plan's rows, all of the shard.

        Returns:
            The records to commit.
        """
        ...


class FileSink:
    """Stores each image as an object of its own, as soon as it is made.

    Args:
        attempt: the attempt whose images are stored.
        pool: threads that read the images found in the store.
    """

    def __init__(self, attempt: Attempt, pool: Executor) -> None:
        self._attempt, self._pool = attempt, pool

    def find(self, images: Sequence[PlannedImage]) -> dict[str, ImageRecord]:
        """Adopt the images that an earlier attempt stored."""
        work, form = self._attempt.work, self._attempt.record.file_format
        if not work.look_first or work.replaces or form.tells_nothing:
            return {}
        present = self._attempt.store.present([image.file for image in images])
        stored = [image for image in images if image.file in present]
        adopted = self._pool.map(lambda image: self._attempt.adopt_file(image, time.time()), stored)
        return {record.facts.image_id: record for record in adopted if record is not None}

    def store(self, encoded: EncodedImage) -> ImageRecord:
        """Create the image's object, or adopt the object under its name if it is this image."""
        attempt, path, data = self._attempt, encoded.image.file, encoded.data
        replaces = attempt.work.replaces
        if encoded.first_frame is not None and not self._store_frame(encoded):
            return self._name_taken(encoded, frame_path(path))
        if not replaces and not attempt.store.create(path, data):
            adopted = attempt.adopt_file(encoded.image, encoded.started_at)
            if adopted is not None:
                return adopted
            found = attempt.store.read(path)
            if found == data:  # without embedded metadata it is not recognised, but it is the same
                return attempt.ok(encoded)
            if not is_damaged_copy(found, data):
                return self._name_taken(encoded, path)
            replaces = True
        if replaces:
            rewrite(attempt.store, path, lambda seen: data, attempt.fence)
        return attempt.ok(encoded)

    def _store_frame(self, encoded: EncodedImage) -> bool:
        """Store a clip's first frame before the clip; returns whether its name was free or its own.

        So a clip in the store always has its first frame there, and is adopted only with it.
        """
        store, data = self._attempt.store, encoded.first_frame or b""
        path = frame_path(encoded.image.file)
        if not self._attempt.work.replaces:
            if store.create(path, data) or (found := store.read(path)) == data:
                return True
            if not is_damaged_copy(found, data):
                return False
        rewrite(store, path, lambda seen: data, self._attempt.fence)
        return True

    def _name_taken(self, encoded: EncodedImage, path: str) -> ImageRecord:
        error = f"{path} already exists and is a different file"
        used = encoded.facts.inputs
        return self._attempt.failed(encoded.image, FailureType.NAME_TAKEN, error, used)

    def flush(self, records: Mapping[int, ImageRecord], rows: pa.Table) -> dict[int, ImageRecord]:
        """Return the records unchanged: every image is stored already."""
        return dict(records)


class PackSink:
    """Holds the images of an attempt in memory and stores them together at its end.

    Args:
        attempt: the attempt whose images are stored.
        packing: the pack format.
        committed: the metadata part that the attempt amends, if any.
    """

    def __init__(self, attempt: Attempt, packing: Packing, committed: pa.Table | None) -> None:
        self._attempt, self._packing, self._committed = attempt, packing, committed
        self._held: dict[str, tuple[PlannedImage, bytes]] = {}
        self._lock = threading.Lock()

    def find(self, images: Sequence[PlannedImage]) -> dict[str, ImageRecord]:
        """Adopt the intact images of packs, where a pack or the commit is damaged."""
        found = dict[str, ImageRecord]()
        for image, data in self._packed(images):
            record = self._attempt.adopt(image, data, time.time())
            if record is not None:
                self._hold(image, data)
                found[image.image_id] = record
        return found

    def store(self, encoded: EncodedImage) -> ImageRecord:
        """Hold the image until the sink is flushed."""
        self._hold(encoded.image, encoded.data)
        return self._attempt.ok(encoded)

    def flush(self, records: Mapping[int, ImageRecord], rows: pa.Table) -> dict[int, ImageRecord]:
        """Store a pack of the images that are ok, in plan order."""
        attempt = self._attempt
        ok = sorted(row for row, record in records.items() if record.status == "ok")
        if not ok:
            return dict(records)
        packed = pack(self._packing, self._members(records, ok), _carried(rows.take(ok)))
        path = pack_path(self._packing, attempt.work.shard, packed.data)
        if attempt.fence is not None:
            attempt.fence.require(attempt.store)
        if not attempt.store.create(path, packed.data):
            # The name contains a digest, so the object is this very pack or a damaged copy of it.
            rewrite(attempt.store, path, lambda seen: packed.data, attempt.fence)
        return dict(records) | {
            row: replace(
                records[row], file=path, member=location.member, member_offset=location.offset
            )
            for row, location in zip(ok, packed.locations, strict=True)
        }

    def _hold(self, image: PlannedImage, data: bytes) -> None:
        with self._lock:
            self._held[image.image_id] = image, data

    def _members(self, records: Mapping[int, ImageRecord], rows: Sequence[int]) -> Iterator[Member]:
        for row in rows:
            facts = records[row].facts
            image, data = self._held.pop(facts.image_id)
            yield Member(image.file.removeprefix(FOLDER), data, facts)

    def _packed(self, images: Sequence[PlannedImage]) -> Iterator[tuple[PlannedImage, bytes]]:
        """Read those of the images that existing packs hold, if this attempt can use them."""
        if self._attempt.work.recommits:
            yield from self._in_any_pack(images)
        elif self._attempt.work.replaces and self._committed is not None:
            yield from self._as_committed({i.image_id: i for i in images}, self._committed)

    def _as_committed(
        self, images: Mapping[str, PlannedImage], committed: pa.Table
    ) -> Iterator[tuple[PlannedImage, bytes]]:
        """Read the images whose bytes are still the ones that the commit names."""
        packs: dict[str, bytes | None] = {}
        for row in metadata_columns(committed).to_pylist():
            path, start = row["file"], row["member_offset"]
            if start is None or row["image_id"] not in images:
                continue
            if path not in packs:  # one pack is held at a time
                packs = {path: self._attempt.store.read_if_any(path)}
            data = (packs[path] or b"")[start : start + row["num_bytes"]]
            if hashlib.sha256(data).hexdigest() == row["sha256"]:
                yield images[row["image_id"]], data

    def _in_any_pack(self, images: Sequence[PlannedImage]) -> Iterator[tuple[PlannedImage, bytes]]:
        """Read the images from the intact packs of the shard, without a commit."""
        attempt = self._attempt
        names = {_member_name(self._packing, image): image for image in images}
        for path in attempt.store.list(FOLDER.rstrip("/")):
            if packed_shard(path) != attempt.work.shard:
                continue
            data = attempt.store.read_if_any(path) or b""
            if is_intact_pack(path, data):
                members = members_of(path, data)
                yield from ((names[name], image) for name, image in members if name in names)


def is_damaged_copy(found: bytes, image: bytes) -> bool:
    """Whether `found` is what a power cut or a failing disk leaves of an image file.

    Such a file fails its integrity check, is not longer than the image, and has nearly all bytes in
    common with it. A file of an older version, which had no digest to check, counts as well.
    """
    if is_whole(found):
        return False
    return any(_is_mostly(found, expected) for expected in (image, without_digest(image)))


def _is_mostly(found: bytes, image: bytes) -> bool:
    if len(found) > len(image):
        return False
    actual, expected = (np.frombuffer(data, np.uint8) for data in (found, image[: len(found)]))
    return bool(np.count_nonzero(actual == expected) >= MIN_EQUAL_SHARE * len(found))


def _member_name(packing: Packing, image: PlannedImage) -> str:
    return member_name(packing, image.file.removeprefix(FOLDER))


def _carried(rows: pa.Table) -> pa.Table:
    return rows.drop_columns(PLAN_SCHEMA.names)
