"""Say in plain words what is wrong in a job file: where, which value, and what is allowed there."""

import re
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from nightpress.diffusion_core.models.controlnet_spec import ControlNetSpec
from nightpress.diffusion_core.models.embedding_spec import EmbeddingSpec
from nightpress.diffusion_core.models.lora_files import LoraSpec
from nightpress.diffusion_core.models.references import ReferenceSpec
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.job.allowed_values import (
    any_mapping,
    either,
    keys_of,
    list_of,
    literals,
    mapping_of,
    number,
    number_within,
)

BY_SOURCE = (ModelSpec, LoraSpec, ControlNetSpec, ReferenceSpec, EmbeddingSpec)
"""Sections for which a job file may give the source alone."""

MAPPING_TYPES = ("model_type", "model_attributes_type", "dict_type", "mapping_type")
LIST_TYPES = ("tuple_type", "list_type")
INTEGER_TYPES = ("int_type", "int_parsing", "int_from_float", "int_parsing_size")
NUMBER_TYPES = ("float_type", "float_parsing", "finite_number")
BOUND_TYPES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


class _Mistake(NamedTuple):
    detail: ErrorDetails
    keys: tuple[str, ...]
    intended: bool
    """Whether it concerns the branch of a union that a value of this shape is meant for."""
    value: object
    is_of_key: bool
    """Whether the last of `keys` is wrong itself, whatever its value is."""


def explain(error: ValidationError, root: type[BaseModel], values: Mapping[str, Any]) -> list[str]:
    """Describe each error in one line: the key, its value, and what is allowed.

    Args:
        error: the error raised by validating `values` against `root`.
    """
    found = [_mistake(detail, values) for detail in error.errors()]
    groups: dict[tuple[tuple[str, ...], bool], list[_Mistake]] = {}
    for mistake in found:
        if not _follows_from_another(mistake, found):
            groups.setdefault((mistake.keys, mistake.is_of_key), []).append(mistake)
    return [_line(keys, mistakes, root) for (keys, _), mistakes in groups.items()]


def _follows_from_another(mistake: _Mistake, others: Sequence[_Mistake]) -> bool:
    """Whether there is nothing to mend about it once the others are mended."""
    depth = len(mistake.keys)
    beside = [o for o in others if o.keys[:depth] == mistake.keys]
    any_deeper = any(len(o.keys) > depth for o in beside)
    if mistake.detail["type"] == "too_short":  # pydantic counts the items that are valid
        return any_deeper
    any_intended = any(o.intended and not o.is_of_key for o in beside)
    return not mistake.intended and (any_deeper or any_intended)


def _line(keys: Sequence[str], mistakes: Sequence[_Mistake], root: type[BaseModel]) -> str:
    """What is said about one key."""
    first = mistakes[0]
    if first.is_of_key and first.detail["type"] in ("invalid_key", "string_type"):
        where = f"{'.'.join(keys[:-1])}: " if keys[:-1] else ""
        return f"{where}the key {_written(first.detail['input'])} must be a text; put it in quotes"
    where = f"{'.'.join(keys)}: {_shown(keys, mistakes)}" if keys else ""
    allowed = [each for mistake in mistakes for each in _allowed(mistake, root)]
    rules = [_rule(mistake, root) for mistake in mistakes]
    said = [*dict.fromkeys(rule for rule in rules if rule)]
    if allowed:
        said.insert(0, f"must be {either(allowed)}")
    return f"{where}{' or '.join(said)}"


def _shown(keys: Sequence[str], mistakes: Sequence[_Mistake]) -> str:
    """The value, as a job file writes it; nothing for mappings and for what must stay secret."""
    value = mistakes[0].value
    omit = isinstance(value, Mapping) or mistakes[0].detail["type"] == "extra_forbidden"
    omit |= mistakes[0].is_of_key
    omit |= tuple(keys[:1]) == ("notify",) and "/" in str(value)  # the URL of a webhook
    omit |= tuple(keys) == ("provenance", "sign", "key") or "-----BEGIN" in str(value)
    if omit:
        return ""
    return f"{_written(value)}: "


def _written(value: object) -> str:
    """A value as a job file writes it."""
    words = {"None": "null", "True": "true", "False": "false"}
    return words.get(repr(value), repr(value))


def _mistake(detail: ErrorDetails, values: Mapping[str, Any]) -> _Mistake:
    """Find an error's keys and its value.

    pydantic mixes the names of union branches into an error's location; only real keys can be
    followed in the values that were validated.
    """
    keys: list[str] = []
    intended = True
    value: object = values
    for depth, part in enumerate(detail["loc"]):
        if isinstance(value, Mapping) and (found := _found_keys(part, value)):
            value = value[found[0]]
            keys.append(found[0] if isinstance(found[0], str) else _written(found[0]))
            continue
        if isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif depth < len(detail["loc"]) - 1 or detail["type"] != "missing":
            intended = intended and (part == "[key]" or _matches(str(part), value))
            continue
        elif isinstance(part, int):  # an item of a list that is too short
            continue
        keys.append(str(part))
    is_of_key = detail["type"] == "invalid_key" or detail["loc"][-1:] == ("[key]",)
    return _Mistake(detail, tuple(keys), intended, value, is_of_key)


