"""WebDataset tars: members that share a key are one sample, read as the tar streams by.

A member's key is its name up to the first dot after the last slash; the rest is its extension.
Reference: webdataset's format, github.com/webdataset/webdataset.
"""

import gzip
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, cast

from nightpress.pipelines.errors import DataError
from nightpress.pipelines.storage import Options, Source, open_source, parsing
from nightpress.pipelines.storage.urls import public
from nightpress.pipelines.training.data.finding import Place
from nightpress.pipelines.training.data.pictures import MAX_BYTES, BadPicture
from nightpress.pipelines.training.data.samples import (
    Candidate,
    Captions,
    Sample,
    as_captions,
    decoded,
)
from nightpress.pipelines.training.data.spec import CAPTION_NAMES, IMAGE_SUFFIXES, DataSpec

MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<extension>[^/]+)")
IMAGES = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
TEXTS = ("txt", *CAPTION_NAMES)

MALFORMED = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a truncated or invalid tar raises."""


@dataclass
class _Group:
    """The members of one key, without those that nobody asked for."""

    key: str
    members: dict[str, bytes | None] = field(default_factory=dict)
    """Extension -> bytes; None for one that is too large."""


class Tars:
    """The samples of tars, in the order of their members."""

    def __init__(self, place: Place, spec: DataSpec, options: Options) -> None:
        self._place, self._options = place, options
        self._images = IMAGES if spec.image is None else (spec.image.lower().lstrip("."),)
        self._texts: Sequence[str] = TEXTS
        if spec.caption is not None:
            self._texts = [name for name in (spec.caption.lower().lstrip("."),) if name != "json"]
        self._keys = CAPTION_NAMES if spec.caption in (None, "json") else (str(spec.caption),)
        self._seen: set[str] = set()
        self._captioned = self._read = False

    def no_captions(self) -> str:
        """Known when the tars have been read."""
        if self._captioned or not self._read:
            return ""
        return (
            f"{public(self._place.root)}: no captions in the tars; looked for members "
            f"{_dotted(self._texts)}, and for {', '.join(self._keys)} in .json; "
            f"their members are {_dotted(sorted(self._seen))}"
        )

    def candidates(self) -> Iterator[Candidate]:
        """Each key with a picture, as its members come.

        Raises:
            DataError: there is none, or a tar is broken.
        """
        num = 0
        for source in self._place.files:
            for group in self._groups(source):
                extensions = [name for name in self._images if name in group.members]
                if extensions:
                    num += 1
                    yield self._candidate(self._place.name(source.url), group, extensions)
        self._read = True
        if not num:
            raise DataError(
                f"{public(self._place.root)}: no pictures in the tars; looked for members "
                f"{_dotted(self._images)}; their members are {_dotted(sorted(self._seen))}"
            )

    def _groups(self, source: Source) -> Iterator[_Group]:
        group: _Group | None = None
        for key, extension, data in self._members(source):
            if group is None or group.key != key or extension in group.members:
                if group is not None:
                    yield group
                group = _Group(key)
            group.members[extension] = data
        if group is not None:
            yield group

    def _members(self, source: Source) -> Iterator[tuple[str, str, bytes | None]]:
        wanted = {*self._images, *self._texts, "json"}
        with (
            parsing(source.url, MALFORMED, partial(_unreadable, source.url)),
            open_source(source.url, self._options) as stream,
            _uncompressed(source, stream) as blocks,
            tarfile.open(fileobj=blocks, mode="r|") as tar,
        ):
            for member in tar:
                match = MEMBER.fullmatch(member.name.removeprefix("./"))
                if match is None or not member.isreg():
                    continue
                extension = match["extension"].lower()
                self._seen.add(extension)
                if extension in wanted:
                    yield match["key"], extension, _bytes(tar, member)

    def _candidate(self, tar: str, group: _Group, extensions: list[str]) -> Candidate:
        name = f"{tar}/{group.key}.{extensions[0]}"

        def load() -> Sample:
            if len(extensions) > 1:
                shown = " and ".join(f".{extension}" for extension in extensions)
                raise BadPicture(f"{shown} have the same key; choose with data.image")
            data = group.members[extensions[0]]
            if data is None:
                raise BadPicture(f"larger than {MAX_BYTES:,} bytes")
            return Sample(data, self._captions(group))

        return Candidate(name, load)

    def _captions(self, group: _Group) -> Captions:
        captions: Captions = ()
        for text in self._texts:
            if not captions and (data := group.members.get(text)):
                captions = as_captions(decoded(data))
        if not captions and (data := group.members.get("json")):
            captions = as_captions(self._value(_object(data)))
        self._captioned = self._captioned or bool(captions)
        return captions

    def _value(self, values: dict[str, Any]) -> Any:
        return next((values[key] for key in self._keys if values.get(key) is not None), None)


def _dotted(extensions: Sequence[str]) -> str:
    return " ".join(f".{extension}" for extension in extensions) or "none"


def _object(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(decoded(data))
    except (ValueError, RecursionError) as error:
        raise BadPicture(f"its .json is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BadPicture("its .json is not an object")
    return values


@contextmanager
def _uncompressed(source: Source, stream: BinaryIO) -> Iterator[BinaryIO]:
    """The blocks of a tar; `tarfile` itself would not notice where a file was cut short."""
    if source.url.lower().endswith("gz"):
        with gzip.GzipFile(fileobj=stream) as blocks:
            yield cast("BinaryIO", blocks)
            while blocks.read(1 << 20):  # only the end holds the checksum
                pass
            return
    if source.num_bytes % tarfile.BLOCKSIZE:
        raise EOFError(f"{source.num_bytes:,} bytes are no whole number of blocks; cut short?")
    yield stream


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    if member.size > MAX_BYTES:
        return None
    stream = tar.extractfile(member)
    return stream.read() if stream is not None else None


def _unreadable(url: str, error: Exception) -> DataError:
    return DataError(f"{public(url)}: cannot be read as a tar: {error}")
