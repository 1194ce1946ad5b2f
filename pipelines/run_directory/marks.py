"""`review/marks/`: what reviewers said about the images of a run, in objects that are created once.

An object `review/marks/<reviewer>/<session>-<n>.json` holds the marks that one page has sent
together. The names of sessions are random, so that no two writers want the same name: this holds
offline, and on stores without conditional writes. `marks_merge` says which mark counts.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self, cast

from nightpress.pipelines.errors import MarksError
from nightpress.pipelines.run_directory.json_files import what_is_wrong
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.storage import READ_THREADS, Store

MARKS_FOLDER = "review/marks"

FORMAT_VERSION = 1
"""Format of an object with marks. It changes when older versions could not read it."""

MarkField = Literal["flag", "stars", "colour", "comment"]

FIELDS: tuple[MarkField, ...] = ("flag", "stars", "colour", "comment")
FLAGS = ("pick", "reject", "")
COLOURS = ("red", "yellow", "green", "blue", "purple", "")
MAX_STARS = 5
MAX_COMMENT_CHARS = 2_000
MAX_COUNTER = 2**53 - 1
"""The largest integer that JavaScript has exactly."""

MAX_MARKS = 2_000
"""Marks of one object, at most."""

MAX_IMAGE_ID_CHARS = 1_000

READ_AHEAD = 4 * READ_THREADS

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SESSION = re.compile(r"[A-Za-z0-9-]{1,64}")
_REVIEWER = re.compile(r"[\w@-](?:[\w.@ -]{0,62}[\w@-])?")
_PATH = re.compile(rf"{MARKS_FOLDER}/([^/]+)/({_SESSION.pattern})-(\d{{1,9}})\.json")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")

_KEYS = ("image_id", "sha256", "field", "value", "counter")


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing that a reviewer said about one image."""

    image_id: str
    sha256: str
    """SHA-256 of the image file when it was marked."""
    field: MarkField
    value: str | int
    """`stars` has 0 to 5, the others have text; 0 and an empty text take an earlier mark back."""
    counter: int
    """One more than the highest counter that its page had seen: a Lamport clock."""

    @classmethod
    def from_dict(cls, values: object, where: str) -> Self:
        """Check a mark that comes from outside.

        Args:
            values: a mapping of exactly its five keys.
            where: what a message begins with, such as `mark 3`.

        Raises:
            MarksError: it is not a mark; the message says what is allowed.
        """
        if not isinstance(values, dict) or set(values) != set(_KEYS):
            raise MarksError(f"{where}: a mark has exactly the keys {', '.join(_KEYS)}")
        image_id, sha256, name, value, counter = (values[key] for key in _KEYS)
        if not isinstance(image_id, str) or not 0 < len(image_id) <= MAX_IMAGE_ID_CHARS:
            raise MarksError(
                f"{where}: image_id: must be a text of 1 to {MAX_IMAGE_ID_CHARS:,} characters"
            )
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise MarksError(f"{where}: sha256: must be 64 hexadecimal digits in small letters")
        if type(counter) is not int or not 0 < counter <= MAX_COUNTER:
            raise MarksError(
                f"{where}: counter: must be a whole number from 1 to {MAX_COUNTER}, not {counter!r}"
            )
        return cls(image_id, sha256, *_checked(name, value, where), counter)


def _checked(name: object, value: object, where: str) -> tuple[MarkField, str | int]:
    """The field of a mark and its value."""
    match name:
        case "stars":
            if type(value) is not int or not 0 <= value <= MAX_STARS:
                raise MarksError(
                    f"{where}: stars: must be a whole number from 0 to {MAX_STARS}, "
                    f"not {_shown(value)}"
                )
            return name, value
        case "flag" | "colour":
            allowed = FLAGS if name == "flag" else COLOURS
            if value not in allowed or not isinstance(value, str):
                words = ", ".join(each or '"" (none)' for each in allowed)
                raise MarksError(f"{where}: {name}: must be one of {words}, not {_shown(value)}")
            return cast("MarkField", name), value
        case "comment":
            return name, checked_comment(value, where)
        case _:
            raise MarksError(
                f"{where}: field: must be one of {', '.join(FIELDS)}, not {_shown(name)}"
            )


def checked_comment(value: object, where: str) -> str:
    """The text of a comment, if it is one.

    Raises:
        MarksError: it is too long, or has characters that no text needs.
    """
    if not isinstance(value, str):
        raise MarksError(f"{where}: comment: must be a text, not {_shown(value)}")
    if len(value) > MAX_COMMENT_CHARS:
        raise MarksError(
            f"{where}: comment: has {len(value):,} characters; at most {MAX_COMMENT_CHARS:,} are "
            "allowed"
        )
    if found := _CONTROL.search(value):
        raise MarksError(f"{where}: comment: the character {found.group()!a} is not allowed")
    return value


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def checked_reviewer(name: str) -> str:
    """A reviewer's name in the form in which it is stored.

    Raises:
        MarksError: no reviewer can have that name.
    """
    normal = unicodedata.normalize("NFC", name)
    if not _REVIEWER.fullmatch(normal):
        raise MarksError(
            f"reviewer {_shown(name)}: a reviewer's name has 1 to 64 letters and digits, with "
            ". _ @ - and spaces between them"
        )
    return normal


