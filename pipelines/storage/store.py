"""A run directory at any URL."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.storage.drivers import Place, told
from nightpress.pipelines.storage.local import LocalFolder
from nightpress.pipelines.storage.remote import RemoteFolder
from nightpress.pipelines.storage.retries import RetryPolicy
from nightpress.pipelines.storage.urls import Options, absolute, inside, is_local

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


class Store:
    """A folder at an fsspec URL.

    It caches nothing that another process may change, can be used from several threads at once,
    and travels between processes as its URL, options and policy. Its threads in one process ask a
    store that throttles at one pace, and never more often than the options' `requests_per_s`; what
    `arrow()` reads does not count. Paths are relative to it, with
    `/` between their parts. All of its methods raise StoreError, in one line that names the URL
    and no credential: StoreDenied for what a person must put right, StoreMissing for an object
    that is not there, and StoreError itself when the store failed for longer than the policy.
    """

    def __init__(
        self,
        url: str,
        options: Options | None = None,
        policy: RetryPolicy | None = None,
        reads_back: bool = False,
    ) -> None:
        self.url = absolute(url)
        self.options = {name: dict(values) for name, values in (options or {}).items()}
        self.policy = policy or RetryPolicy()
        self.reads_back = reads_back
        place = Place(self.url, self.options)
        self._folder: LocalFolder | RemoteFolder = (
            LocalFolder(place) if is_local(url) else RemoteFolder(place, self.policy)
        )

    def reading_back(self) -> Self:
        """The same folder, for a store that ignores `If-None-Match`; see `create`."""
        return type(self)(self.url, self.options, self.policy, reads_back=True)

    def patient(self, policy: RetryPolicy) -> Self:
        """The same folder, with other patience for a store that falters.

        It stands in a line of its own when the store throttles, and not behind many uploads.
        """
        return type(self)(self.url, self.options, policy, self.reads_back)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self.options, self.policy, self.reads_back)

    def __repr__(self) -> str:
        return f"Store({self._folder.place.shown!r})"

    def create(self, path: str, data: bytes) -> bool:
        """Write a new object, whole or not at all; False if the name is taken.

        When an answer got lost and the name then holds these very bytes, they count as ours.
        A store that ignores `If-None-Match` replaces instead; see `honours_create_only`. There,
        `reading_back` looks whether the name is taken before it writes, and reads what it wrote:
        that is as good for one writer at a time.
        """
        path = inside(path, self.url)
        if not self.reads_back:
            return self._folder.create(path, data)
        if self._folder.size(path) is not None:
            return False
        self._folder.put(path, data)
        return self._folder.read(path) == data

    def put(self, path: str, data: bytes) -> None:
        """Write an object, in place of the one that may be there."""
        self._folder.put(inside(path, self.url), data)

    def replace(self, path: str, data: bytes, seen: bytes) -> bool:
        """Put bytes in place of those that were read; False if others are there by now.

        Of several who replace what they all have seen, one succeeds: on S3 by `If-Match`, in a
        local folder under a lock. Where a store ignores the condition, and behind other drivers,
        what is there is looked at right before it is replaced, and read afterwards: that is as
        good for one writer at a time.

        Raises:
            StoreMissing: nothing is there.
        """
        path = inside(path, self.url)
        replaced = self._folder.replace(path, data, seen)
        return replaced and not (self.reads_back and self._folder.read(path) != data)

    def read(self, path: str) -> bytes:
        """The bytes of an object.

        Raises:
            StoreMissing: it is not there.
        """
        return self._folder.read(inside(path, self.url))

    def read_part(self, path: str, start: int, num_bytes: int) -> bytes:
        """Some bytes of an object; fewer where it ends before.

        Raises:
            StoreMissing: it is not there.
        """
        return self._folder.read_part(inside(path, self.url), start, num_bytes)

    def read_if_any(self, path: str) -> bytes | None:
        """The bytes of an object; None if it is not there."""
        try:
            return self.read(path)
        except StoreMissing:
            return None

    def size(self, path: str) -> int | None:
        """The bytes that an object has; None if it is not there."""
        return self._folder.size(inside(path, self.url))

    def list(self, folder: str = "") -> dict[str, int]:
        """Every object below a folder, as path relative to the store -> bytes, sorted."""
        return self._folder.list(inside(folder, self.url) if folder else "")

    def pages(self, folder: str = "") -> Iterator[dict[str, int]]:
        """As `list`, some thousand objects at a time and in no order: for what may be millions."""
        return self._folder.pages(inside(folder, self.url) if folder else "")

    def present(self, paths: Sequence[str]) -> set[str]:
        """Those of some paths that are there, by one listing of where they lie."""
        return self._folder.present([inside(path, self.url) for path in paths])

    def delete(self, path: str) -> None:
        """Remove an object; one that is not there is no error."""
        self._folder.delete(inside(path, self.url))

    def check(self) -> None:
        """Prove within seconds that objects can be listed, created and deleted here.

        Leaves nothing behind, not even a folder.

        Raises:
            StoreDenied: they cannot; the message says what to put right.
        """
        self._folder.check()

    def honours_create_only(self) -> bool:
        """Whether `create` refuses a name that is taken, tried on a scratch object.

        Some stores (rclone's S3 server is one) ignore the condition. There, two workers that
        make one image at the same time both write it, and the later one stays.
        """
        if isinstance(self._folder, LocalFolder):
            return True
        scratch = f".nightpress-check-{uuid.uuid4().hex}"
        try:
            return self.create(scratch, b"first") and not self.create(scratch, b"second")
        finally:
            self.delete(scratch)

    def told(self, path: str = "") -> AbstractContextManager[None]:
        """Around reads of `arrow()`: a driver's own errors leave as StoreError."""
        return told(self._folder.place, path)

    def arrow(self) -> "tuple[FileSystem, str]":
        """The file system and the folder's path in it, for pyarrow's readers."""
        return self._folder.arrow()
