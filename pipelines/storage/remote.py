"""A store behind an fsspec driver: S3 and compatible servers, other clouds, memory.

Each request that can be repeated by itself goes through nightpress's own retry policy, with the
driver's retries switched off: an unseen retry of our own upload would look like a name that is
already taken.
"""

import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from nightpress.pipelines.errors import StoreDenied, StoreError, StoreMissing
from nightpress.pipelines.storage.drivers import (
    CLIENT_ATTEMPTS,
    WRITE_ID_KEY,
    StoreLocation,
    as_store_errors,
    open_driver,
)
from nightpress.pipelines.storage.faults import Fault, classify, driver_errors
from nightpress.pipelines.storage.listing import Listing
from nightpress.pipelines.storage.options import S3
from nightpress.pipelines.storage.pacing import Pacer
from nightpress.pipelines.storage.retries import QUICK, RetryPolicy

T = TypeVar("T")

ONE_REQUEST_BYTES = 5 * 2**30
"""The largest single upload that S3 accepts; s3fs drops conditions from multipart uploads."""

READ_THREADS = 16
"""How many objects one process reads or checks at the same time."""


class RemoteFolder:
    """The operations of `Store` on any fsspec URL; safe to share among threads and across forks."""

    def __init__(self, location: StoreLocation, policy: RetryPolicy) -> None:
        self.location = location
        self.policy = policy
        self.pacer = Pacer(location.requests_per_s)
        self._drivers: dict[tuple[int, int], tuple[Any, str]] = {}
        self._lock = threading.Lock()
        self._parent: RemoteFolder | None = None
        """The folder whose connections this one uses."""

    def folder(self, name: str) -> "RemoteFolder":
        """A folder right in this one, which uses the same connections."""
        location = StoreLocation(f"{self.location.url}/{name}", self.location.options)
        inner = RemoteFolder(location, self.policy)
        inner.pacer, inner._parent = self.pacer, self
        return inner

    def folders(self) -> Sequence[str]:
        """The names of the folders right in this one."""
        driver, root = self._driver(1)
        found = self._run("", lambda: driver.ls(root, detail=True))
        names = {
            each["name"].rstrip("/").rpartition("/")[2]
            for each in found
            if each["type"] == "directory" and each["name"].rstrip("/") != root
        }
        return [name for name in names if name]

    def create(self, path: str, data: bytes) -> bool:
        """Write a new object; False if the name is taken."""
        return self._create(path, data, self.policy)

    def put(self, path: str, data: bytes) -> None:
        """Write an object, replacing any that is there."""
        driver, key = self._driver_and_key(path)
        self._run(path, lambda: driver.pipe_file(key, data, **self.location.write_options(path)))

    def replace(self, path: str, data: bytes, seen: bytes) -> bool:
        """Replace an object if it still holds the bytes `seen`."""
        driver, key = self._driver_and_key(path)
        extra = self.location.write_options(path)

        def attempt() -> bool:
            # The ETag is read before the bytes, so that it covers both the read and the write.
            condition = self._if_unchanged(driver, key)
            current = bytes(driver.cat_file(key, **self.location.read_options))
            if current != seen:
                return current == data  # an earlier attempt succeeded but its response was lost
            try:
                driver.pipe_file(key, data, **extra, **condition)
            except driver_errors() as error:
                if classify(error) is not Fault.NAME_TAKEN:
                    raise
                return self._read(path, self.policy) == data
            return bool(condition) or self._read(path, self.policy) == data

        try:
            return self._run(path, attempt)
        except StoreError:
            if self._contains(path, data):
                return True
            raise

    def honours_if_match(self, path: str) -> bool:
        """Whether the store refuses to replace an object that has changed, tested with this one.

        Raises:
            StoreError: it fails on the condition itself, so that nothing can be replaced.
        """
        driver, key = self._driver_and_key(path)
        self.put(path, b"first")
        condition = self._if_unchanged(driver, key)
        self.put(path, b"second")

        def is_refused() -> bool:
            try:
                driver.pipe_file(key, b"third", **condition)
            except driver_errors() as error:
                if classify(error) is not Fault.NAME_TAKEN:
                    raise
                return True
            return False

        return self._run(path, is_refused)

    def read(self, path: str) -> bytes:
        """The object's bytes."""
        return self._read(path, self.policy)

    def read_part(self, path: str, start: int, num_bytes: int) -> bytes:
        """A range of the object's bytes, in one request."""
        driver, key = self._driver_and_key(path)

        def part() -> bytes:
            try:
                return bytes(driver.cat_file(key, start=start, end=start + num_bytes))
            except driver_errors() as error:
                if classify(error) is not Fault.PAST_THE_END:
                    raise
                return b""

        return self._run(path, part)

    def size(self, path: str) -> int | None:
        """The object's size in bytes; None if there is no such object."""
        driver, key = self._driver_and_key(path)

        def look() -> int | None:
            try:
                found = driver.info(key)
            except FileNotFoundError as error:
                if classify(error) is Fault.NO_BUCKET:
                    raise
                return None
            return int(found["size"]) if found["type"] == "file" else None

        return self._run(path, look)

    def list(self, folder: str) -> dict[str, int]:
        """Every object below a folder."""
        return dict(sorted(item for page in self.pages(folder) for item in page.items()))

    def pages(self, folder: str) -> Iterator[dict[str, int]]:
        """Every object below a folder; only S3 is listed page by page, others at once."""
        listing = self._listing(folder)
        if listing is not None:
            return listing.pages(f"{folder}/" if folder else "")
        return iter([self._list_at_once(folder)])

    def present(self, paths: Sequence[str]) -> set[str]:
        """The paths that are objects: listed on S3 where they lie close together, else checked."""
        found: set[str] = set()
        unlisted, listing = paths, self._listing()
        if listing is not None and paths:
            found, unlisted = listing.present(paths)
        if unlisted:
            with ThreadPoolExecutor(min(READ_THREADS, len(unlisted))) as pool:
                sizes = pool.map(self.size, unlisted)
                pairs = zip(unlisted, sizes, strict=True)
                found |= {path for path, size in pairs if size is not None}
        return found

    def _listing(self, folder: str = "") -> Listing | None:
        """A paged listing of the folder; None unless the store is S3."""
        driver, root = self._driver(1)
        if self.location.protocol not in S3 or self.location.protocol not in driver.protocol:
            return None
        bucket, key, _ = driver.split_path(root)
        return Listing(driver, bucket, f"{key}/" if key else "", partial(self._run, folder))

    def _list_at_once(self, folder: str) -> dict[str, int]:
        driver, root = self._driver(1)
        below = f"{root}/{folder}" if folder else root
        try:
            found = self._run(folder, lambda: driver.find(below, detail=True))
        except StoreMissing:
            return {}
        return {
            name[len(root) + 1 :]: int(info["size"])
            for name, info in sorted(found.items())
            if name.startswith(f"{below}/") and not name.endswith("/")
        }

    def delete(self, path: str) -> None:
        """Remove an object; a missing object is no error."""
        driver, key = self._driver_and_key(path)
        with suppress(StoreMissing):
            self._run(path, lambda: driver.rm_file(key))

    def check(self) -> None:
        """Prove that listing, creating and deleting work, with a few quick attempts at each."""
        driver, root = self._driver(1)
        self._run("", lambda: _list_once(driver, root), QUICK)
        scratch = f".nightpress-check-{uuid.uuid4().hex}"
        if not self._create(scratch, b"", QUICK):
            raise StoreDenied(
                f"{self.location.public_url}: the store reports a random new name as already taken"
            )
        _, key = self._driver_and_key(scratch)
        self._run(scratch, lambda: driver.rm_file(key), QUICK)

    def arrow(self) -> tuple[Any, str]:
        """The file system and path for pyarrow, whose threads rely on the driver's own retries."""
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        driver, root = self._driver(CLIENT_ATTEMPTS)
        return PyFileSystem(FSSpecHandler(driver)), root

    def _create(self, path: str, data: bytes, policy: RetryPolicy) -> bool:
        driver, key = self._driver_and_key(path)
        write_id = uuid.uuid4().hex
        options = self.location.write_options(path) | self.location.write_id_options(write_id)
        unsure = False

        def attempt() -> bool:
            nonlocal unsure
            try:
                driver.pipe_file(key, data, mode="create", **options)
            except driver_errors() as error:
                if classify(error) is not Fault.NAME_TAKEN:
                    unsure = True
                    raise
                return self._is_own_write(path, write_id) or (
                    unsure and self._read(path, policy) == data
                )
            return True

        try:
            return self._run(path, attempt, policy)
        except StoreError:
            # The last attempt may have succeeded even though its response was lost.
            if unsure and self._contains(path, data):
                return True
            raise

    def _if_unchanged(self, driver: Any, key: str) -> dict[str, Any]:
        """Arguments that make S3 replace an object in one request, only if it has not changed."""
        if self.location.protocol not in S3:
            return {}
        return {"IfMatch": driver.info(key)["ETag"], "chunksize": ONE_REQUEST_BYTES}

    def _is_own_write(self, path: str, write_id: str) -> bool:
        """Whether the object under the name was written by this very call.

        When a connection breaks before the response, an HTTP client or proxy may send the request
        again by itself; the second request then finds the object of the first.
        """
        if not self.location.write_id_options(write_id):
            return False
        driver, key = self._driver_and_key(path)
        return bool(self._run(path, lambda: driver.metadata(key)).get(WRITE_ID_KEY) == write_id)

    def _contains(self, path: str, data: bytes) -> bool:
        try:
            return self._read(path, QUICK) == data
        except StoreError:
            return False

    def _read(self, path: str, policy: RetryPolicy) -> bytes:
        driver, key = self._driver_and_key(path)
        options = self.location.read_options
        return self._run(path, lambda: bytes(driver.cat_file(key, **options)), policy)

    def _run(self, path: str, action: Callable[[], T], policy: RetryPolicy | None = None) -> T:
        with as_store_errors(self.location, path):
            return (policy or self.policy).run(action, self.pacer)

    def _driver_and_key(self, path: str) -> tuple[Any, str]:
        driver, root = self._driver(1)
        return driver, f"{root}/{path}"

    def _driver(self, client_attempts: int) -> tuple[Any, str]:
        """This process's driver: one inherited by a fork lacks the threads that it needs."""
        if self._parent is not None:
            driver, root = self._parent._driver(client_attempts)
            return driver, f"{root}/{self.location.url.rpartition('/')[2]}"
        key = (os.getpid(), client_attempts)
        with self._lock:
            if key not in self._drivers:
                driver, root = open_driver(self.location, client_attempts, fresh=True)
                self._drivers[key] = driver, root.rstrip("/")
            return self._drivers[key]


def _list_once(driver: Any, root: str) -> None:
    """Check that listing is allowed; a folder that does not exist yet is no error."""
    try:
        driver.ls(root)
    except FileNotFoundError as error:
        if classify(error) is Fault.NO_BUCKET:
            raise
