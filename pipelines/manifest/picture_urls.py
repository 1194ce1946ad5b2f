"""Refuse URLs and paths of pictures that cannot be read, or that could mean another file elsewhere.

All texts of a column are looked at together, and singly only those that look unusual.
"""

import re
from collections.abc import Callable, Collection, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.job.characters import not_text
from nightpress.pipelines.job.credentials import SIGNED_QUERY, has_credentials
from nightpress.pipelines.job.text_bytes import CONTROL_CHARACTERS, has_control_characters
from nightpress.pipelines.manifest.row_problems import Mask
from nightpress.pipelines.storage import is_known_protocol, is_url
from nightpress.pipelines.storage.urls import protocol_of, public

MAX_PROTOCOLS = 16
"""How many spellings of protocols are looked at in whole columns; URLs with others singly."""

_PROTOCOL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_RUN_IMAGE = re.compile(r"run://(?:[^/]+|/.+|[a-z0-9]+://.+)/.", re.IGNORECASE)
_SIGNED = f"://[^/?#]*@|[?&]{SIGNED_QUERY.pattern.removeprefix('(^|&)')}"
_DOTS = r"(?:^|/)\.\.(?:/|$)"

Refuse = Callable[[Mask, Callable[[int], str]], None]
"""Takes (k,) bool, and a function from an index to what is wrong there."""


def refuse_unusable(urls: pa.Array, refuse: Refuse) -> None:
    """Refuse each text that is no usable URL or path.

    Args:
        urls: (k,) string, null where there is none.
        refuse: receives what is wrong.
    """
    if has_control_characters(urls):
        found = _where(pc.match_substring_regex(urls, CONTROL_CHARACTERS))
        refuse(found, lambda index: f"it has {not_text(urls[index].as_py())}, which is not text")
    problems = {index: url_problem(urls[index].as_py()) for index in _unusual(urls)}
    wrong = {index: problem for index, problem in problems.items() if problem is not None}
    refuse(_at(wrong, len(urls)), lambda index: wrong[index])
    refuse(
        _at(_secret(urls), len(urls)),
        lambda index: (
            f"the URL {public(urls[index].as_py())} contains credentials, but the metadata of "
            "every image names its pictures; credentials come from the environment "
            "(AWS_ACCESS_KEY_ID, ...), a profile or the machine's role"
        ),
    )
    refuse(
        _at(_leaving(urls), len(urls)),
        lambda index: (
            f"{urls[index].as_py()!r} could leave inputs.root by its '..'; write a path below the "
            "root, an absolute path or a URL"
        ),
    )


def url_problem(text: str) -> str | None:
    """Why a text cannot name a picture, judged by its protocol; None if it can."""
    if text.startswith("data:"):
        return "data: URLs are not read; give the bytes in a column of a Parquet file"
    if not is_url(text):
        return None
    protocol, rest = protocol_of(text), text.partition("://")[2]
    if protocol == "run":
        usable = _RUN_IMAGE.match(text)
        return None if usable else f"{text!r} is not of the form run://NAME/IMAGE_ID"
    if protocol in ("file", "local"):
        return None if rest.startswith("/") else f"{text!r} is not an absolute path"
    if "://" not in text.partition("::")[0] or not is_known_protocol(protocol):
        return (
            f"{public(text)!r} has no protocol that pictures can be read by, such as s3://, "
            "https:// or file://"
        )
    return None


def _unusual(urls: pa.Array) -> Iterator[int]:
    """The texts that `url_problem` must look at."""
    left = _where(pc.match_substring(urls, "://"))
    odd = _where(pc.starts_with(urls, "data:")) | _where(pc.match_substring(urls, "::"))
    for _ in range(MAX_PROTOCOLS):
        match = _PROTOCOL.match(urls[int(np.argmax(left))].as_py()) if left.any() else None
        if match is None:
            break
        alike = left & _where(pc.starts_with(urls, match.group()))
        protocol = protocol_of(match.group())
        if protocol in ("run", "file", "local") or not is_known_protocol(protocol):
            odd |= alike
        left &= ~alike
    yield from np.flatnonzero(left | odd).tolist()


def _secret(urls: pa.Array) -> list[int]:
    """The URLs with credentials."""
    if not (_any(pc.match_substring(urls, "@")) or _any(pc.match_substring(urls, "?"))):
        return []
    found = np.flatnonzero(_where(pc.match_substring_regex(urls, _SIGNED, ignore_case=True)))
    return [index for index in found.tolist() if _has_credentials(urls[index].as_py())]


def _has_credentials(url: str) -> bool:
    try:
        return has_credentials(url)
    except ValueError:  # such as an IPv6 address without its bracket
        return True


def _leaving(urls: pa.Array) -> list[int]:
    """The relative paths that go up."""
    if not _any(pc.match_substring(urls, "..")):
        return []
    found = np.flatnonzero(_where(pc.match_substring_regex(urls, _DOTS))).tolist()
    return [
        index
        for index in found
        if not is_url(urls[index].as_py()) and not urls[index].as_py().startswith("/")
    ]


def _at(indices: Collection[int], length: int) -> Mask:
    found: Mask = np.zeros(length, np.bool_)
    found[list(indices)] = True
    return found


def _any(flags: pa.Array) -> bool:
    return bool(pc.any(flags).as_py())


def _where(flags: pa.Array) -> Mask:
    return np.array(pc.fill_null(flags, False) if flags.null_count else flags)
