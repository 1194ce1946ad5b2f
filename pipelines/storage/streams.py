"""Open files for reading; remote files are read by ranges, without a local copy."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar, cast

from nightpress.pipelines.errors import StoreError, StoreMissing
from nightpress.pipelines.storage.drivers import StoreLocation, as_store_errors, open_driver
from nightpress.pipelines.storage.retries import RetryPolicy
from nightpress.pipelines.storage.urls import Options, absolute, is_local, local_path, public

T = TypeVar("T")

BLOCK_BYTES = 4 * 2**20


def open_source(
    url: str, options: Options | None = None, block_bytes: int = BLOCK_BYTES
) -> BinaryIO:
    """Open a file for reading; the stream is seekable and a context manager.

    Args:
        url: the file's URL.
        options: fsspec options by protocol.
        block_bytes: how many bytes of a remote file are read at once; 0 for a stream without a
            buffer, whose `read` may return fewer bytes than asked for.

    Raises:
        StoreMissing: there is no such file.
        StoreError: the store refuses or fails, now or while reading.
    """
    location = StoreLocation(absolute(url), options or {})
    if is_local(url):
        with as_store_errors(location):
            return local_path(url).open("rb", buffering=-1 if block_bytes else 0)
    raw = RemoteFile(location, RetryPolicy())
    if not block_bytes:
        return cast("BinaryIO", raw)
    return cast("BinaryIO", io.BufferedReader(raw, block_bytes))


@contextmanager
def parsing(
    url: str,
    malformed: tuple[type[Exception], ...],
    error_for: Callable[[Exception], Exception],
) -> Iterator[None]:
    """Separate malformed files from store failures while a file is parsed.

    Args:
        url: the file's URL.
        malformed: what the parser raises about a file's bytes. A plain OSError without an errno
            counts too: that is how Arrow reports some damaged files.
        error_for: makes the error to raise for a malformed file.

    Raises:
        StoreError: any other OSError.
    """
    try:
        yield
    except malformed as error:
        raise error_for(error) from error
    except OSError as error:
        if type(error) is OSError and error.errno is None:
            raise error_for(error) from error
        raise StoreError(f"{public(url)}: {error.strerror or error}") from error


class SeekableFile(io.RawIOBase):
    """A file of known size whose position is a number; reading is left to subclasses."""

    def __init__(self, num_bytes: int) -> None:
        super().__init__()
        self._num_bytes = num_bytes
        self._offset = 0

    def readable(self) -> bool:
        """Always true."""
        return True

    def seekable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """The position of the next byte."""
        return self._offset

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, as in any file."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: self._num_bytes}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._offset = start + offset
        return self._offset


class RemoteFile(SeekableFile):
    """A remote file, read by ranges; each range is retried by itself."""

    def __init__(self, location: StoreLocation, policy: RetryPolicy) -> None:
        super().__init__(0)
        self._location = location
        self._policy = policy
        self._driver, self._path = open_driver(location, client_attempts=1)
        info = self._run(lambda: self._driver.info(self._path))
        if info["type"] != "file":
            raise StoreMissing(f"{location.public_url}: a folder, not a file")
        self._whole: bytes | None = None
        if info["size"] is None:  # the server does not announce the length of its response
            self._whole = self._run(lambda: bytes(self._driver.cat_file(self._path)))
        self._num_bytes = int(info["size"] if self._whole is None else len(self._whole))

    def readall(self) -> bytes:
        """The rest of the file in one request; the inherited method would send many small ones."""
        data = self._range(self._offset, self._num_bytes) if self._offset < self._num_bytes else b""
        self._offset += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, or as much of it as the file has bytes left."""
        view = memoryview(buffer).cast("B")
        end = min(self._offset + len(view), self._num_bytes)
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
        self._whole = data  # the server ignores ranges and has sent the whole file
        return data[start:end]

    def _run(self, action: Callable[[], T]) -> T:
        with as_store_errors(self._location):
            return self._policy.run(action)
