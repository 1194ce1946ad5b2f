"""Texts that differ from row to row: templates over the manifest's columns."""

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

from nightpress.pipelines.campaign.near_names import did_you_mean
from nightpress.pipelines.errors import ScorerError


@dataclass(frozen=True)
class TextTemplate:
    """A parsed template such as `{brand}: {headline}`; `{{` and `}}` are braces."""

    parts: tuple[tuple[str, str | None], ...]
    """Pairs of a text and the column that follows it, if one does."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a template.

        Raises:
            ScorerError: it is none.
        """
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise ScorerError(f"{text!r} is not a template: {error}") from error
        for _, column, format_spec, conversion in parsed:
            if column == "" or format_spec or conversion:
                raise ScorerError(
                    f"{text!r} is not a template: a column is written as {{name}}, without "
                    "anything else between the braces"
                )
        return cls(tuple((literal, column) for literal, column, _, _ in parsed))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it uses, each once."""
        return tuple(dict.fromkeys(column for _, column in self.parts if column is not None))

    def check(self, known: Collection[str]) -> None:
        """Refuse a column that rows do not have.

        Raises:
            ScorerError: names it, and those that were perhaps meant.
        """
        for column in self.columns:
            if column not in known:
                near = did_you_mean(column, known, "columns")
                raise ScorerError(f"there is no column {column!r}; {near}")

    def render(self, columns: Mapping[str, object]) -> str:
        """The text of a row; a column without a value leaves a gap.

        Raises:
            ScorerError: the row lacks a column.
        """
        self.check(columns)
        return "".join(literal + _text(columns, column) for literal, column in self.parts)


def _text(columns: Mapping[str, object], column: str | None) -> str:
    value = None if column is None else columns[column]
    return "" if value is None else str(value)
