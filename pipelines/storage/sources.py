"""Find and download the files that a run reads, such as manifests and models, at any URL."""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import escape, iglob
from itertools import islice
from pathlib import Path
from typing import Any

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.storage.drivers import (
    CLIENT_ATTEMPTS,
    StoreLocation,
    as_store_errors,
    open_driver,
)
from nightpress.pipelines.storage.faults import Fault, classify
from nightpress.pipelines.storage.streams import open_source
from nightpress.pipelines.storage.urls import (
    Options,
    absolute,
    has_glob,
    is_local,
    links_of,
    literal_folder,
    local_path,
    require_inside,
)

SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".txt": "text",
}
"""The formats of manifests; `find` looks for their suffixes below a folder by default."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Compressions of whole files, for text formats only; Parquet compresses inside."""

DOWNLOAD_BYTES = 32 * 2**20
"""The size of one request of a download."""

DOWNLOAD_THREADS = 8

VERSION_KEYS = (
    *("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated"),
    *("Last-Modified", "created"),
)
"""The keys under which drivers report something that changes with the content, surest first."""


Partition = tuple[tuple[str, str | None], ...]
"""Columns that the folders of a file give, with their values."""


@dataclass(frozen=True)
class Source:
    """A file to read."""

    url: str
    num_bytes: int
    version: str
    """Changes when the content does; empty if the store reports nothing of the kind."""
    partition: Partition = ()
    """The columns that the folders of a manifest file give; `find` leaves it empty."""


def find(
    urls: Sequence[str], options: Options | None = None, suffixes: Sequence[str] = ()
) -> list[Source]:
    """The files that URLs name, without repeats, in the order of the URLs and sorted within each.

    A folder stands for the files with a matching suffix below it, a pattern (`*`, `**`, `?`,
    `[ab]`) for the files that it matches. Names that begin with `_` or `.` are skipped unless they
    are spelled out. Symbolic links to folders are followed.

    Args:
        urls: files, folders and patterns.
        options: fsspec options by protocol.
        suffixes: the suffixes to look for below a folder, in lower case; by default those of
            manifests.

    Raises:
        StoreMissing: a URL names nothing.
        StoreError: the store refuses or fails.
    """
    found: dict[str, Source] = {}
    for url in urls:
        files = _files(url, options or {})
        with as_store_errors(files.location):
            sources = _named(files, suffixes)
        if not sources:
            raise StoreMissing(_not_found_message(url, suffixes))
        found |= {source.url: source for source in sources if source.url not in found}
    return list(found.values())


def _named(files: "_LocalFiles | _RemoteFiles", suffixes: Sequence[str]) -> list[Source]:
    """The files that one URL stands for."""
    is_wanted = (lambda name: name.lower().endswith(tuple(suffixes))) if suffixes else _is_manifest
    if (single := files.file()) is not None:
        return [single]
    url = files.location.url
    if has_glob(url) and not files.is_folder():
        base = literal_folder(url)
        return [
            source
            for source in files.matches()
            if not _is_hidden(source.url[len(base) :].split("/"), url[len(base) :])
        ]
    return [
        source
        for source in files.below()
        if is_wanted(source.url) and not _is_hidden(source.url[len(url) :].split("/"))
    ]


def hidden(url: str, suffixes: Sequence[str], options: Options | None = None) -> list[Source]:
    """The files of these suffixes below a folder that `find` skips for a name with `_` or `.`.

    Nothing where the URL is a file or a pattern.
    """
    files = _files(url, options or {})
    with as_store_errors(files.location):
        if not files.is_folder():
            return []
        return [
            source
            for source in files.below()
            if source.url.lower().endswith(tuple(suffixes))
            and _is_hidden(source.url[len(files.location.url) :].split("/"))
        ]


def require_readable(urls: Sequence[str], options: Options | None = None) -> None:
    """Check that manifests are there and may be read, by the first byte of the first file of each.

    Raises:
        StoreMissing: a URL names nothing.
        StoreError: the store refuses or fails.
    """
    for url in urls:
        first = find([url], options)[0]
        with open_source(first.url, options) as stream:
            stream.read(1)