def checked_session(session: object) -> str:
    """The name of a session, if it can be one.

    Raises:
        MarksError: it cannot.
    """
    if not isinstance(session, str) or not _SESSION.fullmatch(session):
        raise MarksError(
            f"session: must be 1 to 64 letters of a to z, digits and hyphens, not {_shown(session)}"
        )
    return session


def checked_marks(values: object, where: str = "marks") -> tuple[Mark, ...]:
    """Check the marks that were sent together.

    Raises:
        MarksError: they are no list, none or too many, or one of them is not a mark.
    """
    if not isinstance(values, list) or not 0 < len(values) <= MAX_MARKS:
        raise MarksError(f"{where}: must be a list of 1 to {MAX_MARKS:,} marks")
    return tuple(Mark.from_dict(each, f"mark {n}") for n, each in enumerate(values, start=1))


@dataclass(frozen=True)
class MarksObject:
    """The marks of one object, and who made them."""

    run: str
    """Fingerprint of the run at its start; see `RunRecord.fingerprint_at_first`."""
    reviewer: str
    session: str
    n: int
    """The number of the object in its session, from 0."""
    marks: tuple[Mark, ...]
    created_at: str = ""
    """UTC, ISO 8601, by the clock of who stored it; it decides nothing."""

    @property
    def path(self) -> str:
        """`review/marks/anna/20270115T080000-1f0c2b7a-12.json`."""
        return f"{MARKS_FOLDER}/{self.reviewer}/{self.session}-{self.n}.json"

    def to_json(self) -> bytes:
        """As it is stored."""
        values = {
            "format_version": FORMAT_VERSION,
            "run": self.run,
            "reviewer": self.reviewer,
            "session": self.session,
            "n": self.n,
            "created_at": self.created_at or datetime.now(UTC).isoformat(timespec="seconds"),
            "marks": [asdict(mark) for mark in self.marks],
        }
        return (json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n").encode()

    @classmethod
    def from_json(cls, path: str, data: bytes, run: str) -> Self:
        """The inverse of `to_json`.

        Args:
            path: where it lies, relative to the run.
            data: its bytes.
            run: the fingerprint of the run that it must be of.

        Raises:
            MarksError: it is damaged, of another run, or not an object with marks.
        """
        named = _PATH.fullmatch(path)
        if named is None:
            raise MarksError(f"its name is not {MARKS_FOLDER}/<reviewer>/<session>-<n>.json")
        values = parsed_json(data)
        try:
            version, found = values["format_version"], values["run"]
            says = values["reviewer"], values["session"], values["n"]
        except (KeyError, TypeError) as error:
            raise MarksError(f"not an object with marks: {what_is_wrong(error)}") from error
        if version != FORMAT_VERSION:
            raise MarksError(
                f"it has format {_shown(version)}; this nightpress reads format {FORMAT_VERSION}"
            )
        require_same_run(found, run)
        reviewer, session, n = checked_reviewer(named[1]), named[2], int(named[3])
        if says != (reviewer, session, n):
            raise MarksError("its name and its content differ in reviewer, session or number")
        marks = checked_marks(values.get("marks"))
        return cls(run, reviewer, session, n, marks, str(values.get("created_at", "")))


def parsed_json(data: bytes) -> Mapping[str, Any]:
    """A JSON object as a mapping.

    Raises:
        MarksError: it is not one.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MarksError(f"not JSON: {what_is_wrong(error)}") from error
    if not isinstance(values, dict):
        raise MarksError("not a JSON object")
    return values


def require_same_run(found: object, run: str) -> None:
    """Refuse marks of another run.

    Raises:
        MarksError: they are, or do not say which run they are of.
    """
    if not isinstance(found, str):
        raise MarksError(f"run: must be the fingerprint of the run, not {_shown(found)}")
    if found != run:
        raise MarksError(
            f"these are marks of another run (fingerprint {found[:12]}, and this run's is "
            f"{run[:12]})"
        )


def store_marks(store: Store, marks: MarksObject) -> bool:
    """Store an object with marks; returns whether its name was free, or has these marks already.

    Where a store ignores `If-None-Match`, pass a store that reads back what it writes.

    Raises:
        StoreError: the store failed; the same call may be made again.
    """
    if store.create(marks.path, marks.to_json()):
        return True
    try:
        found = MarksObject.from_json(marks.path, store.read(marks.path), marks.run)
    except MarksError:
        return False
    return found.marks == marks.marks


def read_objects(
    store: Store, run: str, paths: Sequence[str]
) -> Iterator[tuple[str, MarksObject | MarksError]]:
    """Read objects in parallel; yields each path with its marks, or with what is wrong with it.

    An object that has gone since it was listed is left out.
    """

    def read(path: str) -> MarksObject | MarksError | None:
        data = store.read_if_any(path)
        if data is None:
            return None
        try:
            return MarksObject.from_json(path, data, run)
        except MarksError as error:
            return error

    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = map_ahead(pool, read, paths, READ_AHEAD)
        for path, each in zip(paths, found, strict=True):
            if each is not None:
                yield path, each
