"""A store in a local folder.

A file is first written in full to the subfolder `.partial` and then linked or renamed into place in
one step, so a process that dies halfway never leaves a half-written file under its final name.
"""

import errno
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, Self

from filelock import FileLock

from nightpress.pipelines.errors import StoreDenied, StoreError
from nightpress.pipelines.storage.drivers import StoreLocation, as_store_errors
from nightpress.pipelines.storage.urls import local_path

PARTIAL_FOLDER = ".partial"
PAGE_NAMES = 1000
STALE_S = 24 * 3600
"""A partial file older than a day belongs to a process that is gone."""

LOCK_S = 60.0
"""How long `replace` waits for another process that is replacing something."""

FOLDER_ATTEMPTS = 100
"""How often `.partial` is made again if others remove it in the moment before it is used."""

MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT)
"""A disk that is full, or a network file system whose server is away: a later start may write."""

NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class LocalFolder:
    """The operations of `Store` on a local path."""

    def __init__(self, location: StoreLocation) -> None:
        self.location = location
        self.root = local_path(location.url)

    def folder(self, name: str) -> Self:
        """A folder in this one."""
        return type(self)(StoreLocation(f"{self.location.url}/{name}", self.location.options))

    def folders(self) -> Iterator[str]:
        """The names of the folders right in this one."""
        with as_store_errors(self.location), os.scandir(self.root) as entries:
            names = (entry.name for entry in entries if entry.is_dir())
            yield from (name for name in names if name != PARTIAL_FOLDER)

    def create(self, path: str, data: bytes) -> bool:
        """Write a new file; False if the name is taken."""
        with as_store_errors(self.location, path):
            target = self._target(path)
            with self._partial(data) as partial:
                created = link_new(partial, target)
            if created:
                _fsync_folder(target.parent)
            return created

    def put(self, path: str, data: bytes) -> None:
        """Write a file, replacing any that is there."""
        with as_store_errors(self.location, path):
            target = self._target(path)
            with self._partial(data) as partial:
                os.replace(partial, target)
            _fsync_folder(target.parent)

    def replace(self, path: str, data: bytes, seen: bytes) -> bool:
        """Replace a file if it still holds the bytes `seen`."""
        with as_store_errors(self.location, path):
            target = self.root / path
            with (
                self._partial(data) as partial,
                FileLock(partial.parent / "names.lock", timeout=LOCK_S),
            ):
                if target.read_bytes() != seen:
                    return False
                os.replace(partial, target)
            _fsync_folder(target.parent)
            return True

    def read(self, path: str) -> bytes:
        """The file's bytes."""
        with as_store_errors(self.location, path):
            return (self.root / path).read_bytes()

    def read_part(self, path: str, start: int, num_bytes: int) -> bytes:
        """A range of the file's bytes."""
        with as_store_errors(self.location, path), (self.root / path).open("rb") as stream:
            stream.seek(start)
            return stream.read(num_bytes)

    def size(self, path: str) -> int | None:
        """The file's size in bytes; None if there is no such file."""
        with as_store_errors(self.location, path):
            target = self.root / path
            return target.stat().st_size if target.is_file() else None

    def list(self, folder: str) -> dict[str, int]:
        """Every file below a folder, partial files excepted."""
        return dict(sorted(item for page in self.pages(folder) for item in page.items()))

    def pages(self, folder: str) -> Iterator[dict[str, int]]:
        """Every file below a folder, page by page in the order of the disk."""
        with as_store_errors(self.location, folder):
            files = self._walk(self.root / folder)
            while page := dict(islice(files, PAGE_NAMES)):
                yield page

    def present(self, paths: Sequence[str]) -> set[str]:
        """The paths that are files; on a disk, checking each is quicker than listing."""
        return {path for path in paths if self.size(path) is not None}

    def delete(self, path: str) -> None:
        """Remove a file; a missing file is no error."""
        with as_store_errors(self.location, path):
            (self.root / path).unlink(missing_ok=True)

    def check(self) -> None:
        """Create and remove a file in the nearest existing folder; creates no folders."""
        nearest = self.root
        while not nearest.exists():
            if nearest.is_symlink():
                raise StoreDenied(
                    f"{self.location.public_url}: {nearest} is a link to {os.readlink(nearest)}, "
                    "which does not exist; make that folder, or remove the link"
                )
            nearest = nearest.parent
        if not nearest.is_dir():
            raise StoreDenied(f"{self.location.public_url}: {nearest} is a file, not a folder")
        scratch = nearest / f".nightpress-check-{uuid.uuid4().hex}"
        try:
            with as_store_errors(self.location):
                scratch.touch(exist_ok=False)
                scratch.unlink()
        except StoreError as error:
            if getattr(error.__cause__, "errno", None) in MAY_PASS:
                raise
            raise StoreDenied(f"{self.location.public_url}: {nearest} is not writable") from error
        self._remove_stale_partials()

    def arrow(self) -> tuple[Any, str]:
        """The file system and the folder's path, for pyarrow."""
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self.root)

    def _target(self, path: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    @contextmanager
    def _partial(self, data: bytes) -> Iterator[Path]:
        """A temporary file that holds the data, synced to disk; removed at the end."""
        partial = self.root / PARTIAL_FOLDER / uuid.uuid4().hex
        try:
            with _opened(partial) as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            yield partial
        finally:
            partial.unlink(missing_ok=True)

    def _walk(self, folder: Path) -> Iterator[tuple[str, int]]:
        """Paths and sizes, one at a time: a folder may hold more names than fit in memory.

        Files that disappear during the walk are skipped.
        """
        folders = [os.fspath(folder)]
        skip = len(os.path.join(self.root, ""))
        while folders:
            with suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False) and entry.path[skip:] != PARTIAL_FOLDER:
                        folders.append(entry.path)
                    with suppress(FileNotFoundError):
                        if entry.is_file():
                            yield entry.path[skip:], entry.stat().st_size

    def remove_partial_folder(self) -> None:
        """Remove the folder of partial files, unless there are some."""
        with suppress(OSError):  # not empty, or not there
            (self.root / PARTIAL_FOLDER).rmdir()

    def _remove_stale_partials(self) -> None:
        """Remove partial files of killed processes; another process may be doing the same."""
        folder = self.root / PARTIAL_FOLDER
        if not folder.is_dir():
            return
        for partial in folder.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - partial.stat().st_mtime > STALE_S:
                    partial.unlink()


def _opened(partial: Path) -> IO[bytes]:
    """A new partial file; another process may remove the folder before the file is in it."""
    for _ in range(FOLDER_ATTEMPTS):
        with suppress(FileNotFoundError, FileExistsError):  # removed in or after mkdir
            partial.parent.mkdir(parents=True, exist_ok=True)
            return partial.open("xb")
    partial.parent.mkdir(parents=True, exist_ok=True)
    return partial.open("xb")


def link_new(partial: Path, target: Path) -> bool:
    """Link a file to its final name in one step; False if the name is taken."""
    try:
        os.link(partial, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        return _rename_under_lock(partial, target)
    return True


def _rename_under_lock(partial: Path, target: Path) -> bool:
    """Like `link_new`, for file systems without hard links.

    A rename would replace an existing file, so the check and the rename share a lock, which the
    system releases when a process dies.
    """
    with FileLock(partial.parent / "names.lock"):
        if os.path.lexists(target):
            return False
        os.rename(partial, target)
    return True


def _fsync_folder(folder: Path) -> None:
    """Sync a folder, so that new names survive a power cut as the bytes do."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
