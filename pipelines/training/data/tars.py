"""WebDataset tars, read as a stream: consecutive members with the same key form one sample.

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
from nightpress.pipelines.training.data.decoding import MAX_BYTES, BadImageError
from nightpress.pipelines.training.data.finding import FoundSource
from nightpress.pipelines.training.data.samples import (
    CandidateSample,
    Captions,
    Sample,
    decode_text,
    parse_captions,
)
from nightpress.pipelines.training.data.spec import CAPTION_NAMES, IMAGE_SUFFIXES, DataSpec

MEMBER = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<extension>[^/]+)")
IMAGE_EXTENSIONS = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
TEXT_EXTENSIONS = ("txt", *CAPTION_NAMES)

MALFORMED = (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a truncated or invalid tar raises."""


@dataclass
class _Group:
    """The members of one key that may hold its image or caption."""

    key: str
    members: dict[str, bytes | None] = field(default_factory=dict)
    """Extension -> bytes; None for a member that is too large."""


class TarReader:
    """Reads the samples of tars, in the order of their members."""

    def __init__(self, source: FoundSource, spec: DataSpec, options: Options) -> None:
        self._source, self._options = source, options
        self._image_extensions = (
            IMAGE_EXTENSIONS if spec.image is None else (spec.image.lower().lstrip("."),)
        )
        self._text_extensions: Sequence[str] = TEXT_EXTENSIONS
        if spec.caption is not None:
            extension = spec.caption.lower().lstrip(".")
            self._text_extensions = [] if extension == "json" else [extension]
        self._json_keys = CAPTION_NAMES if spec.caption in (None, "json") else (str(spec.caption),)
        self._seen_extensions: set[str] = set()
        self._found_caption = self._read_all = False

    def missing_captions(self) -> str:
        """Why there are no captions; empty until the tars have been read."""
        if self._found_caption or not self._read_all:
            return ""
        return (
            f"{public(self._source.root)}: no captions in the tars: looked for members "
            f"{_dotted(self._text_extensions)}, and for {', '.join(self._json_keys)} in .json; "
            f"the members are {_dotted(sorted(self._seen_extensions))}"
        )

    def candidates(self) -> Iterator[CandidateSample]:
        """Each key that has an image, in the order of the members.

        Raises:
            DataError: there are no images, or a tar is truncated or invalid.
        """
        num = 0
        for file in self._source.files:
            for group in self._groups(file):
                extensions = [name for name in self._image_extensions if name in group.members]
                if extensions:
                    num += 1
                    yield self._candidate(self._source.name(file.url), group, extensions)
        self._read_all = True
        if not num:
            raise DataError(
                f"{public(self._source.root)}: no images in the tars: looked for members "
                f"{_dotted(self._image_extensions)}; "
                f"the members are {_dotted(sorted(self._seen_extensions))}"
            )

    def _groups(self, file: Source) -> Iterator[_Group]:
        """Group consecutive members by key; an extension that repeats begins a new group."""
        group: _Group | None = None
        for key, extension, data in self._members(file):
            if group is None or group.key != key or extension in group.members:
                if group is not None:
                    yield group
                group = _Group(key)
            group.members[extension] = data
        if group is not None:
            yield group

    def _members(self, file: Source) -> Iterator[tuple[str, str, bytes | None]]:
        """Key, extension and bytes of each member that may hold an image or a caption."""
        wanted = {*self._image_extensions, *self._text_extensions, "json"}
        with (
            parsing(file.url, MALFORMED, partial(_unreadable, file.url)),
            open_source(file.url, self._options) as stream,
            _uncompressed(file, stream) as blocks,
            tarfile.open(fileobj=blocks, mode="r|") as tar,
        ):
            for member in tar:
                match = MEMBER.fullmatch(member.name.removeprefix("./"))
                if match is None or not member.isreg():
                    continue
                extension = match["extension"].lower()
                self._seen_extensions.add(extension)
                if extension in wanted:
                    yield match["key"], extension, _bytes(tar, member)

    def _candidate(self, tar: str, group: _Group, extensions: list[str]) -> CandidateSample:
        name = f"{tar}/{group.key}.{extensions[0]}"

        def load() -> Sample:
            if len(extensions) > 1:
                shown = " and ".join(f".{extension}" for extension in extensions)
                raise BadImageError(f"{shown} have the same key; choose one with data.image")
            data = group.members[extensions[0]]
            if data is None:
                raise BadImageError(f"larger than {MAX_BYTES:,} bytes")
            return Sample(data, self._captions(group))

        return CandidateSample(name, load)

    def _captions(self, group: _Group) -> Captions:
        """From the first text member that has a caption, otherwise from the .json."""
        captions: Captions = ()
        for extension in self._text_extensions:
            if not captions and (data := group.members.get(extension)):
                captions = parse_captions(decode_text(data))
        if not captions and (data := group.members.get("json")):
            captions = parse_captions(self._json_caption(_json_object(data)))
        self._found_caption = self._found_caption or bool(captions)
        return captions

    def _json_caption(self, values: dict[str, Any]) -> Any:
        return next((values[key] for key in self._json_keys if values.get(key) is not None), None)


def _dotted(extensions: Sequence[str]) -> str:
    return " ".join(f".{extension}" for extension in extensions) or "none"


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(decode_text(data))
    except (ValueError, RecursionError) as error:
        raise BadImageError(f"its .json is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BadImageError("its .json is not an object")
    return values


@contextmanager
def _uncompressed(file: Source, stream: BinaryIO) -> Iterator[BinaryIO]:
    """The uncompressed bytes of a tar; detects truncation, which `tarfile` does not."""
    if file.url.lower().endswith("gz"):
        with gzip.GzipFile(fileobj=stream) as blocks:
            yield cast("BinaryIO", blocks)
            while blocks.read(1 << 20):  # the checksum is at the end
                pass
            return
    if file.num_bytes % tarfile.BLOCKSIZE:
        raise EOFError(
            f"its {file.num_bytes:,} bytes are not a multiple of {tarfile.BLOCKSIZE}; "
            "it is probably truncated"
        )
    yield stream


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    if member.size > MAX_BYTES:
        return None
    stream = tar.extractfile(member)
    return stream.read() if stream is not None else None


def _unreadable(url: str, error: Exception) -> DataError:
    return DataError(f"{public(url)}: cannot be read as a tar: {error}")
