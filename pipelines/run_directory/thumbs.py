"""`thumbs/`: atlases of thumbnails, and the objects that say which image is in which cell.

Both are named by their content and created once. A cell, or a strip of several for the frames of a
clip, belongs to the bytes of an image (its SHA-256): when an image is made again, its old thumbnail
is no longer found, and a new atlas has the new one. So nothing here is ever rewritten, and any
process may add to it at any time.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.image_files.atlas import CELLS, STRIP_CELLS, Strip, Thumb, encode_atlas
from nightpress.pipelines.run_directory.json_files import what_is_wrong
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.storage import READ_THREADS, Store

THUMBS_FOLDER = "thumbs"

FORMAT_VERSION = 1

_ATLAS = re.compile(r"thumbs/shard-(\d{5,})-[0-9a-f]{32}\.webp")
_INDEX = re.compile(r"thumbs/shard-(\d{5,})-[0-9a-f]{32}\.json")

ImageBytes = tuple[str, str]
"""Image id, and SHA-256 of the image's file."""


@dataclass(frozen=True)
class StripOf:
    """Which clip a strip shows, and in how many cells."""

    num: int
    image: ImageBytes


@dataclass(frozen=True)
class Atlas:
    """An atlas, and what is in its cells."""

    path: str
    num_bytes: int
    cells: Mapping[int, ImageBytes]
    """Cell -> the image whose thumbnail it has."""
    strips: Mapping[int, StripOf] = field(default_factory=dict)
    """First cell of a strip -> the clip whose frames it shows."""

    @property
    def images(self) -> set[ImageBytes]:
        """The images that it shows, in a cell or a strip."""
        return {*self.cells.values(), *(strip.image for strip in self.strips.values())}


@dataclass(frozen=True)
class ThumbPlace:
    """Where a thumbnail is."""

    path: str
    """Path of its atlas."""
    cell: int


@dataclass(frozen=True)
class StripPlace:
    """Where the frames of a clip are."""

    path: str
    """Path of its atlas."""
    first_cell: int
    num: int
    """Cells, one for each frame that it shows."""


@dataclass
class Thumbs:
    """The thumbnails of a run, as far as they can be used."""

    places: dict[ImageBytes, ThumbPlace] = field(default_factory=dict)
    strips: dict[ImageBytes, StripPlace] = field(default_factory=dict)
    """Of clips."""
    problems: dict[str, str] = field(default_factory=dict)
    """Path of an object -> what is wrong with it."""
    unknown: set[str] = field(default_factory=set)
    """Paths of indexes that are as written, in a form that this version does not read."""
    listed: dict[str, int] = field(default_factory=dict)
    """Every object in `thumbs/` -> its bytes."""
    named: dict[str, Atlas] = field(default_factory=dict)
    """Path -> the atlas, of each that an index names."""
    indexes: dict[str, tuple[Atlas, ...]] = field(default_factory=dict)
    """Path of an index that can be read -> the atlases that it names."""

    def problems_of(self, images: Collection[ImageBytes]) -> dict[str, str]:
        """The problems that keep thumbnails of some images from being found.

        An atlas that is missing is none if all its images have other thumbnails and strips, or were
        made again since.
        """
        return {
            path: why
            for path, why in self.problems.items()
            if path not in self.named or not self._lacks(self.named[path]).isdisjoint(images)
        }

    def _lacks(self, atlas: Atlas) -> set[ImageBytes]:
        """The images of an atlas that have no thumbnail, or no strip, elsewhere."""
        cells = {image for image in atlas.cells.values() if image not in self.places}
        strips = {each.image for each in atlas.strips.values() if each.image not in self.strips}
        return cells | strips

    def add(self, atlases: Sequence[Atlas]) -> None:
        """Add atlases that are stored."""
        for atlas in atlases:
            self.named[atlas.path] = atlas
            for cell, image in atlas.cells.items():
                self.places.setdefault(image, ThumbPlace(atlas.path, cell))
            for first, strip in atlas.strips.items():
                self.strips.setdefault(strip.image, StripPlace(atlas.path, first, strip.num))


def is_atlas(path: str) -> bool:
    """Whether a path in a run is that of an atlas."""
    return _ATLAS.fullmatch(path) is not None


