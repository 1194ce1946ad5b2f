"""What the readers of tars, Parquet files and image folders share.

A reader lists the images of its source; the caller's threads load them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from nightpress.pipelines.errors import StoreMissing
from nightpress.pipelines.storage import Options, open_source
from nightpress.pipelines.training.data.decoding import MAX_BYTES, BadImageError

Captions = tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """The bytes of an image file, and its captions."""

    data: bytes
    captions: Captions


@dataclass(frozen=True)
class CandidateSample:
    """An image listed by a source; `load` raises BadImageError if it cannot be read."""

    name: str
    load: Callable[[], Sample]


class SourceReader(Protocol):
    """Reads one source of one kind."""

    def missing_captions(self) -> str:
        """Why there are no captions, in one line; empty while there may be some."""
        ...

    def candidates(self) -> Iterator[CandidateSample]:
        """Every image, in an order that depends on the content alone."""
        ...


def parse_captions(value: Any) -> Captions:
    """The non-empty captions in a string or a list of strings, stripped.

    Raises:
        BadImageError: the value is neither.
    """
    values = value if isinstance(value, list) else [value]
    texts = [text for text in values if text is not None]
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if wrong is not None:
        raise BadImageError(f"its caption is {wrong!r:.60}, not a string or a list of strings")
    if not all(map(_is_unicode, texts)):
        raise BadImageError("its caption contains a lone surrogate, such as \\ud800")
    return tuple(stripped for text in texts if (stripped := text.strip()))


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode the text; JSON can escape surrogates, which it cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def decode_text(data: bytes) -> str:
    """Decode a caption from UTF-8, with or without a byte order mark.

    Raises:
        BadImageError: the bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadImageError("its caption is not UTF-8 text") from error


def fetch(url: str, options: Options) -> bytes:
    """Read the file of an image or a caption.

    Raises:
        BadImageError: the file does not exist or is too large.
        StoreError: the store refuses or fails.
    """
    try:
        with open_source(url, options) as stream:
            data = stream.read(MAX_BYTES + 1)
    except StoreMissing as error:
        raise BadImageError("file not found") from error
    if len(data) > MAX_BYTES:
        raise BadImageError(f"larger than {MAX_BYTES:,} bytes")
    return data
