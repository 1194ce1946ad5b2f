"""Whether files are where a manifest says, looked up for many at once."""

import os
import stat
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from nightpress.pipelines.errors import StoreDenied, StoreError, StoreMissing
from nightpress.pipelines.storage import Options, Store, is_local, require_answers
from nightpress.pipelines.storage.faults import is_transient
from nightpress.pipelines.storage.limited import read_limited
from nightpress.pipelines.storage.urls import local_path, protocol_of, store_of

LOOK_THREADS = 32

LISTED = ("s3", "s3a")
"""Protocols of stores that list a thousand names in one request."""


def missing_files(urls: Sequence[str], options: Options) -> Mapping[str, str]:
    """Why files cannot be read, for those that cannot.

    Args:
        urls: URLs and paths, each once.
        options: fsspec options by protocol.

    Raises:
        StoreError: a store fails.
    """
    local = [url for url in urls if is_local(url)]
    remote: dict[str, list[str]] = defaultdict(list)
    for url in urls:
        if not is_local(url):
            remote[store_of(url)].append(url)
    with ThreadPoolExecutor(LOOK_THREADS) as pool:
        missing = dict(zip(local, pool.map(_why_not_here, local, chunksize=64), strict=True))
        for root, found in remote.items():
            single: Sequence[str] = found
            if protocol_of(root) in LISTED:
                absent, single = _unlisted(root, found, options)
                missing |= absent
            why = pool.map(partial(_why_not_there, options=options), single)
            missing |= dict(zip(single, why, strict=True))
    return {url: why for url, why in missing.items() if why is not None}


def unusable_stores(urls: Sequence[str], options: Options) -> Mapping[str, str]:
    """Why stores behind some files cannot be asked at all, found out within seconds.

    Returns:
        The first URL of each such store -> what is wrong with its address or its options.

    Raises:
        StoreError: a store keeps failing.
    """
    found: dict[str, str] = {}
    first = {store_of(url): url for url in reversed(urls) if not is_local(url)}
    for url in reversed(first.values()):
        try:
            require_answers([url], options)
        except StoreDenied as error:
            found[url] = str(error)
    return found


def _why_not_here(url: str) -> str | None:
    path = local_path(url)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return f"{path}: not found"
        return f"{path}: {error.strerror}"
    if stat.S_ISDIR(mode):
        return f"{path}: a folder, not a picture"
    if not stat.S_ISREG(mode):
        return f"{path}: a device, pipe or socket, not a picture"
    return None if os.access(path, os.R_OK) else f"{path}: permission denied"


def _unlisted(
    root: str, urls: Sequence[str], options: Options
) -> tuple[dict[str, str | None], list[str]]:
    """What a listing of a bucket says about objects, and those to ask for one by one."""
    paths = {url: url[len(root) + 1 :] for url in urls}
    usable = [url for url, path in paths.items() if _is_key(path)]
    single = [url for url, path in paths.items() if not _is_key(path)]
    try:
        present = Store(root, options).present([paths[url] for url in usable])
    except StoreError as error:
        if error.__cause__ is not None and is_transient(error.__cause__):
            raise
        return {}, list(urls)  # there may be no right to list, but one to read
    missing = {url: None if paths[url] in present else f"{url}: not found" for url in usable}
    return missing, single


def _is_key(path: str) -> bool:
    """Whether a path is looked up by a listing as it is spelled."""
    return (
        bool(path) and not path.startswith("/") and ".." not in path.split("/") and "?" not in path
    )


def _why_not_there(url: str, options: Options) -> str | None:
    try:
        read_limited(url, options, max_bytes=0)
    except (StoreMissing, StoreDenied) as error:
        return str(error)
    return None
