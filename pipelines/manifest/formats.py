"""The formats of manifest files by their names, and which files of a folder are one manifest."""

import os
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.manifest.types import repeated
from nightpress.pipelines.storage import Source
from nightpress.pipelines.storage.sources import COMPRESSIONS, SUFFIXES
from nightpress.pipelines.storage.urls import (
    absolute,
    has_glob,
    is_http,
    is_local,
    links_of,
    literal_folder,
    public,
)

_OTHERS = """about authors changelog changes cmakelists constraints contributing contributors
copying copyright credits disclaimer filelist index info install log manifest notes notice notices
requirements robots sources terms todo urls version"""
NO_PROMPTS = frozenset(_OTHERS.split())
"""Text files that usually are about other files. In a folder they are refused, unless named."""

NO_PROMPTS_WORDS = re.compile(r"read_?me|licen[cs]es?|checksums?|(sha|md5|crc|b2|b3)[0-9]*(sums?)?")
"""Words that say the same, anywhere in a name between separators."""


CAMPAIGN = "campaign"

CAMPAIGN_SUFFIXES = (".campaign.yaml", ".campaign.yml")
"""The names of campaigns; a folder of manifests holds none, so they are named one by one."""


def is_campaign(url: str) -> bool:
    """Whether a name is that of a campaign."""
    return _path_of(url).lower().endswith(CAMPAIGN_SUFFIXES)


def format_of(url: str) -> tuple[str, str | None] | None:
    """Format and compression by the suffixes of a name; None if it is not a manifest's name."""
    if is_campaign(url):
        return CAMPAIGN, None
    path = PurePosixPath(_path_of(url).lower())
    compression = COMPRESSIONS.get(path.suffix)
    if compression is not None:
        path = path.with_suffix("")
    known = SUFFIXES.get(path.suffix)
    if known is None or (known == "parquet" and compression is not None):
        return None
    return known, compression


def manifest_files(url: str, found: Sequence[Source]) -> list[Source]:
    """Those of the files that one URL of a job names that are manifests: files of one format.

    Files with other suffixes are skipped. A file that is named by itself may have any format.

    Args:
        url: a file, a folder or a pattern.
        found: the files that it names.

    Raises:
        ManifestError: none is a manifest, or it is not clear which of them are.
    """
    files = [source for source in found if format_of(source.url) is not None]
    if not files:
        suffixes = ", ".join((*SUFFIXES, CAMPAIGN_SUFFIXES[0]))
        message = (
            f"not a manifest file; its name must end in one of: {suffixes} "
            f"(text formats may also be compressed: {', '.join(COMPRESSIONS)})"
        )
        raise ManifestError([Problem(url, None, None, message)])
    if [source.url for source in files] != [absolute(url)]:
        for why in (_mixed(url, files), _twice(files), _linked(files), _about_others(url, files)):
            if why is not None:
                raise ManifestError([Problem(public(url), None, None, why)])
    return files


def _mixed(url: str, files: Sequence[Source]) -> str | None:
    """Why files of several formats cannot be one manifest; None if they have one."""
    by_format: dict[str, list[str]] = {}
    for source in files:
        by_format.setdefault(_format_name(source.url), []).append(_name(source.url))
    if len(by_format) == 1:
        return None
    counts = [
        f"{plural(len(names), f'{kind} file')} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for kind, names in by_format.items()
    ]
    example = next(source.url for source in files if _format_name(source.url) != "text")
    return (
        f"it holds {', '.join(counts[:-1])} and {counts[-1]}, but a folder or pattern must hold "
        f"one format; name the format, such as `manifest: {_pattern_for(url, example)}`"
    )


def _twice(files: Sequence[Source]) -> str | None:
    """Why the same list may be there twice; None if all names differ without their suffixes."""
    stems = [_stem(source.url) for source in files]
    twice = repeated(stems)
    if twice is None:
        return None
    names = [_name(s.url) for s, stem in zip(files, stems, strict=True) if stem == twice]
    return (
        f"{' and '.join(names)} look like the same list twice; name the files to read, or move one "
        "away"
    )


def _linked(files: Sequence[Source]) -> str | None:
    """Why a file is found twice, through a link to its folder; None if none is."""
    folders = {os.path.dirname(source.url) for source in files if is_local(source.url)}
    real = {folder: os.path.realpath(folder) for folder in folders}
    first: dict[str, str] = {}
    for source in files:
        folder, name = os.path.split(source.url)
        other = first.setdefault(f"{real.get(folder, folder)}/{name}", source.url)
        if other != source.url:
            return (
                f"{other} and {source.url} are the same file, in a folder that is also reached "
                "through a symbolic link; name the files to read, or move the link away"
            )
    return None


def _about_others(url: str, files: Sequence[Source]) -> str | None:
    """Why a text file is not taken for prompts; None if no name says that it holds none."""
    for source in files:
        name = _stem(_name(source.url)).lower()
        words = re.split(r"[\W_]+", name)
        is_about = name in NO_PROMPTS or any(map(NO_PROMPTS_WORDS.fullmatch, [name, *words]))
        if is_about and _format_name(source.url) == "text":
            return (
                f"{_name(source.url)} does not sound like prompts, one a line; name the files to "
                "read, or move it away"
            )
    return None


def _path_of(url: str) -> str:
    """The part of a URL that ends in the file's name; only web addresses have a query."""
    link = next((link for link in links_of(url) if "://" in link), url)
    return link.partition("?")[0] if is_http(link) else link


def _format_name(url: str) -> str:
    format_name, _ = format_of(url) or ("", None)
    return format_name


def _name(url: str) -> str:
    return public(url).rpartition("/")[2]


def _stem(url: str) -> str:
    """The URL without the suffixes of format and compression."""
    suffixes = _suffixes(url)
    return url[: -len(suffixes)] if suffixes else url


def _suffixes(url: str) -> str:
    path = PurePosixPath(_path_of(url))
    if path.suffix.lower() in COMPRESSIONS:
        return PurePosixPath(path.stem).suffix + path.suffix
    return path.suffix


def _pattern_for(url: str, example: str) -> str:
    """A pattern for the files like `example` in the folder or below it, as the job spells it."""
    folder = literal_folder(url) if has_glob(url) else url.rstrip("/")
    below = public(example).removeprefix(public(absolute(folder))).strip("/")
    nested = "**/" if "/" in below else ""
    return f"{public(folder) or '.'}/{nested}*{_suffixes(example)}"
