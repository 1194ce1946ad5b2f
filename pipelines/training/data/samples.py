"""What the readers of tars, Parquet files and folders have in common.

A reader says which pictures there are; loading them is left to the caller's threads.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.storage import Options, open_source
from nightpress.pipelines.training.data.pictures import MAX_BYTES, BadPicture

Captions = tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """A picture's file and its captions."""

    data: bytes
    captions: Captions


@dataclass(frozen=True)
class Candidate:
    """A picture that somebody named; `load` raises BadPicture if it cannot be had."""

    name: str
    load: Callable[[], Sample]


class Reader(Protocol):
    """One source of one kind."""

    def no_captions(self) -> str:
        """Why there are no captions, in a line; empty as long as there may be some."""
        ...

    def candidates(self) -> Iterator[Candidate]:
        """Every picture, in an order that depends on nothing but the content."""
        ...


def as_captions(value: Any) -> Captions:
    """Captions of a text or a list of texts, without those that are empty.

    Raises:
        BadPicture: it is neither.
    """
    values = value if isinstance(value, list) else [value]
    texts = [text for text in values if text is not None]
    odd = next((text for text in texts if not isinstance(text, str)), None)
    if odd is not None:
        raise BadPicture(f"its caption is {odd!r:.60}, neither a text nor a list of texts")
    if not all(map(_is_unicode, texts)):
        raise BadPicture("its caption has half of a character: a lone surrogate, such as \\ud800")
    return tuple(stripped for text in texts if (stripped := text.strip()))


def _is_unicode(text: str) -> bool:
    """JSON can escape what UTF-8 cannot say."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def decoded(data: bytes) -> str:
    """UTF-8 text.

    Raises:
        BadPicture: it is not.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadPicture("its caption is not UTF-8 text") from error


def fetch(url: str, options: Options) -> bytes:
    """The bytes of a picture or a caption.

    Raises:
        BadPicture: it is not there, or too large.
        StoreError: the store refuses or fails.
    """
    try:
        with open_source(url, options) as stream:
            data = stream.read(MAX_BYTES + 1)
    except StoreMissing as error:
        raise BadPicture("not there") from error
    if len(data) > MAX_BYTES:
        raise BadPicture(f"larger than {MAX_BYTES:,} bytes")
    return data
