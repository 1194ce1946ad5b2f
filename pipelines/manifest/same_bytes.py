"""Make sure that every read of a manifest file sees the bytes that were scanned.

Scanning notes a checksum of every 256 KiB of a file, and every later read is compared with it. A
file that is edited or replaced while a run starts is refused, whatever its format and wherever it
is stored.
"""

import hashlib
import io
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

import numpy as np

from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.storage import Options, is_local, open_source
from nightpress.pipelines.storage.streams import SeekableFile

CHUNK_BYTES = 1 << 18
CACHED_CHUNKS = 64

LOCAL_READ_CHUNKS, REMOTE_READ_CHUNKS = 1, 16
"""How many chunks are read at once, at least: a request to a store is slow."""


@dataclass(frozen=True)
class Content:
    """The content of a stored file when it was scanned."""

    num_bytes: int
    sha256: str
    """In hexadecimal."""
    checksums: bytes
    """CRC-32 of each chunk, as little-endian 32-bit integers."""

    @classmethod
    def of(cls, url: str, options: Options) -> "Content":
        """Read a stored file from beginning to end."""
        with open_source(url, options) as stream:
            return ScannedStream(stream).finish()


class ScannedStream(io.RawIOBase):
    """A file that is read once from its beginning, noting its content on the way."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._digest = hashlib.sha256()
        self._checksums: list[int] = []
        self._num_bytes = 0
        self._ended = False
        """Once the end was reached: what is appended later does not belong to what was read."""

    def readable(self) -> bool:
        """Always true."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, fewer than `size` at the end of the file."""
        data = b"" if self._ended else bytes(self._stream.read(size))
        self._ended = self._ended or (not data and size != 0)
        self._digest.update(data)
        rest = memoryview(data)
        while rest:
            inside = self._num_bytes % CHUNK_BYTES
            piece = rest[: CHUNK_BYTES - inside]
            before = self._checksums.pop() if inside else 0
            self._checksums.append(zlib.crc32(piece, before))
            self._num_bytes += len(piece)
            rest = rest[len(piece) :]
        return data

    def finish(self) -> Content:
        """Read what is left; returns the content of the whole file."""
        while self.read(CHUNK_BYTES):
            pass
        checksums = np.array(self._checksums, "<u4").tobytes()
        return Content(self._num_bytes, self._digest.hexdigest(), checksums)


@contextmanager
def open_unchanged(url: str, content: Content, options: Options) -> Iterator[BinaryIO]:
    """Open a scanned file; reading bytes that have changed since raises ManifestError.

    A file whose checksums are not known, because an older version scanned it, is read as it is.

    Raises:
        StoreError: the store fails.
    """
    if not content.checksums and content.num_bytes:
        with open_source(url, options) as stream:
            yield stream
        return
    read_chunks = LOCAL_READ_CHUNKS if is_local(url) else REMOTE_READ_CHUNKS
    with (
        closing(open_source(url, options, block_bytes=0)) as raw,
        closing(UnchangedFile(raw, url, content, read_chunks)) as file,
    ):
        yield cast("BinaryIO", file)


class UnchangedFile(SeekableFile):
    """A file that is read in whole chunks, each compared with its checksum."""

    def __init__(self, raw: BinaryIO, url: str, content: Content, read_chunks: int) -> None:
        super().__init__(content.num_bytes)
        self._raw, self._url = raw, url
        self._checksums = np.frombuffer(content.checksums, "<u4").tolist()
        self._read_chunks = read_chunks
        self._chunks: OrderedDict[int, memoryview] = OrderedDict()

    def read(self, size: int = -1) -> bytes:
        """The next bytes, fewer than `size` at the end of the file.

        Raises:
            ManifestError: they are not the bytes that were scanned.
        """
        start = self._offset
        end = self._num_bytes if size is None or size < 0 else min(start + size, self._num_bytes)
        if start >= end:
            return b""
        chunks = range(start // CHUNK_BYTES, (end - 1) // CHUNK_BYTES + 1)
        views = self._views(chunks)
        views[-1] = views[-1][: end - chunks[-1] * CHUNK_BYTES]
        views[0] = views[0][start - chunks[0] * CHUNK_BYTES :]
        self._offset = end
        return b"".join(views)

    def _views(self, chunks: range) -> list[memoryview]:
        """The bytes of some consecutive chunks."""
        missing = [chunk for chunk in chunks if chunk not in self._chunks]
        found = {chunk: self._chunks[chunk] for chunk in chunks if chunk in self._chunks}
        if missing:
            stop = max(missing[-1] + 1, missing[0] + self._read_chunks)
            new = self._read_verified(missing[0], min(stop, len(self._checksums)))
            found |= new
            self._chunks |= new
            while len(self._chunks) > CACHED_CHUNKS:
                self._chunks.popitem(last=False)
        return [found[chunk] for chunk in chunks]

    def _read_verified(self, first: int, stop: int) -> dict[int, memoryview]:
        end = min(stop * CHUNK_BYTES, self._num_bytes)
        self._raw.seek(first * CHUNK_BYTES)
        pieces, left = [], end - first * CHUNK_BYTES
        while left and (piece := self._raw.read(left)):
            pieces.append(piece)
            left -= len(piece)
        data = memoryview(b"".join(pieces) if len(pieces) > 1 else (pieces or [b""])[0])
        chunks = {}
        for chunk in range(first, stop):
            start = (chunk - first) * CHUNK_BYTES
            chunks[chunk] = data[start : min(start + CHUNK_BYTES, end - first * CHUNK_BYTES)]
            if left or zlib.crc32(chunks[chunk]) != self._checksums[chunk]:
                raise changed_error(self._url)
        return chunks


def changed_error(url: str) -> ManifestError:
    """The error for a file that is not what was scanned."""
    message = "the file has changed since it was checked; start again when nothing writes to it"
    return ManifestError([Problem(url, None, None, message)])
