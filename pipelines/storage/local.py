"""A folder in this machine's file system.

A file is written in full beside the others, in `.partial`, and then gets its name in one step:
whatever dies in the middle leaves no half file under a name that anyone reads.
"""

import errno
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock

from nightpress.pipelines.errors import StoreDenied, StoreError
from nightpress.pipelines.storage.drivers import Place, told
from nightpress.pipelines.storage.urls import local_path

PARTIAL_FOLDER = ".partial"
PAGE_NAMES = 1000
STALE_S = 24 * 3600
"""After a day, a partial file belongs to a process that is gone."""

LOCK_S = 60.0
"""How long one waits for whoever replaces something at the same time."""

NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class LocalFolder:
    """The operations of `Store` on a local path."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.root = local_path(place.url)

    def create(self, path: str, data: bytes) -> bool:
        """Give new bytes a name, unless it is taken."""
        with told(self.place, path):
            target = self._target(path)
            with self._partial(data) as partial:
                created = _link(partial, target)
            if created:
                _sync_folder(target.parent)
            return created

    def put(self, path: str, data: bytes) -> None:
        """Replace."""
        with told(self.place, path):
            target = self._target(path)
            with self._partial(data) as partial:
                os.replace(partial, target)
            _sync_folder(target.parent)

    def replace(self, path: str, data: bytes, seen: bytes) -> bool:
        """Replace what has been seen, if it is still there."""
        with told(self.place, path):
            target = self.root / path
            with (
                self._partial(data) as partial,
                FileLock(partial.parent / "names.lock", timeout=LOCK_S),
            ):
                if target.read_bytes() != seen:
                    return False
                os.replace(partial, target)
            _sync_folder(target.parent)
            return True

    def read(self, path: str) -> bytes:
        """The bytes."""
        with told(self.place, path):
            return (self.root / path).read_bytes()

    def read_part(self, path: str, start: int, num_bytes: int) -> bytes:
        """Some of the bytes."""
        with told(self.place, path), (self.root / path).open("rb") as stream:
            stream.seek(start)
            return stream.read(num_bytes)

    def size(self, path: str) -> int | None:
        """In bytes; None where no file is."""
        with told(self.place, path):
            target = self.root / path
            return target.stat().st_size if target.is_file() else None

    def list(self, folder: str) -> dict[str, int]:
        """Every file below a folder, but no partial ones."""
        return dict(sorted(item for page in self.pages(folder) for item in page.items()))

    def pages(self, folder: str) -> Iterator[dict[str, int]]:
        """Every file below a folder, in the order of the disk."""
        with told(self.place, folder):
            files = self._walk(self.root / folder)
            while page := dict(islice(files, PAGE_NAMES)):
                yield page

    def present(self, paths: Sequence[str]) -> set[str]:
        """Those that are files; a disk is quicker asked for each than listed."""
        return {path for path in paths if self.size(path) is not None}

    def delete(self, path: str) -> None:
        """Remove; nothing there is as good."""
        with told(self.place, path):
            (self.root / path).unlink(missing_ok=True)

    def check(self) -> None:
        """Write and remove a file in the nearest folder that exists; makes no folder."""
        nearest = self.root
        while not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir():
            raise StoreDenied(f"{self.place.shown}: {nearest} is a file, and not a folder")
        scratch = nearest / f".nightpress-check-{uuid.uuid4().hex}"
        try:
            with told(self.place):
                scratch.touch(exist_ok=False)
                scratch.unlink()
        except StoreError as error:
            raise StoreDenied(f"{self.place.shown}: {nearest} is not writable") from error
        self._sweep()

    def arrow(self) -> tuple[Any, str]:
        """For pyarrow."""
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self.root)

    def _target(self, path: str) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    @contextmanager
    def _partial(self, data: bytes) -> Iterator[Path]:
        """A file that holds the data, on disk and not only in memory, until it has its name."""
        folder = self.root / PARTIAL_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / uuid.uuid4().hex
        try:
            with partial.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            yield partial
        finally:
            partial.unlink(missing_ok=True)

    def _walk(self, folder: Path) -> Iterator[tuple[str, int]]:
        """Paths and bytes. Files may go while we look; then they are not there.

        One by one, because a folder may hold more names than should be held in memory.
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

    def _sweep(self) -> None:
        """Remove what killed processes left behind; whoever is faster may do it for us."""
        folder = self.root / PARTIAL_FOLDER
        if not folder.is_dir():
            return
        for partial in folder.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - partial.stat().st_mtime > STALE_S:
                    partial.unlink()


def _link(partial: Path, target: Path) -> bool:
    """Give a file its name in one step; False if the name is taken."""
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
    """As `_link` where hard links are not supported.

    A rename replaces what is there, so looking and renaming happen under one lock, which the
    system takes back from a process that dies.
    """
    with FileLock(partial.parent / "names.lock"):
        if os.path.lexists(target):
            return False
        os.rename(partial, target)
    return True


def _sync_folder(folder: Path) -> None:
    """Have the name survive a power cut, as the bytes do."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
