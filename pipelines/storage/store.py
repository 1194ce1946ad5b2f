"""`Store`: create, replace, read and list objects below one fsspec URL."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.storage.drivers import StoreLocation, as_store_errors
from nightpress.pipelines.storage.first_contact import require_answer
from nightpress.pipelines.storage.local import LocalFolder
from nightpress.pipelines.storage.remote import RemoteFolder
from nightpress.pipelines.storage.retries import RetryPolicy
from nightpress.pipelines.storage.urls import Options, absolute, is_local, require_inside

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


class Store:
    """A folder at an fsspec URL.

    A store caches nothing that another process may change, is safe to use from several threads, and
    is pickled as its URL, options and policy. The threads of one process share one request rate,
    which falls when the store throttles and never exceeds the option `requests_per_s`; reads
    through `arrow()` do not count. Paths are relative to the folder, with `/` between their parts.

    Every method raises StoreError with a one-line message that names the URL and no credentials:
    StoreDenied for what a person must fix, StoreMissing for an object that does not exist, and
    StoreError itself when the store keeps failing for longer than the policy allows.
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
        location = StoreLocation(self.url, self.options)
        self._folder: LocalFolder | RemoteFolder = (
            LocalFolder(location) if is_local(url) else RemoteFolder(location, self.policy)
        )

    def reading_back(self) -> Self:
        """The same folder, reading back what it writes; for stores that ignore `If-None-Match`."""
        return type(self)(self.url, self.options, self.policy, reads_back=True)

    def with_policy(self, policy: RetryPolicy) -> Self:
        """The same folder with another retry policy.

        It has a request queue of its own, so at a throttling store it does not wait behind uploads.
        """
        return type(self)(self.url, self.options, policy, self.reads_back)

    def folder(self, name: str) -> Self:
        """A folder right in this one, through the same connections and at the same request rate.

        The copy that another process unpickles has connections of its own.
        """
        path = require_inside(name, self.url)
        inner = type(self)(f"{self.url}/{path}", self.options, self.policy, self.reads_back)
        inner._folder = self._folder.folder(path)
        return inner

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url, self.options, self.policy, self.reads_back)

    def __repr__(self) -> str:
        return f"Store({self._folder.location.public_url!r})"

    def create(self, path: str, data: bytes) -> bool:
        """Write a new object, whole or not at all; False if the name is taken.

        When a response is lost and the name then holds these very bytes, the write counts as done.
        A store that ignores `If-None-Match` replaces the object instead; see `honours_create_only`.
        There, `reading_back` checks the name before it writes and reads the object afterwards,
        which is enough for one writer at a time.
        """
        path = require_inside(path, self.url)
        if not self.reads_back:
            return self._folder.create(path, data)
        if self._folder.size(path) is not None:
            return False
        self._folder.put(path, data)
        return self._folder.read(path) == data

    def put(self, path: str, data: bytes) -> None:
        """Write an object, replacing any that is there."""
        self._folder.put(require_inside(path, self.url), data)

    def replace(self, path: str, data: bytes, seen: bytes) -> bool:
        """Replace an object if it still holds the bytes `seen`; False if it does not.

        Of several writers that have seen the same bytes, one succeeds: on S3 through `If-Match`, in
        a local folder under a lock. Where a store ignores the condition, and with other drivers,
        the object is read right before and after the write, which is enough for one writer at a
        time.

        Raises:
            StoreMissing: there is no such object.
        """
        path = require_inside(path, self.url)
        replaced = self._folder.replace(path, data, seen)
        return replaced and not (self.reads_back and self._folder.read(path) != data)

    def read(self, path: str) -> bytes:
        """The bytes of an object.

        Raises:
            StoreMissing: there is no such object.
        """
        return self._folder.read(require_inside(path, self.url))

    def read_part(self, path: str, start: int, num_bytes: int) -> bytes:
        """A range of an object's bytes; shorter where the object ends.

        Raises:
            StoreMissing: there is no such object.
        """
        return self._folder.read_part(require_inside(path, self.url), start, num_bytes)

    def read_if_any(self, path: str) -> bytes | None:
        """The bytes of an object; None if there is no such object."""
        try:
            return self.read(path)
        except StoreMissing:
            return None

    def size(self, path: str) -> int | None:
        """The size of an object in bytes; None if there is no such object."""
        return self._folder.size(require_inside(path, self.url))

    def list(self, folder: str = "") -> dict[str, int]:
        """Every object below a folder: path relative to the store -> bytes, sorted by path."""
        return self._folder.list(require_inside(folder, self.url) if folder else "")

    def folders(self) -> Sequence[str]:
        """The names of the folders right in this one, sorted; none if there is no such folder."""
        try:
            return sorted(self._folder.folders())
        except StoreMissing:
            return []

    def pages(self, folder: str = "") -> Iterator[dict[str, int]]:
        """Like `list`, about a thousand objects at a time in any order: for millions of objects."""
        return self._folder.pages(require_inside(folder, self.url) if folder else "")

    def present(self, paths: Sequence[str]) -> set[str]:
        """Which of these paths are objects, found by listing where they lie close together."""
        return self._folder.present([require_inside(path, self.url) for path in paths])

    def delete(self, path: str) -> None:
        """Remove an object; a missing object is no error."""
        self._folder.delete(require_inside(path, self.url))

    def require_answer(self) -> None:
        """Fail within seconds, not minutes, if the store does not answer: a person is waiting.

        Raises:
            StoreDenied: an address or option is wrong; the message says what to set.
            StoreError: the store, or a gateway before it, keeps failing.
        """
        if isinstance(self._folder, RemoteFolder):
            require_answer(self._folder.location)

    def check(self) -> None:
        """Prove within seconds that objects can be listed, created and deleted here.

        Leaves nothing behind, not even a folder.

        Raises:
            StoreDenied: one of these is refused; the message says what to fix.
            StoreError: the store keeps failing, or the disk is full; a later try may work.
        """
        self.require_answer()
        self._folder.check()

    def tidy(self) -> None:
        """Leave no empty `.partial` in a local folder that is handed to somebody.

        Others may go on writing there at the same time.
        """
        if isinstance(self._folder, LocalFolder):
            self._folder.remove_partial_folder()

    def honours_create_only(self) -> bool:
        """Whether `create` refuses a taken name, tested with a scratch object.

        Some stores, such as rclone's S3 server, ignore `If-None-Match`. There, two workers that
        make the same image at the same time both write it, and the later write wins.
        """
        if isinstance(self._folder, LocalFolder):
            return True
        scratch = f".nightpress-check-{uuid.uuid4().hex}"
        try:
            return self.create(scratch, b"first") and not self.create(scratch, b"second")
        finally:
            self.delete(scratch)

    def honours_if_match(self) -> bool:
        """Whether `replace` refuses an object that has changed, tested with a scratch object.

        Where a store ignores `If-Match`, or the driver cannot send it, `replace` reads the object
        before and after instead, which is enough for one writer at a time.
        """
        if isinstance(self._folder, LocalFolder):
            return True
        scratch = f".nightpress-check-{uuid.uuid4().hex}"
        try:
            return self._folder.honours_if_match(scratch)
        finally:
            self.delete(scratch)

    def as_store_errors(self, path: str = "") -> AbstractContextManager[None]:
        """Turn a driver's errors into StoreErrors; wraps reads through `arrow()`."""
        return as_store_errors(self._folder.location, path)

    def arrow(self) -> "tuple[FileSystem, str]":
        """The file system and the folder's path in it, for pyarrow's readers."""
        return self._folder.arrow()
