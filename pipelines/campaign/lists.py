"""The lists of words of a campaign: finds their files, and looks them up by name or pattern.

A list is named after its file, without the suffix, with `/` between folders: `colours/warm` for
`colours/warm.txt`. In YAML and JSON the keys give the names, below the file's folder.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.campaign.list_files import SUFFIXES, EntryPlaces, FileList, read_lists
from nightpress.pipelines.campaign.syntax import SPECIAL
from nightpress.pipelines.errors import ManifestError, Problem, StoreMissing
from nightpress.pipelines.hashing import hash64
from nightpress.pipelines.storage import (
    READ_THREADS,
    Options,
    Source,
    contents,
    find,
    open_source,
)
from nightpress.pipelines.storage.urls import absolute, public

NAME = re.compile(r"(?!.*__)(?!_)[\w-][\w./ +&'()-]*(?<![/ ])")
"""A name that `__name__` can refer to."""

MOST_NEAR_NAMES = 3


@dataclass(frozen=True)
class WordList:
    """A list of words."""

    name: str
    """Such as `colours/warm`."""
    file: str
    """The URL of its file."""
    entries: pa.StringArray
    """(n,) The entries, without their weights."""
    weights: tuple[str, ...] | None
    """(n,) The weight of each entry as it is written, such as `2` or `0.5`, and `1` where none is;
    None if no entry has one."""
    places: EntryPlaces
    """(n,) Where each entry begins in the file."""

    def problem(self, number: int, message: str, offset: int = 0) -> Problem:
        """A problem with an entry, at an offset in its text."""
        return Problem(self.file, None, None, message, *self.places.of(number, offset))

    @cached_property
    def maybe_templates(self) -> list[int]:
        """The entries that may be more than text, by number."""
        is_special = pc.match_substring_regex(self.entries, SPECIAL)
        numbers: list[int] = np.flatnonzero(np.array(is_special)).tolist()
        return numbers

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the entries and their weights, hexadecimal; comments do not count."""
        content = hashlib.sha256(hash64(self.entries, 0).tobytes())
        content.update("\0".join(self.weights or ()).encode())
        return content.hexdigest()

    def require_entries(self) -> None:
        """Refuse a list without entries; it may lie there as long as nothing uses it.

        Raises:
            ManifestError: it has none.
        """
        if not len(self.entries):
            message = f"the list {self.name} has no entries"
            raise ManifestError([Problem(self.file, None, None, message)])


@dataclass(frozen=True)
class ListFile:
    """A file that lists were read from, as it was read."""

    url: str
    version: str
    """Changes when the content does; empty if the store reports nothing of the kind."""
    num_bytes: int
    sha256: str
    """In hexadecimal."""


@dataclass(frozen=True)
class Skipped:
    """A file, or a list in it, that cannot be used; and why."""

    file: str
    reason: str

    def __str__(self) -> str:
        """`colours.csv: not one of .txt .yaml .yml .json`."""
        return f"{public(self.file)}: {self.reason}"


@dataclass(frozen=True)
class WordLists:
    """All lists of a campaign."""

    by_name: Mapping[str, WordList]
    files: tuple[ListFile, ...]
    """Every file that was read, sorted by URL."""
    skipped: tuple[Skipped, ...] = field(default=())
    """What lies among the lists and is no list. Hidden files, whose names begin with a point, are
    passed over without a word."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of all lists, sorted."""
        return tuple(sorted(self.by_name))

    def find(self, pattern: str) -> tuple[WordList, ...]:
        """The lists of a name or a pattern, sorted by name; none if there is none.

        `*` stands for any characters but `/`, `**` for any at all, and `?` for one that is not `/`.
        Upper and lower case differ.
        """
        if not is_pattern(pattern):
            return (self.by_name[pattern],) if pattern in self.by_name else ()
        matches = pattern_regex(pattern).fullmatch
        return tuple(self.by_name[name] for name in self.names if matches(name))

    def near(self, name: str) -> tuple[str, ...]:
        """The names that were perhaps meant, the likeliest first.

        They differ in upper and lower case, lie in another folder, or are spelled a little
        differently.
        """
        folded = name.casefold()
        same = [each for each in self.names if each.casefold() == folded]
        last = folded.rpartition("/")[2]
        elsewhere = [each for each in self.names if each.casefold().rpartition("/")[2] == last]
        spelled = {each.casefold(): each for each in self.names}
        close = [spelled[each] for each in get_close_matches(folded, spelled, MOST_NEAR_NAMES)]
        return tuple(dict.fromkeys([*same, *elsewhere, *close]))[:MOST_NEAR_NAMES]