def is_index(path: str) -> bool:
    """Whether a path in a run is that of an index of atlases."""
    return _INDEX.fullmatch(path) is not None


def digest_of(data: bytes) -> str:
    """The digest of an object that is part of its name."""
    return hashlib.sha256(data).hexdigest()[:32]


def is_intact(path: str, data: bytes) -> bool:
    """Whether the bytes of an object of `thumbs/` are those that its name tells."""
    return path.rpartition(".")[0].endswith(f"-{digest_of(data)}")


def store_atlas(
    store: Store,
    shard: int,
    cells: Mapping[int, ImageBytes],
    thumbs: Mapping[int, Thumb],
    strips: Mapping[int, StripOf] | None = None,
) -> Atlas:
    """Store an atlas, replacing a damaged copy of it.

    Args:
        shard: which shard its images are of.
        cells: cell -> the image whose thumbnail it has.
        thumbs: cell -> thumbnail, of the same cells and of those of strips.
        strips: first cell of a strip -> the clip whose frames it shows.

    Raises:
        StoreError: the store failed.
    """
    data = encode_atlas(thumbs)
    path = f"{THUMBS_FOLDER}/shard-{shard:05d}-{digest_of(data)}.webp"
    _create(store, path, data)
    return Atlas(path, len(data), dict(cells), dict(strips or {}))


def store_strips(store: Store, shard: int, strips: Mapping[int, tuple[ImageBytes, Strip]]) -> Atlas:
    """Store an atlas of strips.

    Args:
        shard: which shard its clips are of.
        strips: place in the atlas, counted from 0 -> clip and strip.

    Raises:
        StoreError: the store failed.
    """
    thumbs, places = dict[int, Thumb](), dict[int, StripOf]()
    for place, (image, strip) in strips.items():
        places[place * STRIP_CELLS] = StripOf(len(strip), image)
        thumbs.update(enumerate(strip, place * STRIP_CELLS))
    return store_atlas(store, shard, {}, thumbs, places)