def contents(url: str, options: Options | None = None) -> list[Source]:
    """Every file below a folder, whatever its name, sorted.

    Raises:
        StoreMissing: there are no files.
        StoreError: the store refuses or fails.
    """
    files = _files(url, options or {})
    with as_store_errors(files.location):
        sources = files.below()
    if not sources:
        raise StoreMissing(f"{files.location.public_url}: no such folder, or the folder is empty")
    return sources


def linked_folders(path: str) -> list[str]:
    """The symbolic links to folders that `find` follows below a local folder."""
    folders = (folder for folder, _ in _walk(path) if os.path.islink(folder))
    return [folder for folder in folders if not _is_hidden(folder[len(path) :].split("/"))]


def download_folder(url: str, into: Path, options: Options | None = None) -> None:
    """Copy every file below a folder to a folder on this machine.

    Raises:
        StoreMissing: there are no files.
        StoreError: the store refuses or fails.
    """
    base = absolute(url)
    sources = contents(url, options)

    def copy(source: Source) -> None:
        target = into / require_inside(source.url.removeprefix(f"{base}/"), base)
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            open_source(source.url, options, DOWNLOAD_BYTES) as stream,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(stream, file, DOWNLOAD_BYTES)

    with ThreadPoolExecutor(DOWNLOAD_THREADS) as pool:
        list(pool.map(copy, sources))


class _LocalFiles:
    """The files that a local path or pattern names."""

    def __init__(self, location: StoreLocation) -> None:
        self.location = location
        self.path = str(local_path(location.url))

    def file(self) -> Source | None:
        """The file itself, if it is one."""
        return _local_source(self.path) if os.path.isfile(self.path) else None

    def is_folder(self) -> bool:
        """Whether there is a folder of exactly this name."""
        return os.path.isdir(self.path)

    def matches(self) -> list[Source]:
        """The files that the pattern matches; its folders that exist are no patterns."""
        names = set(_matching(_with_literal_start(self.path, os.path.isdir)))
        return _sorted_by_url(_local_source(name) for name in names if os.path.isfile(name))

    def below(self) -> list[Source]:
        """Every file below the folder."""
        names = (os.path.join(folder, name) for folder, files in _walk(self.path) for name in files)
        return _sorted_by_url(_local_source(name) for name in names)


class _RemoteFiles:
    """The files that a remote URL names; a listing is many requests, so the driver retries them."""

    def __init__(self, location: StoreLocation) -> None:
        self.location = location
        self.driver, path = open_driver(location, CLIENT_ATTEMPTS)
        self.path = path.rstrip("/")

    def file(self) -> Source | None:
        """The file itself, if it is one."""
        info = self._info(self.path)
        if info is None or info["type"] != "file":
            return None
        return self._source(self.path, info)

    def is_folder(self) -> bool:
        """Whether there is a folder of exactly this name."""
        return self._is_folder(self.path)

    def matches(self) -> list[Source]:
        """The files that the pattern matches; its folders that exist are no patterns."""
        pattern = _with_literal_start(self.path, self._is_folder)
        return self._sources(self.driver.glob(pattern, detail=True))

    def below(self) -> list[Source]:
        """Every file below the folder."""
        return self._sources(self.driver.find(self.path, detail=True))

    def _is_folder(self, path: str) -> bool:
        info = self._info(path)
        return info is not None and info["type"] == "directory"

    def _info(self, path: str) -> Mapping[str, Any] | None:
        try:
            info: Mapping[str, Any] = self.driver.info(path)
        except FileNotFoundError as error:
            if classify(error) is Fault.NO_BUCKET:
                raise
            return None
        return info

    def _sources(self, infos: Mapping[str, Mapping[str, Any]]) -> list[Source]:
        return _sorted_by_url(
            self._source(path, info)
            for path, info in infos.items()
            if info["type"] == "file" and not path.endswith("/")
        )

    def _source(self, path: str, info: Mapping[str, Any]) -> Source:
        """The source for a driver's path; in a chained URL only the first link holds a path."""
        url = self.location.url
        first = links_of(url)[0]
        if "://" not in first:
            first = url
        head = first.removesuffix(self.path.lstrip("/"))
        size = info["size"] or 0
        version = next((str(info[key]) for key in VERSION_KEYS if info.get(key)), "")
        version = version.strip('"')
        return Source(head + path.lstrip("/") + url.removeprefix(first), int(size), version)


