"""Which characters are text, in a job as in the rows of a manifest."""

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any


def not_text(text: str) -> str | None:
    """The first character that is not text, in words; None if all are.

    Control characters other than tab, LF and CR are not, nor are surrogates: halves of characters,
    which UTF-8 cannot encode.
    """
    wrong = (c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n\r")
    found = next(wrong, None)
    if found is None:
        return None
    if "\ud800" <= found <= "\udfff":
        return f"half a character, the lone surrogate U+{ord(found):04X}"
    return "a NUL character" if found == "\0" else f"the control character U+{ord(found):04X}"


def texts_of(value: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every text in a value, keys too, each with the keys that lead to it."""
    match value:
        case str():
            yield keys, value
        case Mapping():
            for key, inner in value.items():
                yield (*keys, str(key)), str(key)
                yield from texts_of(inner, (*keys, str(key)))
        case list() | tuple():
            for inner in value:
                yield from texts_of(inner, keys)
