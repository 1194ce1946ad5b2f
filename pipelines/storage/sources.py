"""What others wrote: finding and opening manifests, downloading model folders."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipelines.errors import StoreError, StoreMissing
from pipelines.storage.faults import translate
from pipelines.storage.filesystems import StorageOptions, absolute, filesystem, is_local
from pipelines.storage.retries import ONCE, RetryPolicy

MAGIC = "*?["


@dataclass(frozen=True)
class Source:
    """A file that somebody else wrote."""

    url: str
    num_bytes: int
    version: str
    """An ETag or modification time: it changes when the content does."""


def find(urls: Sequence[str], options: StorageOptions | None = None) -> list[Source]:
    """The files at URLs, which may be files, folders or globs; a folder's in order of name.

    Names that begin with `_` or `.` inside a folder are left out, as Spark and Arrow do.

    Raises:
        StoreMissing: nothing is there, naming the URL.
        StoreDenied: the store cannot be reached, or refuses.
    """
    found: dict[str, Source] = {}
    for url in urls:
        here = _find_one(absolute(url), options or {})
        if not here:
            what = "nothing matches" if any(c in url for c in MAGIC) else "no such file or folder"
            raise StoreMissing(f"{url}: {what}")
        found |= {source.url: source for source in here}
    return list(found.values())


def open_source(url: str, options: StorageOptions | None = None) -> BinaryIO:
    """A seekable binary stream of a file; a context manager."""
    with _translated(url, options or {}):
        fs, path = filesystem(url, options or {})
        return cast("BinaryIO", RetryPolicy().call(lambda _: fs.open(path, "rb")))


def download_folder(url: str, into: Path, options: StorageOptions | None = None) -> None:
    """Copy what `find` sees in a folder into a local folder."""
    options = options or {}
    fs, root = filesystem(absolute(url), options)
    with _translated(url, options):
        start = len(root.rstrip("/")) + 1
        names = _policy(url).call(lambda _: fs.find(root))
        for name in names:
            if _hidden(name[start:]):
                continue
            target = into / name[start:]
            target.parent.mkdir(parents=True, exist_ok=True)
            _policy(url).call(partial(_get, fs, name, target))


def _get(fs: Any, name: str, target: Path, _attempt: int) -> None:
    fs.get_file(name, str(target))


def _find_one(url: str, options: StorageOptions) -> list[Source]:
    fs, path = filesystem(url, options)
    with _translated(url, options):
        entries = _policy(url).call(lambda _: _entries(fs, path))
    return [
        Source(
            str(fs.unstrip_protocol(name)) if "://" in url else name,
            int(info["size"]),
            _version(info),
        )
        for name, info in sorted(entries.items())
    ]


def _entries(fs: Any, path: str) -> dict[str, dict[str, Any]]:
    if any(character in path for character in MAGIC):
        matches = fs.glob(path, detail=True)
        return {name: info for name, info in matches.items() if info["type"] == "file"}
    try:
        info = fs.info(path)
    except FileNotFoundError:
        return {}
    if info["type"] == "file":
        return {path: info}
    inside = fs.find(path, detail=True)
    start = len(path.rstrip("/")) + 1
    return {name: info for name, info in inside.items() if not _hidden(name[start:])}


def _hidden(relative: str) -> bool:
    return any(part.startswith(("_", ".")) for part in relative.split("/"))


def _version(info: dict[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created"):
        if info.get(key) is not None:
            return f"{info[key]}".strip('"')
    return str(info["size"])


def _policy(url: str) -> RetryPolicy:
    return ONCE if is_local(url) else RetryPolicy()


@contextmanager
def _translated(url: str, options: StorageOptions) -> Any:
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise translate(error, url, options) from error
