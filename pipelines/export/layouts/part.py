"""Parts of an export: the images of one source shard in one split, as one or more objects."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

DATA = "data"
"""The folder of the parts."""

DIGITS = 16
"""Hex digits of the SHA-256 in the name of a part."""

MAX_NAME_BYTES = 240
"""File systems allow 255; the rest is for the names of captions and of temporary files."""


@dataclass(frozen=True)
class ExportedImage:
    """One image as it is exported."""

    name: str
    """A relative file name, of which no other image of its run is the same."""
    data: bytes
    caption: str
    row: int = 0
    """Its row in the shard of its run."""

    @property
    def suffix(self) -> str:
        """`png`, `jpg` or `webp`: what its name ends with."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class PartKey:
    """Which part of an export it is."""

    split: str
    source: int
    """The place of its run in the export's list, from 0."""
    shard: int
    """The shard of the run that it was made from."""
    number: int = 0
    """Large shards give several parts; their numbers begin with 0."""
    num_sources: int = 1
    """How many runs the export has."""
    title: str = "set"
    """The name of the export."""

    @property
    def stem(self) -> str:
        """`0-00012`, or `0-00012-1` for the second part of its shard."""
        return f"{self.source}-{self.shard:05d}{self.suffix}"

    @property
    def suffix(self) -> str:
        """`-1` for the second part of a shard; empty for the first."""
        return f"-{self.number}" if self.number else ""

    @property
    def number_of_shard(self) -> int:
        """A number that no shard of another run has, and that stays when runs grow."""
        return self.shard * self.num_sources + self.source


@dataclass(frozen=True)
class Place:
    """Where an image lies in an export."""

    path: str
    """The object that holds it."""
    member: str | None = None
    """Its name in that object; None if the object is the image."""


@dataclass(frozen=True)
class Part:
    """The content of a part."""

    objects: tuple[tuple[str, bytes], ...]
    """(path in the export, bytes)."""
    places: tuple[Place, ...]
    """Where each of its images lies, in order."""


def digest_of(*contents: bytes) -> str:
    """The hash of a content, as names have it."""
    digest = sha256()
    for each in contents:
        digest.update(sha256(each).digest() if len(contents) > 1 else each)
    return digest.hexdigest()[:DIGITS]


def safe_name(name: str) -> str:
    """A relative name of which no part begins with `.` or `__`: readers take those for hidden."""
    return "/".join(_bounded(visible(each)) for each in name.replace("%", "%25").split("/"))


def flat_name(name: str) -> str:
    """A relative name as the name of one file."""
    return _bounded(visible(name.replace("%", "%25").replace("/", "%2F")))


def visible(name: str) -> str:
    """A file name that does not begin with `.` or `__`, given one whose `%` are encoded."""
    return f"%{ord(name[0]):02X}{name[1:]}" if name.startswith((".", "__")) else name


def _bounded(name: str) -> str:
    """A name that fits into a file system; the hash of the whole one keeps cut ones apart."""
    data = name.encode()
    if len(data) <= MAX_NAME_BYTES:
        return name
    suffix = name.rpartition(".")[2]
    kept = data[: MAX_NAME_BYTES // 2].decode(errors="ignore")
    return f"{kept}-{digest_of(data)}.{suffix}"


def folder_part(folder: str, files: Sequence[tuple[str, bytes]], names: Iterable[str]) -> Part:
    """A part that is a folder of files, whose name has their hash.

    Args:
        folder: the folder's path, to which `-<hash>` is added.
        files: (name in the folder, bytes) of every file.
        names: the names of the images, in order.
    """
    digest = digest_of(*(each for name, data in files for each in (name.encode(), data)))
    path = f"{folder}-{digest}"
    objects = tuple((f"{path}/{name}", data) for name, data in files)
    return Part(objects, tuple(Place(f"{path}/{name}") for name in names))
