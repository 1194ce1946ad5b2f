"""Say in plain words what a key of a job file takes: `an integer from 1 to 100`, `a list of texts`.

The words come from the types and bounds of the key's field in the section that defines it.
"""

import re
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

BOUNDS = ("gt", "ge", "lt", "le")
"""The names of bounds in the metadata of a field, and in the context of an error."""


def either(allowed: Sequence[str]) -> str:
    """Each once, with mappings last: `an integer, 'auto', or a mapping with the keys min, max`."""
    once = [*dict.fromkeys(allowed)]
    if "a number" in once and "an integer" in once:
        once.remove("an integer")
    once.sort(key=lambda words: (words.startswith("a mapping"), words.startswith("a list")))
    if len(once) < 2:
        return "".join(once)
    commas = any("," in words for words in once)
    return f"{', '.join(once[:-1])}{',' if commas else ''} or {once[-1]}"


def any_mapping(field: FieldInfo | None) -> str:
    """A mapping, with the example that the description of its field gives."""
    description = (field.description or "") if field is not None else ""
    example = re.search(r"such as (\{[^;]*?\}+)(?=[,;.])", description)
    return f"a mapping, such as {example[1]}" if example else "a mapping"


def mapping_of(section: type[BaseModel]) -> str:
    """A mapping, with the keys of a section."""
    keys = keys_of(section)
    return f"a mapping with the key{'s' if len(keys) > 1 else ''} {', '.join(keys)}"


def keys_of(section: type[BaseModel]) -> list[str]:
    """The keys of a section, as a job file writes them."""
    return [field.alias or name for name, field in section.model_fields.items()]


def list_of(field: FieldInfo | None, value: object, by_source: Collection[Any] = ()) -> str:
    """A list, with what its items are.

    Args:
        field: the field whose value is the list; None if it is not known.
        value: what is there instead of a list; a text is shown as the one item of a list.
        by_source: sections that may be given as a text, their source.
    """
    found = next(_lists(field.annotation), None) if field is not None else None
    if found is None:
        return "a list"
    items = [item for item in get_args(found) if item is not Ellipsis]
    fixed = get_origin(found) is tuple and Ellipsis not in get_args(found)
    words = _plural(items[0])
    takes_texts = words == "texts"
    if any(leaf in by_source for leaf in _leaves(items[0])):
        words, takes_texts = f"sources or {words}", True
    takes_texts |= value in _values(items[0])
    such_as = f", such as [{value!r}]" if takes_texts and value and isinstance(value, str) else ""
    return f"a list of {f'{len(items)} ' if fixed else ''}{words}{such_as}"


def number(
    field: FieldInfo | None, *, is_integer: bool, broken: Mapping[str, Any] | None = None
) -> str:
    """A number, with the bounds of its field, or if these are not known with the broken one."""
    bounds = _bounds(field.annotation, field.metadata) if field is not None else {}
    noun = "an integer" if is_integer else "a number"
    return f"{noun}{_range(bounds or broken or {})}"


def number_within(field: FieldInfo | None, context: Mapping[str, Any]) -> str:
    """A number, with the bounds of its field; that of an error's context if they are not known."""
    leaves = [*_leaves(field.annotation)] if field is not None else []
    broken = {name: context[name] for name in BOUNDS if name in context}
    return number(field, is_integer=int in leaves and float not in leaves, broken=broken)


def literals(expected: str) -> list[str]:
    """The values of an error's `'png', 'webp' or 'jpeg'`, as a job file writes them."""
    texts = expected.replace(" or ", ", ").split(", ")
    return [{"True": "true", "False": "false", "None": "null"}.get(text, text) for text in texts]


def _range(bounds: Mapping[str, Any]) -> str:
    """The bounds in words, after a noun: ` greater than 0 and at most 1`."""
    if "ge" in bounds and "le" in bounds:
        return f" from {_shown(bounds['ge'])} to {_shown(bounds['le'])}"
    words = {"gt": "greater than", "ge": "of at least", "lt": "less than", "le": "at most"}
    parts = [f"{words[name]} {_shown(bounds[name])}" for name in BOUNDS if name in bounds]
    return f" {' and '.join(parts)}" if parts else ""


def _shown(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def _plural(item: Any) -> str:
    """What the items of a list are."""
    sections = [leaf for leaf in _leaves(item) if _is_section(leaf)]
    if sections:
        return f"mappings with the keys {', '.join(keys_of(sections[0]))}"
    if values := _values(item):
        return either([repr(value) for value in values])
    if next(_lists(item), None) is not None:
        return "lists"
    names = {str: "texts", int: "integers", float: "numbers", bool: "true and false"}
    found = [names[leaf] for leaf in _leaves(item) if leaf in names]
    return either(found) or "values"


def _is_section(leaf: Any) -> bool:
    return isinstance(leaf, type) and issubclass(leaf, BaseModel)


def _unwrapped(annotation: Any) -> Iterator[Any]:
    """The alternatives of an annotation, without `Annotated`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _unwrapped(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for argument in get_args(annotation):
            yield from _unwrapped(argument)
    else:
        yield annotation


def _lists(annotation: Any) -> Iterator[Any]:
    """The kinds of lists that an annotation allows."""
    return (each for each in _unwrapped(annotation) if get_origin(each) in (list, tuple))


def _values(annotation: Any) -> list[Any]:
    """The single values that an annotation allows."""
    found = (each for each in _unwrapped(annotation) if get_origin(each) is Literal)
    return [value for each in found for value in get_args(each)]


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types inside an annotation, such as `int` and `ActorRange`."""
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return
    if get_origin(annotation) is Annotated:
        arguments = arguments[:1]
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _leaves(argument)


def _bounds(annotation: Any, metadata: Sequence[Any]) -> dict[str, Any]:
    """The bounds of the numbers in a field; empty if different ones are allowed in places."""
    first, *others = [*_all_bounds(annotation, metadata)] or [{}]
    return first if all(each == first for each in others) else {}


def _all_bounds(annotation: Any, metadata: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The bounds of each type of number inside an annotation."""
    own: dict[str, Any] = {}
    for each in metadata:
        inner = each.metadata if isinstance(each, FieldInfo) else [each]
        own |= {n: getattr(e, n) for e in inner for n in BOUNDS if _has(e, n)}
    arguments, more = get_args(annotation), ()
    if get_origin(annotation) is Literal:
        return
    if get_origin(annotation) is Annotated:
        arguments, more = arguments[:1], arguments[1:]
    if annotation in (int, float):
        yield own
    for argument in arguments:
        yield from (own | bounds for bounds in _all_bounds(argument, more))


def _has(metadata: Any, name: str) -> bool:
    return isinstance(getattr(metadata, name, None), int | float)
