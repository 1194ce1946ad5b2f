"""A lock that the processes of one node hold while they compile.

The first compiles; the others then find the code in the cache folder instead of compiling the same.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from nightpress.diffusion_core.acceleration.compilation import CACHE_VARIABLE, on_compilation

LOCK_FILE = ".nightpress-compiling"


@contextlib.contextmanager
def one_process_at_a_time() -> Iterator[None]:
    """Within the block, hold the node's lock whenever torch compiles in this process.

    The lock is a POSIX record lock on a file in the folder of compiled code: the kernel releases it
    if the process dies, and threads of one process do not exclude each other. A folder that cannot
    be locked, such as one on some network file systems, is used without.
    """
    folder = os.environ.get(CACHE_VARIABLE)
    with contextlib.ExitStack() as stack:
        file = None if folder is None else _opened(Path(folder))
        if file is not None:
            stack.callback(os.close, file)
            lock = NodeLock(file)
            stack.enter_context(on_compilation(lock.acquire, lock.release))
        yield


class NodeLock:
    """The lock of a node, by an open file.

    Args:
        file: the descriptor of a file that is open for writing.
    """

    def __init__(self, file: int) -> None:
        self._file = file

    def acquire(self) -> None:
        """Wait until no other process holds it; returns at once where locking is unsupported."""
        with contextlib.suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_EX)

    def release(self) -> None:
        """Let the next process have it."""
        with contextlib.suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_UN)


def _opened(folder: Path) -> int | None:
    """The lock file, created if needed; None if the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return None