def load_lists(urls: str | Sequence[str], options: Options | None = None) -> WordLists:
    """Read all lists below some folders.

    Args:
        urls: folders; a file of lists, or a pattern of such files, also serves.
        options: fsspec options by protocol.

    Raises:
        ManifestError: a file cannot be read as lists, two lists have one name, or there is none.
        StoreMissing: a URL names nothing.
        StoreError: the store refuses or fails.
    """
    given = [urls] if isinstance(urls, str) else list(urls)
    sources: dict[str, tuple[Source, str]] = {}
    skipped: dict[str, Skipped] = {}
    for url in given:
        for source, path in list_sources(url, options):
            if path.lower().endswith(SUFFIXES):
                sources.setdefault(source.url, (source, path))
            else:
                skipped[source.url] = Skipped(source.url, f"not one of {' '.join(SUFFIXES)}")
    read = _read_all([*sources.values()], options)
    by_name, unusable = _named(read)
    if not by_name:
        where = " ".join(public(absolute(url)) for url in given)
        message = f"there is no list here; lists are {' '.join(SUFFIXES)} files"
        raise ManifestError([Problem(where, None, None, message)])
    files = tuple(sorted((each.file for each in read), key=lambda file: file.url))
    return WordLists(by_name, files, (*skipped.values(), *unusable))


def list_sources(url: str, options: Options | None = None) -> list[tuple[Source, str]]:
    """The files that a URL names, each with its path below the folder, without hidden files.

    Raises:
        StoreMissing: the URL names nothing.
        StoreError: the store refuses or fails.
    """
    if url.lower().endswith(SUFFIXES) or "*" in url:
        found = find([url], options, SUFFIXES)
    else:
        try:
            found = contents(url, options)
        except StoreMissing as error:
            message = f"{public(absolute(url))}: there is no such folder of lists, or it is empty"
            raise StoreMissing(message) from error
    base = absolute(url)
    folder = base if any(each.url.startswith(f"{base}/") for each in found) else _folder_of(base)
    paths = [(source, source.url.removeprefix(folder).lstrip("/")) for source in found]
    return [each for each in paths if not any(part[:1] == "." for part in each[1].split("/"))]


def pattern_regex(pattern: str) -> re.Pattern[str]:
    """What matches the names that a pattern with `*`, `**` and `?` means."""
    meaning = {"*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*+|\?)", pattern)
    regex = (meaning.get(each, ".*" if each[:1] == "*" else re.escape(each)) for each in parts)
    return re.compile("".join(regex), re.DOTALL)


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern."""
    return "*" in name or "?" in name


def _folder_of(url: str) -> str:
    """The folder of a file, or of a pattern before its first wildcard."""
    return url.partition("*")[0].rpartition("/")[0]


@dataclass(frozen=True)
class _ReadFile:
    file: ListFile
    path: str
    lists: list[FileList]


def _read_all(sources: Sequence[tuple[Source, str]], options: Options | None) -> list[_ReadFile]:
    """Read every file, and report the problems of all of them together."""

    def read(each: tuple[Source, str]) -> _ReadFile | ManifestError:
        source, path = each
        with open_source(source.url, options) as stream:
            data = stream.read()
        digest = hashlib.sha256(data).hexdigest()
        file = ListFile(source.url, source.version, len(data), digest)
        try:
            return _ReadFile(file, path, read_lists(source.url, data))
        except ManifestError as error:
            return error

    with ThreadPoolExecutor(READ_THREADS) as pool:
        results = list(pool.map(read, sources))
    errors = [each for each in results if isinstance(each, ManifestError)]
    if errors:
        problems = [problem for error in errors for problem in error.problems]
        raise ManifestError(problems, sum(error.total for error in errors))
    return [each for each in results if isinstance(each, _ReadFile)]


def _named(files: Iterable[_ReadFile]) -> tuple[dict[str, WordList], list[Skipped]]:
    """All lists by their names, and those whose names no template can have."""
    by_name: dict[str, WordList] = {}
    unusable: list[Skipped] = []
    problems: list[Problem] = []
    for read in files:
        for each in read.lists:
            url, name = read.file.url, name_of(read.path, each.keys)
            if not NAME.fullmatch(name):
                unusable.append(Skipped(url, _about_name(name)))
            elif name in by_name:
                other = by_name[name].file
                where = "in this file too" if other == url else f"in {public(other)} too"
                message = f"the list {name} is {where}; give one of the two another name"
                problems.append(Problem(url, None, None, message))
            else:
                by_name[name] = WordList(name, url, each.entries, each.weights, each.places)
    if problems:
        raise ManifestError(problems)
    return by_name, unusable


def name_of(path: str, keys: Sequence[str]) -> str:
    """The name of a list in a file at this path below the folder."""
    folder, _, file = path.rpartition("/")
    below = keys or [file.rpartition(".")[0]]
    return "/".join([folder, *below] if folder else below)


def _about_name(name: str) -> str:
    return (
        f"the list {name!r} cannot be used: a name has letters, digits, blanks and . / - + & ' ( ) "
        "_, not __, and begins with a letter or digit"
    )
