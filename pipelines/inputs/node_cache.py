"""Files that were fetched from a store, kept on the node for all processes of one start of a run.

A URL is fetched once per node and start, however many actors and rows use it, and every row of the
start gets the same bytes. A later start fetches it again, since the object may have changed. The
folder of a start goes when no process uses it any more: the next one to open a cache removes it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from nightpress.diffusion_core.cache_folder import cache_folder

MAX_CACHE_BYTES = 8 * 2**30
"""The most that one start keeps on a node; then those files go that were fetched first."""

CHECKS = 64
"""The folder is measured each time that a process has added 1/64 of what is allowed."""

NUM_LOCKS = 256
ENDING_LOOKS, ENDING_POLL_S = 20, 0.1
"""How often, and how many seconds apart, it is checked whether processes have ended."""

USERS = ".users"
"""A file on which every process that uses a folder holds a shared lock, until it ends."""


class NodeCache:
    """The files of one start of a run on this machine.

    Args:
        start: names the start; the same for all its processes.
        folder: holds the folders of all starts; by default in the user's cache folder.
        max_bytes: the most to keep.
    """

    def __init__(
        self, start: str, folder: Path | None = None, max_bytes: int = MAX_CACHE_BYTES
    ) -> None:
        folders = folder or cache_folder() / "inputs"
        self._folder = folders / start
        self._max_bytes = max_bytes
        self._tidying = threading.Lock()
        self._num_added_bytes = 0
        self._users = _shared_lock(self._folder)
        remove_unused(folders)

    def get(self, url: str, fetch: Callable[[], bytes]) -> bytes:
        """The bytes behind a URL; fetched unless a process of this start has fetched them.

        Raises:
            StoreError: as `fetch` does; nothing is kept then.
        """
        name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        path = self._folder / name
        found = _read_if_any(path)
        if found is not None:
            return found
        with FileLock(self._folder / f".lock-{int(name[:8], 16) % NUM_LOCKS}"):
            found = _read_if_any(path)
            if found is None:
                found = fetch()
                self._keep(path, found)
        return found

    def close(self) -> None:
        """Stop using the folder; it is removed if no other process uses it."""
        os.close(self._users)
        _remove_if_unused(self._folder)

    def _keep(self, path: Path, data: bytes) -> None:
        """Write a file, whole or not at all; a full disk costs another fetch, and no row."""
        draft = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        try:
            draft.write_bytes(data)
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
        with self._tidying:
            self._num_added_bytes += len(data)
            if self._num_added_bytes > self._max_bytes // CHECKS:
                self._num_added_bytes = 0
                self._make_room()

    def _make_room(self) -> None:
        files = [entry for entry in os.scandir(self._folder) if not entry.name.startswith(".")]
        sizes = dict(_sizes(files))
        excess = sum(size for _, size in sizes.values()) - self._max_bytes
        for path, (_, size) in sorted(sizes.items(), key=lambda item: item[1][0]):
            if excess <= 0:
                return
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                os.unlink(path)
            excess -= size


def open_cache(start: str) -> NodeCache | None:
    """The cache of a start; None where nothing can be kept, so that each process fetches alone."""
    try:
        return NodeCache(start)
    except OSError:
        return None


def remove_start(start: str, folder: Path | None = None) -> None:
    """Remove what a start has kept on this machine, once its processes have ended."""
    ours = (folder or cache_folder() / "inputs") / start
    for _ in range(ENDING_LOOKS):
        _remove_if_unused(ours)
        if not ours.exists():
            return
        time.sleep(ENDING_POLL_S)


def remove_unused(folders: Path | None = None) -> None:
    """Remove what earlier starts have left on this machine."""
    folders = folders or cache_folder() / "inputs"
    for folder in folders.iterdir() if folders.is_dir() else ():
        _remove_if_unused(folder)


def _sizes(files: list[os.DirEntry[str]]) -> Iterator[tuple[str, tuple[int, int]]]:
    """(path, (time of its fetch, bytes)) of each file that is still there."""
    for entry in files:
        with contextlib.suppress(FileNotFoundError):
            found = entry.stat()
            yield entry.path, (found.st_mtime_ns, found.st_size)


def _shared_lock(folder: Path) -> int:
    """Make a folder, and lock it so that no other process removes it; returns the open file."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(folder / USERS, os.O_CREAT | os.O_RDWR, 0o600)
        except FileNotFoundError:  # it was removed just now
            continue
        fcntl.flock(file, fcntl.LOCK_SH)
        if (folder / USERS).exists():
            return file
        os.close(file)


def _remove_if_unused(folder: Path) -> None:
    try:
        file = os.open(folder / USERS, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (folder / USERS).unlink(missing_ok=True)  # a process that is about to lock it sees this
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:  # in use
        return
    finally:
        os.close(file)


def _read_if_any(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
