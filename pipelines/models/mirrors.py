"""Folders that are made once on a machine: copies of remote files, and what is made of them."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from nightpress.diffusion_core.errors import ModelError
from nightpress.pipelines.job.spec import canonical_json
from nightpress.pipelines.storage import Source


def mirror_once(
    url: str, sources: Sequence[Source], cache: Path, download: Callable[[Path], None]
) -> Path:
    """A folder with local copies of `sources`, made once per machine and content.

    The folder gets its name only when it is complete. Other processes wait for a lock and then find
    it.

    Args:
        url: where the sources were found.
        sources: the files to copy.
        cache: the folder of all mirrors.
        download: copies the sources into a folder.

    Raises:
        ModelError: fewer bytes arrived than were listed, or the cache cannot be written.
    """
    num_bytes = sum(source.num_bytes for source in sources)

    def download_all(into: Path) -> None:
        download(into)
        arrived = sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
        if arrived < num_bytes:
            raise ModelError(
                f"model {url}: only {arrived:,} of {num_bytes:,} bytes arrived; it may have "
                "changed during the download"
            )

    return made_once(url, mirror_folder(url, sources, cache), download_all)


def made_once(what: str, folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is made once per machine, and gets its name only when it is complete.

    Args:
        what: what is kept in it, as errors call it.
        folder: its path; other processes wait for a lock beside it and then find it.
        make: fills an empty folder.

    Raises:
        ModelError: the folder above it cannot be written.
    """
    cache = folder.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{folder.name}.lock"):
            if not folder.is_dir():
                _make(folder, make)
    except OSError as error:
        raise ModelError(
            f"{what}: cannot be kept in {cache}: {error.strerror or error}; to use another folder, "
            "set XDG_CACHE_HOME"
        ) from error
    return folder


def mirror_folder(url: str, sources: Sequence[Source], cache: Path) -> Path:
    """The folder of the local copies of `sources`, whether it exists or not."""
    content = [[source.url, source.num_bytes, source.version] for source in sources]
    return cache / hashlib.sha256(canonical_json([url, content]).encode()).hexdigest()[:32]


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    # This process holds the lock, so any partial folder was left by a process that died.
    for abandoned in folder.parent.glob(f"{folder.name}.partial-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.partial-"))
    try:
        make(partial)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
