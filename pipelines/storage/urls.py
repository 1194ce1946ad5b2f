"""Parse and normalise URLs and paths, without contacting any store."""

import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from nightpress.pipelines.errors import StoreError

Options = Mapping[str, Mapping[str, Any]]
"""fsspec options by protocol; no credentials."""

_PROTOCOL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)(?:://|::)")
_GLOB = re.compile(r"[*?\[]")
_WEB_GLOB = re.compile(r"[*\[]")

WRAPPERS = (
    *("zip", "tar", "libarchive", "dir", "reference", "cached"),
    *("simplecache", "filecache", "blockcache"),
)
"""Protocols of fsspec that read another file; only they begin a chained URL, such as `zip://a::b`.

Elsewhere `::` is a part of a name.
"""


def protocol_of(url: str) -> str:
    """`s3` for `s3://bucket/key`, `file` for a plain path; the first link of a chained URL.

    A local path is one even where its name looks like a link: `notes::old.csv`.
    """
    return _named_protocol(url) or "file"


def _named_protocol(url: str) -> str | None:
    match = _PROTOCOL.match(url)
    if match is None:
        return None
    protocol = match.group(1).lower()
    if match.group().endswith("::") and (
        protocol not in WRAPPERS or os.path.lexists(url.partition("/")[0])
    ):
        return None
    return protocol


def store_of(url: str) -> str:
    """`s3://bucket` of `s3://bucket/key`, `http://host:80` of `http://host:80/a`."""
    protocol, _, rest = url.partition("://")
    return f"{protocol}://{rest.partition('/')[0]}"


def links_of(url: str) -> list[str]:
    """The links of a chained URL, first to last; any other URL by itself."""
    return url.split("::") if protocol_of(url) in WRAPPERS else [url]


def is_url(source: str) -> bool:
    """Whether a string names a protocol; a plain path does not."""
    return _named_protocol(source) is not None


def is_known_protocol(protocol: str) -> bool:
    """Whether fsspec reads files of a protocol by themselves, given the right driver."""
    import fsspec

    known = {*fsspec.available_protocols(), *fsspec.registry}
    return protocol in known and protocol not in WRAPPERS


def is_local(url: str) -> bool:
    """Whether a URL is in this machine's file system."""
    return protocol_of(url) in ("file", "local")


def is_http(url: str) -> bool:
    """Whether a URL is a web address, with a query after `?`; of a chained URL, its first link."""
    return protocol_of(url) in ("http", "https")


def local_path(url: str) -> Path:
    """The absolute path of a local URL, valid in workers with another working folder.

    `~` is the home folder, unless something here has that very name.
    """
    path = re.sub(r"^(?:file|local)://", "", url, flags=re.IGNORECASE)
    if not os.path.lexists(path):
        path = os.path.expanduser(path)
    if ".." not in path.split("/"):
        return Path(os.path.abspath(path))
    # Behind a symbolic link, `..` is the folder above the link's target.
    return Path(os.path.realpath(os.path.dirname(path)), os.path.basename(path)).resolve()


def absolute(url: str) -> str:
    """The URL with local paths made absolute, protocols in lower case and no trailing slash."""
    if is_local(url):
        return str(local_path(url))
    links = [re.sub(r"^[a-zA-Z0-9+.-]+(?=://|$)", _in_lower_case, link) for link in links_of(url)]
    return re.sub(r"(?<=[^:/])/+$", "", "::".join(links))


def _in_lower_case(match: re.Match[str]) -> str:
    return match.group().lower()


def has_glob(url: str) -> bool:
    """Whether a URL is a glob pattern."""
    pattern = _WEB_GLOB if is_http(url) else _GLOB
    return pattern.search(url) is not None


def literal_folder(url: str) -> str:
    """The folder of a pattern before its first wildcard, without a trailing slash."""
    return _GLOB.split(url, maxsplit=1)[0].rpartition("/")[0]


def glob_can_match(pattern: str, path: Sequence[Sequence[str]]) -> bool:
    """Whether a glob pattern matches some path; `**` alone between slashes matches any folders.

    Args:
        pattern: a local path or a URL.
        path: its parts between slashes; of each, the characters that may stand at every place, such
            as "a", "0123456789" for a letter and any digit.
    """
    return _parts_can_match(pattern.split("/"), path)


def _parts_can_match(patterns: Sequence[str], path: Sequence[Sequence[str]]) -> bool:
    if not patterns:
        return not path
    first, rest = patterns[0], patterns[1:]
    if first == "**":
        if not rest:
            return bool(path)
        return any(_parts_can_match(rest, path[skip:]) for skip in range(len(path) + 1))
    return bool(path) and _part_can_match(first, path[0]) and _parts_can_match(rest, path[1:])


def _part_can_match(pattern: str, part: Sequence[str]) -> bool:
    """Whether a pattern without slashes matches, or is the very name, as `[v2]` may be."""
    places = {0}
    for one in re.findall(r"(?s)\[!?\]?[^\]]*\]|.", pattern):
        if one == "*":
            places = set(range(min(places, default=len(part) + 1), len(part) + 1))
        else:
            known = (place for place in places if place < len(part))
            places = {place + 1 for place in known if any(fnmatchcase(c, one) for c in part[place])}
    return len(part) in places or list(pattern) == list(part)


def public(url: str) -> str:
    """The URL without user, password and query, safe to show."""
    if len(links := links_of(url)) > 1:
        return "::".join(map(public, links))
    protocol, separator, rest = url.partition("://")
    if not separator:
        return url
    place, slash, path = rest.partition("/")
    if is_http(url) or "=" in path.rpartition("?")[2]:
        place, path = place.partition("?")[0], path.partition("?")[0]
    return f"{protocol}://{place.rpartition('@')[2]}{slash}{path}"


def require_inside(path: str, url: str) -> str:
    """Return a relative path unchanged, after checking that it stays below a folder.

    Raises:
        StoreError: the path is empty or absolute, or contains `..` or a null byte.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise StoreError(f"{public(url)}: {path!r} is not a path inside this folder")
    return path
