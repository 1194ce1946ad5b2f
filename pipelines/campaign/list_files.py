"""Reads the entries of lists out of a file: plain text, YAML or JSON."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.campaign.value_tree import (
    BadTree,
    Items,
    Mapping,
    Place,
    Text,
    Value,
    parse_json,
    parse_yaml,
)
from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.job.characters import not_text
from nightpress.pipelines.job.text_bytes import (
    BYTE_ORDER_MARK,
    BadText,
    NotText,
    check_characters,
    check_line_ends,
    has_control_characters,
    kind_of,
)

SUFFIXES = (".txt", ".yaml", ".yml", ".json")
"""The formats of lists."""

MAX_FILE_BYTES = 256 << 20
"""The largest file that is read."""

BLOCK_BYTES = 1 << 20
"""How much of a text is split into lines at once, which bounds the memory that this takes."""

NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
"""A weight: a decimal number without a sign or an exponent."""

_WEIGHT = rf"^{NUMBER}[ \t]*::"
_LIKE_A_WEIGHT = r"^[-+]?[0-9.,]*[0-9][0-9.,]*(?:[eE][-+]?[0-9]+)?%?[ \t]*::"
_JSON_WORDS = ("null", "true", "false")


@dataclass(frozen=True)
class EntryPlaces:
    """Where the entries of a list begin in their file; lines and characters count from 1."""

    lines: npt.NDArray[np.int64]
    """(n,)"""
    characters: npt.NDArray[np.int64]
    """(n,) The first character of each entry, after its weight."""
    is_verbatim: bool
    """Whether each entry is on one line as it is, so that its characters can be counted; YAML and
    JSON may have rewritten it."""

    def of(self, number: int, offset: int = 0) -> Place:
        """The place of an entry, or of a character in it if the entry is verbatim."""
        character = int(self.characters[number]) + (offset if self.is_verbatim else 0)
        return Place(int(self.lines[number]), character)

    def moved(self, characters: npt.NDArray[np.int64]) -> "EntryPlaces":
        """The places so many characters further; (n,)."""
        if not self.is_verbatim:
            return self
        return replace(self, characters=self.characters + characters)

    @classmethod
    def joined(cls, blocks: Sequence["EntryPlaces"]) -> "EntryPlaces":
        """The places of consecutive blocks of one file; at least one block."""
        lines = np.concatenate([block.lines for block in blocks])
        characters = np.concatenate([block.characters for block in blocks])
        return cls(lines, characters, blocks[0].is_verbatim)


@dataclass(frozen=True)
class FileList:
    """One list of a file."""

    keys: tuple[str, ...]
    """The keys that lead to it; none if the file is a list itself, which then gives the name."""
    entries: pa.StringArray
    """(n,) The entries without their weights and without blanks at their ends."""
    weights: tuple[str, ...] | None
    """(n,) The weight of each entry as it is written, `1` where there is none; None if none has."""
    places: EntryPlaces
    """(n,)"""


def read_lists(url: str, data: bytes) -> list[FileList]:
    """The lists in a file, in its order.

    Args:
        url: where the file is; its suffix is its format.
        data: its bytes.

    Raises:
        ManifestError: the file is not text in UTF-8, not what its suffix says, or an entry is no
            text or has a malformed weight.
    """
    data = checked_text(url, data)
    if url.lower().endswith(".txt"):
        return [_list_of_lines(url, data)]
    try:
        parse = parse_json if url.lower().endswith(".json") else parse_yaml
        tree = parse(data.decode())
        return [_list_of(url, keys, items) for keys, items in _lists(tree, ())]
    except BadTree as error:
        raise file_error(url, error.message, error.place) from error


def checked_text(url: str, data: bytes) -> bytes:
    """The bytes of a file, which are text, without a byte order mark.

    Raises:
        ManifestError: it is not UTF-8, has control characters, or lines that end in CR alone.
    """
    if len(data) > MAX_FILE_BYTES:
        raise file_error(
            url, f"it is larger than {MAX_FILE_BYTES >> 20} MiB, the most that is read"
        )
    data = data.removeprefix(BYTE_ORDER_MARK)
    try:
        check_characters(data)
        check_line_ends(data)
    except BadText as error:
        kind = kind_of(data[:16]) if isinstance(error, NotText) else None
        if kind is None:
            raise file_error(url, error.message, place_of(data, error.offset)) from error
        raise file_error(url, f"it is {kind}; save the list as text in UTF-8") from error
    return data


def place_of(data: bytes, offset: int) -> Place:
    """The line and character at an offset in bytes."""
    start = data.rfind(b"\n", 0, offset) + 1
    characters = data[start:offset].decode("utf-8", "replace")
    return Place(data.count(b"\n", 0, offset) + 1, len(characters) + 1)


def file_error(url: str, message: str, place: Place | None = None) -> ManifestError:
    """The error for one problem of a file."""
    return ManifestError([Problem(url, None, None, message, *(place or ()))])


def _list_of_lines(url: str, data: bytes) -> FileList:
    """Every line that is neither empty nor a comment, in blocks, which bounds the memory."""
    blocks: list[FileList] = []
    problems: list[Problem] = []
    start = num_lines = 0
    while start < len(data):
        end = data.find(b"\n", start + BLOCK_BYTES) + 1 or len(data)
        lines = _lines_of(data[start:end].removesuffix(b"\n"))
        texts = pc.utf8_trim_whitespace(lines)
        is_entry = pc.invert(pc.or_(pc.equal(texts, ""), pc.starts_with(texts, "#")))
        numbers = np.flatnonzero(is_entry.to_numpy(zero_copy_only=False)) + num_lines + 1
        entries = texts.filter(is_entry)
        indents = _removed(lines.filter(is_entry), pc.utf8_ltrim_whitespace)
        places = EntryPlaces(numbers, indents + 1, is_verbatim=True)
        blocks.append(_weighted(url, (), entries, places, problems))
        start, num_lines = end, num_lines + len(lines)
    if problems:
        raise ManifestError(problems)
    return _joined(blocks)


def _joined(blocks: Sequence[FileList]) -> FileList:
    """The blocks of one file as one list."""
    if not blocks:
        none = np.empty(0, np.int64)
        nowhere = EntryPlaces(none, none, is_verbatim=True)
        return FileList((), pa.array([], pa.string()), None, nowhere)
    entries = pa.concat_arrays([block.entries for block in blocks])
    places = EntryPlaces.joined([block.places for block in blocks])
    if all(block.weights is None for block in blocks):
        return FileList((), entries, None, places)
    weights = (block.weights or ("1",) * len(block.entries) for block in blocks)
    return FileList((), entries, tuple(chain.from_iterable(weights)), places)


def _removed(
    texts: pa.StringArray, trim: Callable[[pa.StringArray], pa.StringArray]
) -> npt.NDArray[np.int64]:
    """How many characters a function takes off each text; (n,)."""
    number = pc.subtract(pc.utf8_length(texts), pc.utf8_length(trim(texts)))
    return np.array(number, np.int64)


def _lines_of(data: bytes) -> pa.StringArray:
    """The lines of a text in UTF-8."""
    ends = pa.py_buffer(np.array([0, len(data)], np.int32))
    text = pa.StringArray.from_buffers(1, ends, pa.py_buffer(data))
    return pc.list_flatten(pc.split_pattern(text, "\n"))


def _lists(value: Value | None, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Items]]:
    """Every list in a tree, with the keys that lead to it."""
    match value:
        case None:
            return
        case Items():
            yield keys, value
        case Mapping():
            for key, inner in value.values.values():
                yield from _lists(inner, (*keys, _name_part(key)))
        case Text() if not keys:
            raise BadTree(value.place, "a list, or a mapping of names to lists, should stand here")
        case Text() if not value.is_quoted and value.text in ("", "null", "~"):
            yield keys, Items([], value.place)
        case Text():
            yield keys, Items([value], value.place)


def _name_part(key: Text) -> str:
    name = key.text.strip()
    if not name:
        raise BadTree(key.place, "a list has no name: its key is empty")
    return name


def _list_of(url: str, keys: tuple[str, ...], items: Items) -> FileList:
    is_json = url.lower().endswith(".json")
    texts = [_entry(value, is_json) for value in items.values]
    starts = np.array([value.place for value in items.values], np.int64).reshape(-1, 2)
    places = EntryPlaces(starts[:, 0], starts[:, 1], is_verbatim=False)
    try:
        entries = pa.array(texts, pa.string())
    except UnicodeEncodeError as error:  # half a character
        raise _first_bad_character(items) or error from error
    if has_control_characters(entries) and (bad := _first_bad_character(items)):
        raise bad
    problems: list[Problem] = []
    found = _weighted(url, keys, pc.utf8_trim_whitespace(entries), places, problems)
    if problems:
        raise ManifestError(problems)
    return found


def _entry(value: Value, is_json: bool) -> str:
    if not isinstance(value, Text):
        kind = "a mapping" if isinstance(value, Mapping) else "a list"
        raise BadTree(
            value.place, f"an entry is {kind}, not text; text with ': ' in it needs quotes"
        )
    if value.is_quoted:
        return value.text
    if not value.text:
        raise BadTree(value.place, 'an entry is empty; write "" for an empty text')
    if is_json and value.text in _JSON_WORDS:
        raise BadTree(value.place, f"an entry is {value.text}, not text; write it in quotes")
    return value.text


def _first_bad_character(items: Items) -> BadTree | None:
    texts = (value for value in items.values if isinstance(value, Text))
    found = ((value.place, not_text(value.text)) for value in texts)
    return next(
        (BadTree(place, f"it has {wrong}, which is not text") for place, wrong in found if wrong),
        None,
    )


def _weighted(
    url: str,
    keys: tuple[str, ...],
    entries: pa.StringArray,
    places: EntryPlaces,
    problems: list[Problem],
) -> FileList:
    """Take the weights off entries that begin with one; malformed weights join the problems."""
    if not pc.match_substring(entries, "::").true_count:
        return FileList(keys, entries, None, places)
    like_a_weight = pc.match_substring_regex(entries, _LIKE_A_WEIGHT)
    has_weight = pc.match_substring_regex(entries, _WEIGHT)
    malformed = pc.and_not(like_a_weight, has_weight).to_numpy(zero_copy_only=False)
    for number in np.flatnonzero(malformed).tolist():
        written = entries[number].as_py().partition("::")[0]
        message = f"the weight {written!r} is not a decimal number such as 2 or 0.5"
        problems.append(Problem(url, None, None, message, *places.of(number)))
    if not has_weight.true_count:
        return FileList(keys, entries, None, places)
    split = pc.list_flatten(pc.split_pattern(entries.filter(has_weight), "::", max_splits=1))
    numbers = pc.dictionary_encode(pc.utf8_trim_whitespace(split[::2]))
    codes = np.zeros(len(entries), np.int64)
    codes[has_weight.to_numpy(zero_copy_only=False)] = numbers.indices.to_numpy() + 1
    weights = np.array(["1", *numbers.dictionary.to_pylist()], object)[codes]
    texts = pc.replace_with_mask(entries, has_weight, pc.utf8_ltrim_whitespace(split[1::2]))
    prefixes = _removed(entries, lambda _: texts)
    return FileList(keys, texts, tuple(weights.tolist()), places.moved(prefixes))
