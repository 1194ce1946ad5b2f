"""A folder behind an fsspec driver: S3 and what speaks its language, other clouds, memory.

Every request that can be repeated by itself goes through one retry policy of ours, with the
driver's own retries switched off: a retry that nobody sees would turn our own upload into a name
that is taken.
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
from nightpress.pipelines.storage.drivers import CLIENT_ATTEMPTS, MARK, S3, Place, open_driver, told
from nightpress.pipelines.storage.faults import Fault, classify, driver_errors
from nightpress.pipelines.storage.listing import Listing
from nightpress.pipelines.storage.pacing import Pacer
from nightpress.pipelines.storage.retries import QUICK, RetryPolicy

T = TypeVar("T")

ONE_REQUEST_BYTES = 5 * 2**30
"""What S3 takes in one; s3fs puts no condition on what it sends in parts."""

QUESTIONS = 16
"""Objects that are asked for at once."""


class RemoteFolder:
    """The operations of `Store` on anything that fsspec reaches; safe among threads and forks."""

    def __init__(self, place: Place, policy: RetryPolicy) -> None:
        self.place = place
        self.policy = policy
        self.pacer = Pacer(place.requests_per_s)
        self._drivers: dict[tuple[int, int], tuple[Any, str]] = {}
        self._lock = threading.Lock()

    def create(self, path: str, data: bytes) -> bool:
        """Write bytes under a new name, unless it is taken."""
        return self._create(path, data, self.policy)

    def put(self, path: str, data: bytes) -> None:
        """Replace."""
        driver, key = self._at(path)
        self._run(path, lambda: driver.pipe_file(key, data, **self.place.write_options(path)))

    def replace(self, path: str, data: bytes, seen: bytes) -> bool:
        """Replace what has been seen, if it is still there."""
        driver, key = self._at(path)
        extra = self.place.write_options(path)

        def attempt() -> bool:
            # The condition first: it then holds for what is read, and for what is replaced.
            condition = self._as_it_is(driver, key)
            now = bytes(driver.cat_file(key, **self.place.read_options))
            if now != seen:
                return now == data  # written by an attempt whose answer got lost
            try:
                driver.pipe_file(key, data, **extra, **condition)
            except driver_errors() as error:
                if classify(error) is not Fault.TAKEN:
                    raise
                return self._read(path, self.policy) == data
            return bool(condition) or self._read(path, self.policy) == data

        try:
            return self._run(path, attempt)
        except StoreError:
            if self._holds(path, data):
                return True
            raise

    def read(self, path: str) -> bytes:
        """The bytes."""
        return self._read(path, self.policy)

    def read_part(self, path: str, start: int, num_bytes: int) -> bytes:
        """Some of the bytes, by one request for them alone."""
        driver, key = self._at(path)

        def part() -> bytes:
            try:
                return bytes(driver.cat_file(key, start=start, end=start + num_bytes))
            except driver_errors() as error:
                if classify(error) is not Fault.NO_SUCH_PART:
                    raise
                return b""

        return self._run(path, part)

    def size(self, path: str) -> int | None:
        """In bytes; None where no object is."""
        driver, key = self._at(path)

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
        """Every object below a folder; only S3 is asked page by page."""
        listing = self._listing(folder)
        if listing is not None:
            return listing.pages(f"{folder}/" if folder else "")
        return iter([self._found(folder)])

    def present(self, paths: Sequence[str]) -> set[str]:
        """Those that are objects: on S3 they are listed; what lies far apart is asked for alone."""
        found: set[str] = set()
        alone, listing = paths, self._listing()
        if listing is not None and paths:
            found, alone = listing.present(paths)
        if alone:
            with ThreadPoolExecutor(min(QUESTIONS, len(alone))) as pool:
                sizes = pool.map(self.size, alone)
                found |= {path for path, size in zip(alone, sizes, strict=True) if size is not None}
        return found

    def _listing(self, folder: str = "") -> Listing | None:
        """What lists the folder, where the store is S3."""
        driver, root = self._driver(1)
        if self.place.protocol not in S3 or self.place.protocol not in driver.protocol:
            return None
        bucket, key, _ = driver.split_path(root)
        return Listing(driver, bucket, f"{key}/" if key else "", partial(self._run, folder))

    def _found(self, folder: str) -> dict[str, int]:
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
        """Remove; nothing there is as good."""
        driver, key = self._at(path)
        with suppress(StoreMissing):
            self._run(path, lambda: driver.rm_file(key))

    def check(self) -> None:
        """List, create and delete under the URL, with a few quick attempts at each."""
        driver, root = self._driver(1)
        self._run("", lambda: _list_once(driver, root), QUICK)
        scratch = f".nightpress-check-{uuid.uuid4().hex}"
        if not self._create(scratch, b"", QUICK):
            raise StoreDenied(f"{self.place.shown}: a name that nobody can know was taken")
        _, key = self._at(scratch)
        self._run(scratch, lambda: driver.rm_file(key), QUICK)

    def arrow(self) -> tuple[Any, str]:
        """For pyarrow, which asks in its own threads; the driver itself tries again."""
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        driver, root = self._driver(CLIENT_ATTEMPTS)
        return PyFileSystem(FSSpecHandler(driver)), root

    def _create(self, path: str, data: bytes, policy: RetryPolicy) -> bool:
        driver, key = self._at(path)
        mark = uuid.uuid4().hex
        options = self.place.write_options(path) | self.place.mark_options(mark)
        unsure = False

        def attempt() -> bool:
            nonlocal unsure
            try:
                driver.pipe_file(key, data, mode="create", **options)
            except driver_errors() as error:
                if classify(error) is not Fault.TAKEN:
                    unsure = True
                    raise
                return self._marked(path, mark) or (unsure and self._read(path, policy) == data)
            return True

        try:
            return self._run(path, attempt, policy)
        except StoreError:
            # The last attempt may have arrived although its answer did not.
            if unsure and self._holds(path, data):
                return True
            raise

    def _as_it_is(self, driver: Any, key: str) -> dict[str, Any]:
        """What has S3 replace an object in one request, and only as it is now."""
        if self.place.protocol not in S3:
            return {}
        return {"IfMatch": driver.info(key)["ETag"], "chunksize": ONE_REQUEST_BYTES}

    def _marked(self, path: str, mark: str) -> bool:
        """Whether the object that has the name is of this very call.

        An HTTP client or a proxy between may send a request twice by itself, when a connection
        breaks before the answer; the second one then meets what the first has written.
        """
        if not self.place.mark_options(mark):
            return False
        driver, key = self._at(path)
        return bool(self._run(path, lambda: driver.metadata(key)).get(MARK) == mark)

    def _holds(self, path: str, data: bytes) -> bool:
        try:
            return self._read(path, QUICK) == data
        except StoreError:
            return False

    def _read(self, path: str, policy: RetryPolicy) -> bytes:
        driver, key = self._at(path)
        options = self.place.read_options
        return self._run(path, lambda: bytes(driver.cat_file(key, **options)), policy)

    def _run(self, path: str, action: Callable[[], T], policy: RetryPolicy | None = None) -> T:
        with told(self.place, path):
            return (policy or self.policy).run(action, self.pacer)

    def _at(self, path: str) -> tuple[Any, str]:
        driver, root = self._driver(1)
        return driver, f"{root}/{path}"

    def _driver(self, client_attempts: int) -> tuple[Any, str]:
        """One driver a process: what a fork inherits has its threads elsewhere."""
        key = (os.getpid(), client_attempts)
        with self._lock:
            if key not in self._drivers:
                driver, root = open_driver(self.place, client_attempts, fresh=True)
                self._drivers[key] = driver, root.rstrip("/")
            return self._drivers[key]


def _list_once(driver: Any, root: str) -> None:
    """See whether listing is allowed; a folder that is not there yet is no failure."""
    try:
        driver.ls(root)
    except FileNotFoundError as error:
        if classify(error) is Fault.NO_BUCKET:
            raise
