"""Read a job file: parse YAML, apply `--set` overrides, and explain validation errors.

The keys of a job are defined in `pipelines.job.spec`.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import SpecError


class JobLoader(yaml.SafeLoader):
    """YAML 1.1, except that `1e-4` is a number, as in YAML 1.2."""


JobLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), "-+0123456789"
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        SpecError: the file cannot be read, or it is not a YAML mapping in UTF-8.
    """
    try:
        values = _parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not a UTF-8 text file: {error.reason}") from error
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not valid YAML: {one_line(error)}") from error
    if not isinstance(values, dict):
        raise SpecError(f"{path}: a job file must be a mapping of keys, such as `manifest: ...`")
    return {str(key): value for key, value in values.items()}


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one key of a nested mapping in place; `override` is `a.b=value` with a YAML value."""
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise SpecError(f"--set {override}: must be key=value, such as batch.size=8")
    try:
        value = _parsed(text)
    except yaml.YAMLError as error:
        raise SpecError(f"--set {override}: not valid YAML: {one_line(error)}") from error
    section = values
    for name in path[:-1]:
        if not isinstance(section.get(name), dict):
            section[name] = {}
        section = section[name]
    section[path[-1]] = value


def explain(error: ValidationError, root: type[BaseModel], values: Mapping[str, Any]) -> list[str]:
    """Describe each error in one line: the key, its value, and what is allowed.

    Args:
        error: the error raised by validating `values` against `root`.
    """
    located = [(detail, *_locate(detail, values)) for detail in error.errors()]
    messages: dict[str, list[str]] = {}
    for detail, keys, _, value in [item for item in located if item[2]] or located:
        omit_value = isinstance(value, Mapping) or detail["type"] == "extra_forbidden"
        shown = "" if omit_value else f"{value!r}: "
        where = f"{'.'.join(keys)}: {shown}" if keys else ""
        messages.setdefault(where, []).append(_message(detail, root))
    return [f"{where}{' or '.join(dict.fromkeys(texts))}" for where, texts in messages.items()]


def _parsed(text: str) -> Any:
    return yaml.load(text, Loader=JobLoader)  # noqa: S506 - it is a SafeLoader


def _locate(detail: ErrorDetails, values: Mapping[str, Any]) -> tuple[list[str], bool, object]:
    """An error's keys, whether it concerns the intended branch of a union, and the value there.

    pydantic mixes the names of union branches into an error's location; only real keys can be
    followed in the values that were validated.
    """
    keys: list[str] = []
    intended = True
    value: object = values
    for depth, part in enumerate(detail["loc"]):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif depth < len(detail["loc"]) - 1 or detail["type"] != "missing":
            intended = intended and _matches(str(part), value)
            continue
        keys.append(str(part))
    return keys, intended, value


def _matches(tag: str, value: object) -> bool:
    """Whether a branch of a union is the one intended by a value of this shape."""
    if isinstance(value, Mapping):
        return re.search(r"\b[A-Z]\w*\]?$", tag) is not None
    if isinstance(value, list):
        return tag.startswith("list")
    return not tag.startswith("list")


def _message(detail: ErrorDetails, root: type[BaseModel]) -> str:
    if detail["type"] == "extra_forbidden":
        return f"no such key; allowed here: {', '.join(_section(detail, root).model_fields)}"
    if detail["type"] == "missing":
        return "this key is required"
    message = detail["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _section(detail: ErrorDetails, root: type[BaseModel]) -> type[BaseModel]:
    """The section of the job that an error is in."""
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
