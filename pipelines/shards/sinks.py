"""Keeping: where the files of sampled images go, each by itself or all of a shard into a pack.

Owns what is created, found and replaced below `images/`. Knows nothing of sampling or commits.
"""

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa

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
from nightpress.pipelines.records import PLAN_SCHEMA, FailureType, ImageFacts, ImageRecord
from nightpress.pipelines.run_directory.commit import metadata_columns
from nightpress.pipelines.run_directory.lease import FencingToken
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.run_directory.rewriting import rewrite
from nightpress.pipelines.shards.batching import PlannedImage
from nightpress.pipelines.shards.outcomes import (
    adopt,
    failed_record,
    is_damaged_copy,
    record_of_stored,
    stored_record,
)
from nightpress.pipelines.storage import Store


@dataclass(frozen=True)
class Attempt:
    """Who works on a shard, and how."""

    store: Store
    record: RunRecord
    shard: int
    number: int
    worker: str
    fence: FencingToken | None
    replaces: bool
    """Whether what is under the images' names is damaged, and to be replaced."""
    recommits: bool
    """Whether it is the commit that is."""


@dataclass(frozen=True)
class MadeImage:
    """One image that was sampled and encoded."""

    image: PlannedImage
    facts: ImageFacts
    data: bytes
    started_at: float
    sampling_s: float

    def stored(self, attempt: Attempt) -> ImageRecord:
        """Its record."""
        return stored_record(
            self.image,
            self.facts,
            self.data,
            attempt.number,
            attempt.worker,
            self.started_at,
            self.sampling_s,
        )


class ImageSink(Protocol):
    """Of one attempt at one shard; `keep` is called from several threads."""

    def found(self, images: Sequence[PlannedImage]) -> dict[str, ImageRecord]:
        """Of some images those that need not be made, by image id."""
        ...

    def keep(self, made: MadeImage) -> ImageRecord:
        """Take an image; its record says what became of it."""
        ...

    def settled(self, records: Mapping[int, ImageRecord], rows: pa.Table) -> dict[int, ImageRecord]:
        """Have everything in the store that a commit of these records would name.

        Args:
            records: row in the shard -> its record.
            rows: of the plan, all of the shard's.

        Returns:
            The records as they are to be committed.
        """
        ...


class Files:
    """Each image is an object, stored as soon as it is made.

    Args:
        attempt: whose.
        looks: whether an earlier one may have stored some.
        pool: reads what is found.
    """

    def __init__(self, attempt: Attempt, looks: bool, pool: Executor) -> None:
        self._attempt, self._looks, self._pool = attempt, looks, pool

    def found(self, images: Sequence[PlannedImage]) -> dict[str, ImageRecord]:
        """What an earlier attempt has stored."""
        if not self._looks or self._attempt.replaces:
            return {}
        there = self._attempt.store.present([image.file for image in images])
        stored = [image for image in images if image.file in there]
        adopted = self._pool.map(lambda image: self._adopt(image, time.time()), stored)
        return {record.facts.image_id: record for record in adopted if record is not None}

    def keep(self, made: MadeImage) -> ImageRecord:
        """Create the image under its name, or adopt what has the name if it is this image."""
        attempt, image, data = self._attempt, made.image, made.data
        replaces = attempt.replaces
        if not replaces and not attempt.store.create(image.file, data):
            found = self._adopt(image, made.started_at)
            if found is not None:
                return found
            if not is_damaged_copy(attempt.store.read(image.file), data):
                return self._taken(image)
            replaces = True
        if replaces:
            rewrite(attempt.store, image.file, lambda seen: data, attempt.fence)
        return made.stored(attempt)

    def settled(self, records: Mapping[int, ImageRecord], rows: pa.Table) -> dict[int, ImageRecord]:
        """All of them are where they belong."""
        return dict(records)

    def _adopt(self, image: PlannedImage, started_at: float) -> ImageRecord | None:
        each = self._attempt
        return adopt(each.store, each.record, image, each.number, each.worker, started_at)

    def _taken(self, image: PlannedImage) -> ImageRecord:
        each, error = self._attempt, f"{image.file} is there and is not this image"
        return failed_record(
            image, each.record, each.number, each.worker, FailureType.NAME_TAKEN, error
        )


