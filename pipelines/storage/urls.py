"""What a URL says before anything is asked of the store behind it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from nightpress.pipelines.errors import StoreError

Options = Mapping[str, Mapping[str, Any]]
"""fsspec options by protocol; no credentials."""

_PROTOCOL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)(?:://|::)")
_GLOB = re.compile(r"[*?\[]")


def protocol_of(url: str) -> str:
    """`s3` of `s3://bucket/key`, `file` of a plain path; of a chain, its first link."""
    match = _PROTOCOL.match(url)
    return match.group(1).lower() if match else "file"


def is_url(source: str) -> bool:
    """Whether it names its protocol, as a plain path does not."""
    return _PROTOCOL.match(source) is not None


def is_local(url: str) -> bool:
    """Whether it lies in this machine's own file system."""
    return protocol_of(url) in ("file", "local")


def local_path(url: str) -> Path:
    """The absolute path of a local URL; a worker with another working folder finds it too."""
    path = re.sub(r"^(?:file|local)://", "", url, flags=re.IGNORECASE)
    return Path(os.path.abspath(Path(path).expanduser()))


def absolute(url: str) -> str:
    """The URL as it means the same everywhere: local paths made absolute, no slash at the end."""
    return str(local_path(url)) if is_local(url) else re.sub(r"(?<=[^:/])/+$", "", url)


def has_glob(url: str) -> bool:
    """Whether it is a pattern."""
    return _GLOB.search(url) is not None


def literal_folder(url: str) -> str:
    """The folder of a pattern up to where it begins to vary, without a slash at the end."""
    return _GLOB.split(url, maxsplit=1)[0].rpartition("/")[0]


def public(url: str) -> str:
    """The URL as it may be shown: no user, no password, no query."""
    if "://" not in url or ("@" not in url and "?" not in url):
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def inside(path: str, url: str) -> str:
    """A path that stays below a folder, as it was given.

    Raises:
        StoreError: it is absolute, empty, or climbs out.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise StoreError(f"{public(url)}: {path!r} is not a path inside this folder")
    return path
