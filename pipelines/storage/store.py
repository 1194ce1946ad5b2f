"""A run directory: small objects by relative name, created once, read, listed.

Knows nothing of what the objects are.
"""

import os
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.fs

from pipelines.errors import StoreDenied, StoreError, StoreMissing
from pipelines.storage.faults import is_taken, translate
from pipelines.storage.filesystems import (
    StorageOptions,
    absolute,
    filesystem,
    is_local,
    write_options,
)
from pipelines.storage.retries import ONCE, RetryPolicy

T = TypeVar("T")

PARTIAL = ".partial"
"""Where local files are written before they get their names."""

STALE_PARTIAL_S = 24 * 3600.0


class Store:
    """A folder at any fsspec URL; picklable, and safe to use from several threads.

    Args:
        url: of the folder; a local one is made absolute.
        options: fsspec options by protocol.
        retry: how long the store may fail before a call raises.

    Every method may raise StoreError, in one line that names the URL.
    """

    def __init__(
        self,
        url: str,
        options: StorageOptions | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self.url = absolute(url).rstrip("/")
        self.options: StorageOptions = options or {}
        self._retry = retry or RetryPolicy()
        self._local = is_local(url)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def create(self, path: str, data: bytes) -> bool:
        """Write a new object, whole or not at all; False if the name is taken.

        When an attempt's outcome is unknown, the object is read back: if it holds these very
        bytes, then it is the one that was written.
        """
        if self._local:
            with self._translated(path):
                return self._create_local(path, data)
        return self._call(path, lambda fs, full, attempt: self._create(fs, full, data, attempt))

    def put(self, path: str, data: bytes) -> None:
        """Write an object, replacing what has its name."""
        if self._local:
            with self._translated(path), self._partial(path, data) as partial:
                os.replace(partial, self._local_path(path))
        else:
            self._call(
                path, lambda fs, full, _: fs.pipe_file(full, data, **write_options(fs, full))
            )

    def read(self, path: str) -> bytes:
        """An object's bytes.

        Raises:
            StoreMissing: there is none of that name.
        """
        return self._call(path, lambda fs, full, _: bytes(fs.cat_file(full)))

    def size(self, path: str) -> int | None:
        """An object's bytes in number; None if there is none of that name."""
        try:
            return self._call(path, lambda fs, full, _: int(fs.info(full)["size"]))
        except StoreMissing:
            return None

    def list(self, folder: str) -> dict[str, int]:
        """Everything under a folder: path relative to this store -> bytes; {} if there is none."""
        try:
            found = self._call(folder, lambda fs, full, _: (fs.find(full, detail=True), full))
        except StoreMissing:
            return {}
        files, full = found
        start = len(full.rstrip("/")) + 1
        return {f"{folder}/{name[start:]}": int(info["size"]) for name, info in files.items()}

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        with suppress(StoreMissing):
            self._call(path, lambda fs, full, _: fs.rm_file(full))

    def check(self) -> None:
        """Prove that objects can be listed, created and deleted here; quick to fail.

        Raises:
            StoreDenied: naming endpoint, bucket, credentials or path, whichever is wrong.
        """
        if self._local:
            self._check_local()
            return
        probe = f".probe-{uuid.uuid4().hex}"
        asking = Store(self.url, self.options, RetryPolicy(attempts=3, total_s=20.0))
        try:
            asking.list("metadata")
            asking.create(probe, b"")
            asking.delete(probe)
        except StoreMissing as error:
            raise StoreDenied(f"{self.url}: there is no such bucket") from error
        except StoreDenied:
            raise
        except StoreError as error:
            raise StoreDenied(str(error)) from error

    def honours_create_only(self) -> bool:
        """Whether the store refuses to create a name twice, found by trying."""
        probe = f".probe-{uuid.uuid4().hex}"
        try:
            return self.create(probe, b"first") and not self.create(probe, b"second")
        finally:
            self.delete(probe)

    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        """This folder for pyarrow: a filesystem, and the folder's path on it."""
        if self._local:
            return pyarrow.fs.LocalFileSystem(), self.url
        fs, path = self._filesystem()
        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), path

    def _filesystem(self) -> tuple[Any, str]:
        fs, path = filesystem(self.url, self.options)
        return fs, path.rstrip("/")

    def _call(self, path: str, function: Callable[[Any, str, int], T]) -> T:
        """Call `function(filesystem, full path, attempt)` with retries and readable errors."""
        fs, root = self._filesystem()
        policy = ONCE if self._local else self._retry
        with self._translated(path):
            return policy.call(lambda attempt: function(fs, f"{root}/{path}", attempt))

    def _create(self, fs: Any, full: str, data: bytes, attempt: int) -> bool:
        try:
            fs.pipe_file(full, data, mode="create", **write_options(fs, full))
        except Exception as error:
            if not is_taken(error):
                raise
            return attempt > 1 and bytes(fs.cat_file(full)) == data
        return True

    def _local_path(self, path: str) -> Path:
        return Path(self.url, path)

    def _create_local(self, path: str, data: bytes) -> bool:
        """Link a finished file to its name: the name appears at once, or was there."""
        with self._partial(path, data) as partial:
            try:
                os.link(partial, self._local_path(path))
            except FileExistsError:
                return False
        return True

    @contextmanager
    def _partial(self, path: str, data: bytes) -> Any:
        """A finished file without its name yet, gone afterwards."""
        folder = self._local_path(PARTIAL)
        folder.mkdir(parents=True, exist_ok=True)
        self._local_path(path).parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            yield name
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)

    def _check_local(self) -> None:
        with self._translated(""):
            root = Path(self.url)
            while not root.exists():
                root = root.parent
            if not root.is_dir():
                raise StoreDenied(f"{self.url}: {root} is a file, not a folder")
            if not os.access(root, os.W_OK | os.X_OK):
                raise StoreDenied(f"{self.url}: {root} cannot be written")
            self._sweep()

    def _sweep(self) -> None:
        """Remove what killed processes left half-written a day or more ago."""
        for path in self._local_path(PARTIAL).glob("*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_PARTIAL_S:
                    path.unlink()

    @contextmanager
    def _translated(self, path: str) -> Any:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise translate(error, f"{self.url}/{path}".rstrip("/"), self.options) from error
