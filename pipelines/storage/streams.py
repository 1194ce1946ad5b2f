"""Files that are read where they lie, by ranges."""

import io
import os
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar, cast

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.storage.drivers import Place, open_driver, told
from nightpress.pipelines.storage.retries import RetryPolicy
from nightpress.pipelines.storage.urls import Options, absolute, is_local, local_path

T = TypeVar("T")

BLOCK_BYTES = 4 * 2**20


def open_source(
    url: str, options: Options | None = None, block_bytes: int = BLOCK_BYTES
) -> BinaryIO:
    """A file to read from, seekable; a context manager.

    Args:
        url: of the file.
        options: fsspec options by protocol.
        block_bytes: what a remote file is read ahead by.

    Raises:
        StoreMissing: it is not there.
        StoreError: now or while reading: the store refuses or fails.
    """
    place = Place(absolute(url), options or {})
    if is_local(url):
        with told(place):
            return local_path(url).open("rb")
    raw = RemoteFile(place, RetryPolicy())
    return cast("BinaryIO", io.BufferedReader(raw, block_bytes))


class RemoteFile(io.RawIOBase):
    """A remote file, read by ranges; each range is asked for again when the store falters."""

    def __init__(self, place: Place, policy: RetryPolicy) -> None:
        super().__init__()
        self._place = place
        self._policy = policy
        self._driver, self._path = open_driver(place, client_attempts=1)
        info = self._run(lambda: self._driver.info(self._path))
        if info["type"] != "file":
            raise StoreMissing(f"{place.shown}: a folder, and not a file")
        self._whole: bytes | None = None
        if info["size"] is None:  # a server that does not say how long its answer will be
            self._whole = self._run(lambda: bytes(self._driver.cat_file(self._path)))
        self._size = int(info["size"] if self._whole is None else len(self._whole))
        self._offset = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return self._offset

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as in any file."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._offset = start + offset
        return self._offset

    def readall(self) -> bytes:
        """The rest in one request; the inherited one would make many small ones."""
        data = self._range(self._offset, self._size) if self._offset < self._size else b""
        self._offset += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the file goes."""
        view = memoryview(buffer).cast("B")
        end = min(self._offset + len(view), self._size)
        if end <= self._offset:
            return 0
        data = self._range(self._offset, end)
        view[: len(data)] = data
        self._offset += len(data)
        return len(data)

    def _range(self, start: int, end: int) -> bytes:
        if self._whole is not None:
            return self._whole[start:end]
        data = self._run(lambda: bytes(self._driver.cat_file(self._path, start=start, end=end)))
        if len(data) <= end - start:
            return data
        self._whole = data  # the server knows no ranges and has sent everything
        return data[start:end]

    def _run(self, action: Callable[[], T]) -> T:
        with told(self._place):
            return self._policy.run(action)
