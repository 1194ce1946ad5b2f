"""Parses the text that A1111 and Forge write into images: prompts, then `key: value` pairs.

Reference: stable-diffusion-webui, modules/infotext_utils.py (`parse_generation_parameters`,
`quote`), and the texts of its extensions.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nightpress.pipelines.image_files.importing.made_image import UnreadableImage, shortened

MAX_TEXT_CHARS = 200_000
"""The longest text that is parsed; A1111's have some thousand characters."""

MIN_PAIRS = 3
"""The fewest settings that make a line the one with the settings, as in A1111."""

NEGATIVE = "Negative prompt:"

_FIRST = re.compile(r"\s*Steps: *\d+ *(?:,|$)")
_KEY = re.compile(r"\s*([^\W\d][^:,\"]{0,80}?|\d[^:,\"]{0,80}?[^\W\d][^:,\"]{0,80}?) *: *")
_VALUE = re.compile(r"[^,]*")
_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True)
class ParametersText:
    """What a text says."""

    prompt: str
    negative_prompt: str
    settings: Mapping[str, str]
    """The pairs, in their order; values without their quotes."""
    others: tuple[str, ...]
    """Pieces that are no pairs, and lines behind the settings, such as `Template: ...`."""


def parse_parameters(text: str) -> ParametersText:
    """Parse a text.

    Raises:
        UnreadableImage: it is too long, or has no line with settings.
    """
    if len(text) > MAX_TEXT_CHARS:
        raise UnreadableImage(
            f"its text has {len(text):,} characters; at most {MAX_TEXT_CHARS:,} are read"
        )
    lines = text.replace("\r\n", "\n").replace("\r", "\n").strip().split("\n")
    place = _settings_place(lines)
    if place is None:
        raise UnreadableImage(
            "its text has no line of settings such as 'Steps: 20, Sampler: Euler a, Seed: 1'"
        )
    settings, others = _pairs(lines[place])
    prompt, negative = _prompts(lines[:place])
    others += [shortened(line) for line in lines[place + 1 :] if line.strip()]
    return ParametersText(prompt, negative, settings, tuple(others))


def quoted_pairs(text: str) -> dict[str, str]:
    """The pairs inside a value, such as those of `Lora hashes`."""
    return _pairs(text)[0]


def _settings_place(lines: list[str]) -> int | None:
    """The last line that has settings; a prompt may have such lines too."""
    for place in reversed(range(len(lines))):
        if _FIRST.match(lines[place]) and len(_pairs(lines[place])[0]) >= MIN_PAIRS:
            return place
    return None


def _prompts(lines: list[str]) -> tuple[str, str]:
    """Prompt and negative prompt, which may have several lines each."""
    parts: tuple[list[str], list[str]] = ([], [])
    is_negative = False
    for line in lines:
        if line.strip().startswith(NEGATIVE):
            is_negative, line = True, line.strip().removeprefix(NEGATIVE)
        parts[is_negative].append(line.strip())
    return "\n".join(parts[0]).strip(), "\n".join(parts[1]).strip()


def _pairs(line: str) -> tuple[dict[str, str], list[str]]:
    """The pairs of a line, and the pieces that are none."""
    pairs: dict[str, str] = {}
    others: list[str] = []
    for key, value in _pieces(line):
        if key is None or (key in pairs and pairs[key] != value):
            others.append(shortened(value if key is None else f"{key}: {value}"))
        else:
            pairs[key] = value
    return pairs, others


def _pieces(line: str) -> Iterator[tuple[str | None, str]]:
    """The pieces between the commas of a line, each with its key; None if it has none."""
    at = 0
    while at < len(line):
        found = _KEY.match(line, at)
        start = found.end() if found else at
        value, end = _value(line, start)
        if value.strip() or found:
            yield (found[1].strip() if found else None), value.strip()
        at = end + 1


def _value(line: str, start: int) -> tuple[str, int]:
    """The value at a place, quoted as JSON or up to the next comma; and where it ends."""
    if line.startswith('"', start):
        try:
            value, end = _DECODER.raw_decode(line, start)
        except ValueError:
            pass
        else:
            rest = _VALUE.match(line, end)
            if rest and not rest[0].strip():
                return str(value), rest.end()
    found = _VALUE.match(line, start)
    return (found[0], found.end()) if found else ("", len(line))
