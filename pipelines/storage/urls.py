"""Parse and normalise URLs and paths, without contacting any store."""

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
    """`s3` for `s3://bucket/key`, `file` for a plain path; the first link of a chained URL."""
    match = _PROTOCOL.match(url)
    return match.group(1).lower() if match else "file"


def is_url(source: str) -> bool:
    """Whether a string names a protocol; a plain path does not."""
    return _PROTOCOL.match(source) is not None


def is_local(url: str) -> bool:
    """Whether a URL is in this machine's file system."""
    return protocol_of(url) in ("file", "local")


def local_path(url: str) -> Path:
    """The absolute path of a local URL, valid in workers with another working folder."""
    path = re.sub(r"^(?:file|local)://", "", url, flags=re.IGNORECASE)
    return Path(os.path.abspath(Path(path).expanduser()))


def absolute(url: str) -> str:
    """The URL with local paths made absolute, protocols in lower case and no trailing slash."""
    if is_local(url):
        return str(local_path(url))
    lower = re.sub(r"(?:^|(?<=::))[a-zA-Z][a-zA-Z0-9+.-]*(?=://|::)", _in_lower_case, url)
    return re.sub(r"(?<=[^:/])/+$", "", lower)


def _in_lower_case(match: re.Match[str]) -> str:
    return match.group().lower()


def has_glob(url: str) -> bool:
    """Whether a URL is a glob pattern."""
    return _GLOB.search(url) is not None


def literal_folder(url: str) -> str:
    """The folder of a pattern before its first wildcard, without a trailing slash."""
    return _GLOB.split(url, maxsplit=1)[0].rpartition("/")[0]


def glob_matches(pattern: str, url: str) -> bool:
    """Whether a glob pattern matches a URL; `**` alone between slashes matches any folders."""
    from fsspec.utils import glob_translate

    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in pattern.split("/")]
    return re.match(glob_translate("/".join(parts)), url) is not None


def public(url: str) -> str:
    """The URL without user, password and query, safe to show."""
    if "://" not in url or ("@" not in url and "?" not in url):
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def require_inside(path: str, url: str) -> str:
    """Return a relative path unchanged, after checking that it stays below a folder.

    Raises:
        StoreError: the path is empty or absolute, or contains `..` or a null byte.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise StoreError(f"{public(url)}: {path!r} is not a path inside this folder")
    return path
