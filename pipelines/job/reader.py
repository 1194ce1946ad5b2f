"""Read a job file: parse YAML, and apply `--set` overrides.

The keys of a job are defined in `pipelines.job.spec`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.characters import not_text, texts_of
from nightpress.pipelines.job.night import NIGHT_KEYS, PLACEHOLDER
from nightpress.pipelines.job.yaml_text import NotPlain, parsed


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        SpecError: the file cannot be read, or it is not a YAML mapping in UTF-8.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        values = parsed(text)
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not a UTF-8 text file: {error.reason}") from error
    except NotPlain as error:
        starts_with_night = re.search(rf"[:-] +{re.escape(PLACEHOLDER)}[^\s,}}\]]", text)
        hint = f"; a value that begins with {PLACEHOLDER} needs quotes" if starts_with_night else ""
        raise SpecError(f"{path}: {error}{hint}") from error
    if not isinstance(values, dict):
        raise SpecError(f"{path}: a job file must be a mapping of keys, such as `manifest: ...`")
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set keys of a nested mapping in place; an override is `a.b=value` with a YAML value.

    The values of `TEXT_KEYS` need no quotes.

    Raises:
        SpecError: an override is not of that form, or replaces what an earlier one has set.
    """
    earlier: list[tuple[str, tuple[str, ...], Any]] = []
    for override in overrides:
        path, value = _override(override)
        for text, other, set_before in earlier:
            if _replaces(path, other, set_before):
                raise SpecError(
                    f"--set {override}: {'.'.join(other)} is already set by --set {text}"
                )
        earlier.append((override, path, value))
        _set(values, path, value)


def _replaces(path: tuple[str, ...], other: tuple[str, ...], value: Any) -> bool:
    """Whether setting the key `path` would drop a part of `value`, to which `other` was set."""
    if other[: len(path)] == path:
        return True
    if path[: len(other)] != other:
        return False
    for name in path[len(other) :]:
        if not isinstance(value, dict):
            return not (isinstance(value, str) and other == ("model",))
        if name not in value:
            return False
        value = value[name]
    return True


def refuse_what_is_not_text(values: Mapping[str, Any], where: str) -> None:
    """Refuse control characters and surrogates in a job that is given in Python or by overrides.

    Raises:
        SpecError: names the first key with such a text.
    """
    for keys, text in texts_of(values):
        wrong = not_text(text)
        if wrong is not None:
            key = repr(".".join(keys))[1:-1]  # the key itself may not be text
            raise SpecError(f"{where}: {key}: it has {wrong}, which is not text")


TEXT_KEYS = (
    "images.file_name",
    "sampling.negative_prompt",
    "output",
    "model.source",
    "model.config",
)
"""Keys whose values are text, whatever YAML would read in them: `{scene}/{image_id}.png`."""

TEXTS_OF_SCORERS = ("text", "expect")
"""The same for keys of a scorer: `scores.headline.expect={headline}`."""

NO_TEXT = ("", "null", "~")
"""What such a key is set to for no value."""


def _override(override: str) -> tuple[tuple[str, ...], Any]:
    """The key of `a.b=value` in its parts, and the value."""
    key, equals, text = override.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise SpecError(f"--set {override}: must be key=value, such as batch.size=8")
    plain = text.strip()
    is_text = _is_text(path) and plain not in NO_TEXT
    is_text |= key.strip() in NIGHT_KEYS and PLACEHOLDER in plain and plain[0] != "["
    if is_text and plain[0] not in "'\"":
        return path, plain
    try:
        return path, parsed(text)
    except NotPlain as error:
        if path == ("manifest",) and plain[:1] in ("*", "{"):  # a pattern
            return path, plain
        problem = str(error).removeprefix("line 1: ")
        quoted = "" if "quotes" in problem else f"; a text needs quotes: {key}='...'"
        raise SpecError(f"--set {override}: {problem}{quoted}") from error


def _is_text(path: Sequence[str]) -> bool:
    of_a_scorer = path[0] == "scores" and len(path) == 3 and path[2] in TEXTS_OF_SCORERS
    return of_a_scorer or ".".join(path) in TEXT_KEYS


def _set(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    section = values
    for name in path[:-1]:
        inner = section.get(name)
        if name == "model" and isinstance(inner, str):
            section[name] = {"source": inner}
        elif not isinstance(inner, dict):
            section[name] = {}
        section = section[name]
    section[path[-1]] = value