def store_index(store: Store, shard: int, atlases: Sequence[Atlas]) -> str:
    """Store which images are in atlases of a shard; returns the path.

    Raises:
        StoreError: the store failed.
    """
    values = {
        "format_version": FORMAT_VERSION,
        "shard": shard,
        "atlases": [
            {"file": atlas.path, "num_bytes": atlas.num_bytes, **atlas_entries(atlas)}
            for atlas in atlases
        ],
    }
    data = (json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
    path = f"{THUMBS_FOLDER}/shard-{shard:05d}-{digest_of(data)}.json"
    _create(store, path, data)
    return path


def atlas_entries(atlas: Atlas) -> dict[str, list[list[int | str]]]:
    """What an atlas shows, as indexes and the review page have it; `strips` only if it has some."""
    found: dict[str, list[list[int | str]]] = {
        "cells": [[cell, *image] for cell, image in sorted(atlas.cells.items())]
    }
    if atlas.strips:
        found["strips"] = [
            [first, atlas.strips[first].num, *atlas.strips[first].image]
            for first in sorted(atlas.strips)
        ]
    return found


def _create(store: Store, path: str, data: bytes) -> None:
    if not store.create(path, data) and store.size(path) != len(data):
        store.put(path, data)  # the name tells the content, so this is a damaged copy of it


def read_thumbs(store: Store) -> Thumbs:
    """Find the thumbnails of a run: one listing, and one small read for each index.

    Only sizes are compared; `is_intact` tells whether an atlas that was read is what was written.

    Raises:
        StoreError: the store failed.
    """
    found = Thumbs(listed=store.list(THUMBS_FOLDER))
    for path, read in read_indexes(store, [path for path in found.listed if is_index(path)]):
        if isinstance(read, Damaged):
            found.problems[path] = str(read)
            continue
        if isinstance(read, str):
            found.problems[path] = read
            found.unknown.add(path)
            continue
        found.indexes[path] = read
        for atlas in read:
            found.named[atlas.path] = atlas
    # Equal pictures make equal atlases: one may have the thumbnails of several sets of images.
    all_ = [atlas for atlases in found.indexes.values() for atlas in atlases]
    usable = [atlas for atlas in all_ if _is_whole(atlas, found)]
    found.add(usable)
    return found


def places_of(
    store: Store, images: Mapping[int, Collection[ImageBytes]]
) -> dict[ImageBytes, ThumbPlace]:
    """Where the thumbnails of some images are; memory does not grow with the other images.

    It takes one listing, and a small read for each index of their shards.

    Args:
        store: of the run.
        images: shard -> images of it.

    Raises:
        StoreError: the store failed.
    """
    listed = {
        path: num_bytes
        for page in store.pages(THUMBS_FOLDER)
        for path, num_bytes in page.items()
        if _shard_of(path) in images
    }
    found = dict[ImageBytes, ThumbPlace]()
    for path, read in read_indexes(store, sorted(filter(is_index, listed))):
        wanted = images[_shard_of(path)]
        whole = () if isinstance(read, Damaged | str) else read
        for atlas in (each for each in whole if listed.get(each.path) == each.num_bytes):
            for cell, image in atlas.cells.items():
                if image in wanted:
                    found.setdefault(image, ThumbPlace(atlas.path, cell))
    return found


def _shard_of(path: str) -> int:
    """The shard of an object of `thumbs/`; -1 for what is none of ours."""
    match = _ATLAS.fullmatch(path) or _INDEX.fullmatch(path)
    return int(match[1]) if match else -1


def _is_whole(atlas: Atlas, found: Thumbs) -> bool:
    """Whether an atlas is there with all its bytes; notes what is wrong if not."""
    num_bytes = found.listed.get(atlas.path)
    if num_bytes is None:
        found.problems[atlas.path] = "it is missing"
    elif num_bytes != atlas.num_bytes:
        found.problems[atlas.path] = f"it has {num_bytes:,} bytes instead of {atlas.num_bytes:,}"
    return num_bytes == atlas.num_bytes


def read_indexes(
    store: Store, paths: Sequence[str]
) -> Iterator[tuple[str, tuple[Atlas, ...] | Damaged | str]]:
    """Each index with its atlases, with its damage, or with why this version cannot read it.

    They are read a few ahead, so memory holds a few of them.

    Raises:
        StoreError: the store failed.
    """

    def read(path: str) -> tuple[Atlas, ...] | Damaged | str | None:
        data = store.read_if_any(path)
        if data is None:
            return None
        if not is_intact(path, data):
            return Damaged("it is not what was written")
        try:
            return _decoded(data)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return f"not an index of thumbnails of this version: {what_is_wrong(error)}"

    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = map_ahead(pool, read, paths, 4 * READ_THREADS)
        for path, each in zip(paths, found, strict=True):
            if each is not None:
                yield path, each


def _decoded(data: bytes) -> tuple[Atlas, ...]:
    """The atlases that an index names.

    Raises:
        ValueError, KeyError, TypeError: it is no index, or one of another format.
    """
    values = json.loads(data)
    if values["format_version"] != FORMAT_VERSION:
        raise ValueError(f"it has format {values['format_version']!r}, not {FORMAT_VERSION}")
    return tuple(_atlas(each) for each in values["atlases"])


def _atlas(values: Mapping[str, object]) -> Atlas:
    path, num_bytes, cells = str(values["file"]), values["num_bytes"], values["cells"]
    if not is_atlas(path) or not isinstance(num_bytes, int) or not isinstance(cells, list):
        raise ValueError(f"no atlas: {path}")
    found = {int(cell): (str(image_id), str(sha256)) for cell, image_id, sha256 in cells}
    if not all(0 <= cell < CELLS for cell in found):
        raise ValueError(f"{path}: a cell beyond the last one")
    return Atlas(path, num_bytes, found, _strips(path, values.get("strips", [])))


def _strips(path: str, entries: object) -> dict[int, StripOf]:
    if not isinstance(entries, list):
        raise ValueError(f"{path}: strips that are no list")
    found = {
        int(first): StripOf(int(num), (str(image_id), str(sha256)))
        for first, num, image_id, sha256 in entries
    }
    for first, strip in found.items():
        if not (1 <= strip.num <= STRIP_CELLS and 0 <= first <= CELLS - strip.num):
            raise ValueError(f"{path}: a strip beyond the last cell")
    return found
