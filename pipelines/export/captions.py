"""Captions: a template over the columns of an image's metadata."""

import math
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa

from nightpress.pipelines.campaign.near_names import did_you_mean
from nightpress.pipelines.errors import SpecError


@dataclass(frozen=True)
class Caption:
    """A parsed template, such as `{prompt}, {style}`."""

    text: str
    parts: tuple[tuple[str, str | None, str], ...]
    """(text, the column that follows it, the format of its value)."""

    @classmethod
    def parse(cls, text: str, schema: pa.Schema) -> Self:
        """Parse a template.

        Args:
            text: the export's key `caption`.
            schema: the columns that it may use.

        Raises:
            SpecError: it is no template, or names a column that there is not.
        """
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise SpecError(f"caption: {text!r}: not a template: {error}") from error
        for _, name, spec, conversion in parsed:
            if name is not None:
                _check(text, name, spec or "", conversion, schema)
        return cls(text, tuple((literal, name, spec or "") for literal, name, spec, _ in parsed))

    @property
    def columns(self) -> frozenset[str]:
        """The columns that it uses."""
        return frozenset(name for _, name, _ in self.parts if name is not None)

    def render(self, row: Mapping[str, Any]) -> str:
        """The caption of one image; a null is empty text.

        Args:
            row: a value for each of `columns`.
        """
        texts = (
            literal if name is None else literal + _text(row[name], spec)
            for literal, name, spec in self.parts
        )
        return "".join(texts)


def _check(text: str, name: str, spec: str, conversion: str | None, schema: pa.Schema) -> None:
    where = f"caption: {text!r}"
    if conversion is not None:
        raise SpecError(f"{where}: !{conversion} is not allowed; write {{{name}}}")
    if name not in schema.names:
        hint = did_you_mean(name, schema.names, "columns")
        raise SpecError(f"{where}: there is no column {name!r}; {hint}")
    type_ = schema.field(name).type
    if pa.types.is_nested(type_) or pa.types.is_binary(type_):
        raise SpecError(f"{where}: column {name!r} is {type_}, which has no text form")
    try:
        _text(_example(type_), spec)
    except (ValueError, TypeError) as error:
        raise SpecError(f"{where}: {{{name}:{spec}}}: {error}") from error


def _example(type_: pa.DataType) -> object:
    if pa.types.is_integer(type_):
        return 1
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return 1.5
    return "text"


def _text(value: object, spec: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return format(value, spec) if spec else str(value)