def _walk(path: str, above: Sequence[os.stat_result] = ()) -> Iterator[tuple[str, Sequence[str]]]:
    """A folder and all below it, each with the names of its files.

    Links to folders are followed, except back to a folder that the walk has come through.
    """
    try:
        here = os.stat(path)
    except FileNotFoundError:
        return
    if any(os.path.samestat(here, folder) for folder in above):
        return
    for _, folders, files in islice(os.walk(path, onerror=_raise_unless_missing), 1):
        yield path, files
        for name in folders:
            yield from _walk(os.path.join(path, name), [*above, here])


def _matching(pattern: str) -> Iterator[str]:
    """The paths that a pattern matches, perhaps repeatedly; Python's `**` has no end in a loop."""
    parts = re.sub(r"(?<=/\*\*)(/\*\*)+(?=/|$)", "", pattern).split("/")
    if "**" not in parts:
        yield from iglob(pattern, include_hidden=True)
        return
    number = parts.index("**")
    for base in filter(os.path.isdir, iglob("/".join(parts[:number]) or "/", include_hidden=True)):
        for folder, _ in _walk(base):
            yield from _matching("/".join([escape(folder), *(parts[number + 1 :] or ["*"])]))


def _with_literal_start(pattern: str, is_folder: Callable[[str], bool]) -> str:
    """The pattern with `[v2]` escaped where a folder of that very name exists."""
    parts = pattern.split("/")
    for number in range(1, len(parts)):
        if has_glob(parts[number - 1]) and not is_folder("/".join(parts[:number])):
            return "/".join([escape("/".join(parts[: number - 1])), *parts[number - 1 :]])
    return "/".join([escape("/".join(parts[:-1])), parts[-1]])


def _files(url: str, options: Options) -> _LocalFiles | _RemoteFiles:
    location = StoreLocation(absolute(url), options)
    return _LocalFiles(location) if is_local(url) else _RemoteFiles(location)


def _local_source(path: str) -> Source:
    stat = os.stat(path) if os.path.exists(path) else os.lstat(path)  # a broken symbolic link
    version = f"{stat.st_mtime_ns}-{stat.st_size}-{stat.st_ino}-{stat.st_ctime_ns}"
    return Source(path, stat.st_size, version)


def _sorted_by_url(sources: Iterable[Source]) -> list[Source]:
    return sorted(sources, key=lambda source: source.url)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _is_manifest(name: str) -> bool:
    """Whether a file below a folder is part of a manifest, by its suffix."""
    name = name.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return name.endswith(tuple(SUFFIXES))


def _is_hidden(parts: Iterable[str], pattern: str = "") -> bool:
    """Whether a name below a folder begins with `_` or `.` without the pattern spelling it out."""
    spelled = tuple(part[0] for part in pattern.split("/") if part[:1] in ("_", "."))
    return any(part[0] in "_." and part[0] not in spelled for part in parts if part)


def _not_found_message(url: str, suffixes: Sequence[str]) -> str:
    where = StoreLocation(absolute(url), {}).public_url
    if has_glob(url):
        return f"{where}: the pattern matches no file"
    if suffixes:
        return f"{where}: no such file, and no folder with {' '.join(suffixes)} files in it"
    return (
        f"{where}: no such file, and no folder with manifest files in it "
        f"({' '.join(SUFFIXES)}, text formats also compressed as "
        f"{' '.join(COMPRESSIONS)}); a pattern such as data/**/*.parquet works too"
    )
