"""Reading a job file: YAML, `--set` overrides, and validation errors in words.

Knows YAML and pydantic; which keys a job has, `pipelines.job.spec` knows.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nightpress.pipelines.errors import SpecError


class JobLoader(yaml.SafeLoader):
    """YAML 1.1, in which `1e-4` is a number as it is in YAML 1.2 and in everybody's mind."""


JobLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), "-+0123456789"
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        SpecError: no such file, no text, no YAML, or no mapping.
    """
    try:
        values = _parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not a text file: {error.reason}") from error
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not YAML: {_one_line(error)}") from error
    if not isinstance(values, dict):
        raise SpecError(f"{path}: a job file is a mapping of keys, such as `manifest: ...`")
    return {str(key): value for key, value in values.items()}


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one key of a nested mapping, in place; `override` is `a.b=value`, the value YAML."""
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise SpecError(f"--set {override}: write it as key=value, such as batch.size=8")
    try:
        value = _parsed(text)
    except yaml.YAMLError as error:
        raise SpecError(f"--set {override}: not YAML: {_one_line(error)}") from error
    place = values
    for step in path[:-1]:
        if not isinstance(place.get(step), dict):
            place[step] = {}
        place = place[step]
    place[path[-1]] = value


def explain(error: ValidationError, root: type[BaseModel], values: Mapping[str, Any]) -> list[str]:
    """Each thing that is wrong in a line: the key, the value, and what is allowed.

    Args:
        error: what validating `values` against `root` raised.
    """
    located = [(detail, *_locate(detail, values)) for detail in error.errors()]
    found: dict[str, list[str]] = {}
    for detail, keys, _, value in [each for each in located if each[2]] or located:
        quiet = isinstance(value, Mapping) or detail["type"] == "extra_forbidden"
        shown = "" if quiet else f"{value!r}: "
        place = f"{'.'.join(keys)}: {shown}" if keys else ""
        found.setdefault(place, []).append(_message(detail, root))
    return [f"{place}{' or '.join(dict.fromkeys(texts))}" for place, texts in found.items()]


def _parsed(text: str) -> Any:
    return yaml.load(text, Loader=JobLoader)  # noqa: S506 - it is a SafeLoader


def _locate(detail: ErrorDetails, values: Mapping[str, Any]) -> tuple[list[str], bool, object]:
    """An error's keys, whether it comes from the branch that was meant, and the value it met.

    pydantic mixes the names of branches into the location; a real key can be followed in the
    values that were validated.
    """
    keys: list[str] = []
    meant = True
    value: object = values
    for depth, part in enumerate(detail["loc"]):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif depth < len(detail["loc"]) - 1 or detail["type"] != "missing":
            meant = meant and _fits(str(part), value)
            continue
        keys.append(str(part))
    return keys, meant, value


def _fits(tag: str, value: object) -> bool:
    """Whether a union's branch is the one that a writer of this value meant."""
    if isinstance(value, Mapping):
        return re.search(r"\b[A-Z]\w*\]?$", tag) is not None
    if isinstance(value, list):
        return tag.startswith("list")
    return not tag.startswith("list")


def _message(detail: ErrorDetails, root: type[BaseModel]) -> str:
    if detail["type"] == "extra_forbidden":
        return f"no such key; allowed here: {', '.join(_section(detail, root).model_fields)}"
    if detail["type"] == "missing":
        return "missing"
    message = detail["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _section(detail: ErrorDetails, root: type[BaseModel]) -> type[BaseModel]:
    """The section of the job that an error stands in."""
    section = root
    for part in detail["loc"][:-1]:
        field = section.model_fields.get(str(part))
        section = next(_models(field.annotation), section) if field is not None else section
    return section


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections inside an annotation, such as `int | ActorRange`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