class Packs:
    """The images of an attempt are held in memory, and stored together at its end.

    Args:
        attempt: whose.
        packing: how they are packed.
        standing: the commit that the attempt amends, if there is one.
    """

    def __init__(self, attempt: Attempt, packing: Packing, standing: pa.Table | None) -> None:
        self._attempt, self._packing, self._standing = attempt, packing, standing
        self._held: dict[str, tuple[PlannedImage, bytes]] = {}
        self._lock = threading.Lock()

    def found(self, images: Sequence[PlannedImage]) -> dict[str, ImageRecord]:
        """The sound images of packs that are damaged, or whose commit is; else none."""
        each, found = self._attempt, dict[str, ImageRecord]()
        for image, data in self._packed(images):
            record = record_of_stored(
                data, each.record, image, each.number, each.worker, time.time()
            )
            if record is not None:
                self._hold(image, data)
                found[image.image_id] = record
        return found

    def keep(self, made: MadeImage) -> ImageRecord:
        """Hold the image."""
        self._hold(made.image, made.data)
        return made.stored(self._attempt)

    def settled(self, records: Mapping[int, ImageRecord], rows: pa.Table) -> dict[int, ImageRecord]:
        """Store the pack of those that are ok, in the order of the plan."""
        each = self._attempt
        ok = sorted(row for row, record in records.items() if record.status == "ok")
        if not ok:
            return dict(records)
        made = pack(self._packing, self._members(records, ok), _carried(rows.take(ok)))
        path = pack_path(self._packing, each.shard, made.data)
        if each.fence is not None:
            each.fence.require(each.store)
        if not each.store.create(path, made.data):
            # Its name says what it should hold: this very pack, or what is left of one.
            rewrite(each.store, path, lambda seen: made.data, each.fence)
        return dict(records) | {
            row: replace(
                records[row], file=path, member=location.member, member_offset=location.offset
            )
            for row, location in zip(ok, made.locations, strict=True)
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
        """What packs have of some images, as far as this attempt has a use for it."""
        if self._attempt.recommits:
            yield from self._in_any_pack(images)
        elif self._attempt.replaces and self._standing is not None:
            yield from self._as_committed({each.image_id: each for each in images}, self._standing)

    def _as_committed(
        self, images: Mapping[str, PlannedImage], standing: pa.Table
    ) -> Iterator[tuple[PlannedImage, bytes]]:
        """By the commit: what still has the bytes that it names."""
        packs: dict[str, bytes | None] = {}
        for row in metadata_columns(standing).to_pylist():
            path, start = row["file"], row["member_offset"]
            if start is None or row["image_id"] not in images:
                continue
            if path not in packs:
                packs = {path: self._attempt.store.read_if_any(path)}
            data = (packs[path] or b"")[start : start + row["num_bytes"]]
            if hashlib.sha256(data).hexdigest() == row["sha256"]:
                yield images[row["image_id"]], data

    def _in_any_pack(self, images: Sequence[PlannedImage]) -> Iterator[tuple[PlannedImage, bytes]]:
        """Without a commit: from the shard's packs that are as they were written."""
        each = self._attempt
        names = {_member_name(self._packing, image): image for image in images}
        for path in each.store.list(FOLDER.rstrip("/")):
            if packed_shard(path) != each.shard:
                continue
            data = each.store.read_if_any(path) or b""
            if is_intact_pack(path, data):
                found = members_of(path, data)
                yield from ((names[name], image) for name, image in found if name in names)


def _member_name(packing: Packing, image: PlannedImage) -> str:
    return member_name(packing, image.file.removeprefix(FOLDER))


def _carried(rows: pa.Table) -> pa.Table:
    return rows.drop_columns(PLAN_SCHEMA.names)
