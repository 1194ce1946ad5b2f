"""Where exported images go: into a folder at any URL, or into one zip file."""

import errno
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from nightpress.jobs.errors import RunBlocked
from nightpress.pipelines.errors import SpecError, StoreDenied
from nightpress.pipelines.storage import Store, is_local

ZIP_SUFFIX = ".zip"

MAX_REMOTE_ZIP_BYTES = 2**31
"""A zip file at a URL is sent in one piece, out of memory."""

CHUNK_BYTES = 2**20

OPEN_FILES = "/proc/self/fd"
"""Where Linux has names for a process's open files, also for those without a name of their own."""

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems without hard links, such as FAT, answer."""


class Place(Protocol):
    """Where copies go; nothing that lies there is replaced."""

    @property
    def url(self) -> str:
        """URL of the folder or the file."""

    def names_present(self, names: list[str]) -> set[str]:
        """Which of some files lie there."""

    def read(self, name: str) -> bytes | None:
        """A file that lies there; None if there is none."""

    def add(self, name: str, data: bytes) -> bool:
        """Write a file; returns whether it was written now, and did not lie there already.

        Raises:
            RunBlocked: another file lies there.
            StoreError: the store failed.
        """

    def remove(self, name: str) -> None:
        """Remove a file; none there is no error.

        Raises:
            StoreError: the store failed.
        """

    def finish(self) -> bool:
        """End the writing; returns whether what was added lies there because of this start.

        Raises:
            SpecError: another file lies in the place of the whole.
            RunBlocked: another process has put one there meanwhile.
            StoreError: the store failed.
        """


@dataclass(frozen=True)
class FolderPlace:
    """A folder."""

    store: Store

    @property
    def url(self) -> str:
        """URL of the folder."""
        return self.store.url

    def names_present(self, names: list[str]) -> set[str]:
        """Which of some files lie there."""
        return self.store.present(names)

    def read(self, name: str) -> bytes | None:
        """A file of the folder; None if there is none."""
        return self.store.read_if_any(name)

    def add(self, name: str, data: bytes) -> bool:
        """Create a file; see `Place.add`."""
        if self.store.create(name, data):
            return True
        if self.store.read(name) != data:
            raise RunBlocked(
                f"{self.store.url}/{name}: another file lies there, and is not replaced"
            )
        return False

    def remove(self, name: str) -> None:
        """Remove a file of the folder."""
        self.store.delete(name)

    def finish(self) -> bool:
        """Nothing is left to do: `add` has told what it wrote."""
        return True


@dataclass
class ZipPlace:
    """A zip file, written aside and put in place when it is whole; equal files give equal bytes.

    Args:
        store: its folder.
        name: its name there.
        file: the file that is written aside.
        path: the name by which it can be linked.
    """

    store: Store
    name: str
    file: IO[bytes]
    path: str
    _archive: zipfile.ZipFile = field(init=False)

    def __post_init__(self) -> None:
        self._archive = zipfile.ZipFile(self.file, "w", zipfile.ZIP_STORED)

    @property
    def url(self) -> str:
        """URL of the zip file."""
        return f"{self.store.url}/{self.name}"

    def names_present(self, names: list[str]) -> set[str]:
        """None: each start writes the file anew."""
        return set()

    def read(self, name: str) -> bytes | None:
        """None, as nothing is kept of an earlier start."""
        return None

    def add(self, name: str, data: bytes) -> bool:
        """Add a file; images are compressed already."""
        info = zipfile.ZipInfo(name)  # of 1980, so that equal files give equal bytes
        info.external_attr = 0o644 << 16
        self._archive.writestr(info, data)
        return True

    def remove(self, name: str) -> None:
        """Nothing: each start writes the file anew."""

    def finish(self) -> bool:
        """Put the file in place, unless this very file lies there; see `Place.finish`."""
        self.close()
        self.file.flush()
        if self.store.size(self.name) is not None:
            if not self._lies_there():
                raise SpecError(
                    f"{self.url}: another file lies there, and is not replaced; choose another name"
                )
            return False
        if is_local(self.store.url):
            os.fsync(self.file.fileno())
            return self._linked()
        if (num_bytes := self.file.tell()) > MAX_REMOTE_ZIP_BYTES:
            raise SpecError(
                f"{self.url}: {num_bytes:,} bytes, and a zip file at a URL has at most "
                f"{MAX_REMOTE_ZIP_BYTES:,}; write it into a local folder, or export into a folder"
            )
        self.file.seek(0)
        if not self.store.create(self.name, self.file.read()):
            raise RunBlocked(f"{self.url}: another process has written it")
        return True

    def close(self) -> None:
        """End the archive, in place or not; more than once does no harm."""
        self._archive.close()

    def _linked(self) -> bool:
        """Give the file its name, which must be free."""
        path = Path(self.store.url) / self.name
        folder = os.open(self.store.url, os.O_RDONLY)
        try:
            # Only linkat(2), which Python calls for a folder's descriptor, follows /proc/self/fd.
            os.link(self.path, self.name, dst_dir_fd=folder, follow_symlinks=True)
        except FileExistsError:
            raise RunBlocked(f"{self.url}: another process has written it") from None
        except OSError as error:
            if error.errno not in NO_LINKS or self.path.startswith(OPEN_FILES):
                raise StoreDenied(f"{self.url}: {error.strerror}") from error
            os.rename(self.path, path)
        finally:
            os.close(folder)
        return True

    def _lies_there(self) -> bool:
        if self.store.size(self.name) != self.file.tell():
            return False
        self.file.seek(0)
        return hashlib.sha256(self.store.read(self.name)).digest() == _digest(self.file)


def _digest(file: IO[bytes]) -> bytes:
    found = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        found.update(chunk)
    return found.digest()


def is_zip(to: str) -> bool:
    """Whether a URL names a zip file."""
    return to.lower().endswith(ZIP_SUFFIX)


@contextmanager
def zip_place(store: Store, name: str) -> Iterator[ZipPlace]:
    """A zip file in a folder; what was written aside is deleted in the end.

    On Linux it has no name until it is whole, so that nothing is left of it after a kill either.

    Raises:
        StoreDenied: the folder cannot be written to.
    """
    folder = store.url if is_local(store.url) else tempfile.gettempdir()
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        aside, path = _nameless(folder) or _named(folder, name)
    except OSError as error:
        raise StoreDenied(f"{store.url}: {error.strerror}") from error
    try:
        with aside:
            os.chmod(aside.fileno(), 0o644)
            place = ZipPlace(store, name, aside, path)
            try:
                yield place
            finally:
                place.close()
    finally:
        if not path.startswith(OPEN_FILES):
            Path(path).unlink(missing_ok=True)


def _nameless(folder: str) -> tuple[IO[bytes], str] | None:
    """A file without a name in a folder, and how to link it; None where that cannot be had.

    Reference: open(2), O_TMPFILE.
    """
    if not hasattr(os, "O_TMPFILE") or not os.path.isdir(OPEN_FILES):
        return None
    try:
        number = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:  # the file system has no such files; what else is wrong, _named finds, too
        return None
    return os.fdopen(number, "w+b"), f"{OPEN_FILES}/{number}"


def _named(folder: str, name: str) -> tuple[IO[bytes], str]:
    aside = tempfile.NamedTemporaryFile(  # noqa: SIM115 - its user closes it
        prefix=f".{name}-", dir=folder, delete=False
    )
    return aside, aside.name