def _found_keys(part: int | str, values: Mapping[Hashable, object]) -> list[Hashable]:
    """The keys that a part of a location may mean, the likeliest first.

    The codes of `columns` were keys of any type, with blanks around them, and are texts there.
    """
    alike = [key for key in values if str(key).strip() == part]
    return [*(key for key in values if key == part), *alike]


def _matches(tag: str, value: object) -> bool:
    """Whether a branch of a union is the one intended by a value of this shape."""
    if isinstance(value, Mapping):
        return re.search(r"\b[A-Z]\w*\]?$", tag) is not None
    if isinstance(value, list):
        return tag.startswith("list")
    return not (isinstance(value, str) and tag.startswith("list"))


def _allowed(mistake: _Mistake, root: type[BaseModel]) -> Collection[str]:
    """What may stand there instead; nothing if another rule than that of types is broken."""
    detail, kind = mistake.detail, mistake.detail["type"]
    section, field = _place(detail["loc"], root)
    context: Mapping[str, Any] = detail.get("ctx", {})
    if kind in MAPPING_TYPES:
        if not kind.startswith("model"):
            outer, _ = _place(detail["loc"][:-1], root)
            is_whole = field is not None and field is _field(outer, detail["loc"][-1])
            return [any_mapping(field if is_whole else None)]
        source = ["a source, such as a folder or a hub id"] if section in BY_SOURCE else []
        return [*source, mapping_of(section)]
    if kind in LIST_TYPES:
        return [list_of(field, mistake.value, BY_SOURCE)]
    if kind in (*INTEGER_TYPES, *NUMBER_TYPES):
        return [number(field, is_integer=kind in INTEGER_TYPES)]
    if kind in BOUND_TYPES:
        return [number_within(field, context)]
    if kind == "literal_error":
        return literals(context["expected"])
    if kind == "string_type":
        return [] if _words_of_pattern(field) else ["a text"]
    return ["true", "false"] if kind == "bool_type" else []


def _rule(mistake: _Mistake, root: type[BaseModel]) -> str | None:
    """The message of an error that `_allowed` says nothing about."""
    detail, kind = mistake.detail, mistake.detail["type"]
    if _allowed(mistake, root):
        return None
    section, field = _place(detail["loc"], root)
    context: Mapping[str, Any] = detail.get("ctx", {})
    if kind == "extra_forbidden":
        section, _ = _place(detail["loc"][:-1], root)
        return f"no such key; allowed here: {', '.join(keys_of(section))}"
    if kind == "missing":
        item = isinstance(detail["loc"][-1], int)
        return f"must be {list_of(field, None)}" if item else "this key is required"
    if kind == "string_pattern_mismatch":
        return _words_of_pattern(field) or f"must match {context['pattern']}"
    if kind == "string_type":
        return f"must be a text, and it {_words_of_pattern(field)}"
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        return _length(kind, context)
    message = detail["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _words_of_pattern(field: FieldInfo | None) -> str | None:
    """What the pattern of a field allows; None if it has none, or none in words."""
    extra = field.json_schema_extra if field is not None else None
    words = extra.get("patternErrorMessage") if isinstance(extra, Mapping) else None
    return None if words is None else str(words)


def _length(kind: str, context: Mapping[str, Any]) -> str:
    """What is said about a text, list or mapping that is too short or too long."""
    of_text = kind.startswith("string")
    limit = context["min_length" if kind.endswith("short") else "max_length"]
    noun = f"{'character' if of_text else 'item'}{'' if limit == 1 else 's'}"
    if kind.endswith("short"):
        return "must not be empty" if limit == 1 else f"must have at least {limit:,} {noun}"
    return f"must have at most {limit:,} {noun}"


def _place(
    loc: Sequence[int | str], root: type[BaseModel]
) -> tuple[type[BaseModel], FieldInfo | None]:
    """The section that an error's location is or is in, and the last field that it names."""
    section, field = root, None
    branches: dict[str, type[BaseModel]] = {}
    for part in loc:
        if (here := _field(section, part)) is not None:
            field = here
            branches = {model.__name__: model for model in _models(field.annotation)}
            section = next(iter(branches.values()), section)
        elif tag := re.search(r"([A-Z]\w*)\]*$", str(part)):
            section = branches.get(tag[1], section)
    return section, field


def _field(section: type[BaseModel], part: int | str) -> FieldInfo | None:
    fields = section.model_fields
    aliased = (field for field in fields.values() if field.alias == part)
    return fields.get(str(part)) or next(aliased, None)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections inside an annotation, such as `int | ActorRange`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
