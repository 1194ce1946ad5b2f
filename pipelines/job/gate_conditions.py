"""Conditions that an image's scores must meet, such as `sharpness > 40`."""

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self, cast

Operator = Literal["<", "<=", ">", ">=", "==", "!="]

_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}

_CONDITION = re.compile(r"\s*(?P<score>[^<>=!]*?)\s*(?P<operator>[<>=!]+)\s*(?P<value>.*?)\s*")

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

EXAMPLES = (
    "a condition is the name of a score, <, <=, >, >=, == or !=, and a number: sharpness > 40"
)


@dataclass(frozen=True)
class GateCondition:
    """One score compared with one number."""

    score: str
    """The name of the score, such as `sharpness`, `clip` or `kind.cat`."""
    operator: Operator
    value: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a condition.

        Args:
            text: such as `sharpness > 40` or `kind.tabby, tabby cat >= 0.5`; the name is all that
                stands before the operator, and may be in double quotes.

        Raises:
            ValueError: the text is no condition; the message says what is wrong with it.
        """
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} compares nothing; {EXAMPLES}")
        score, sign, value = match.group("score", "operator", "value")
        if len(score) >= 2 and score[0] == score[-1] == '"':
            score = score[1:-1]
        if not score:
            raise ValueError(f"{text!r} names no score before {sign}; {EXAMPLES}")
        if sign not in _HOLDS:
            hint = "; equal is ==" if sign == "=" else ""
            raise ValueError(f"{text!r}: {sign} is no comparison{hint}; {EXAMPLES}")
        number = float(value) if _NUMBER.fullmatch(value) else math.nan
        if not math.isfinite(number):
            raise ValueError(f"{text!r}: {value!r} is no number{_advice(value)}; {EXAMPLES}")
        return cls(score, cast("Operator", sign), number)

    def __str__(self) -> str:
        """`sharpness > 40`, which `parse` reads."""
        return f"{self.score} {self.operator} {_text(self.value)}"

    def holds(self, value: float | None) -> bool:
        """Whether an image meets it.

        Args:
            value: the image's score; one that is missing or no number meets no condition.
        """
        return value is not None and not math.isnan(value) and self._compare(value)

    def holds_in(self, scores: Mapping[str, float | None]) -> bool:
        """Whether an image with these scores meets it."""
        return self.holds(scores.get(self.score))

    def finding(self, value: float | None) -> str:
        """How a score stands to the number, such as `sharpness 31 < 40`."""
        if value is None or math.isnan(value):
            return f"{self.score} is missing"
        sign = "<" if value < self.value else ">" if value > self.value else "="
        return f"{self.score} {_text(value, self.value)} {sign} {_text(self.value)}"

    def _compare(self, value: float) -> bool:
        return _HOLDS[self.operator](value, self.value)


def parse_conditions(texts: tuple[str, ...] | list[str]) -> tuple[GateCondition, ...]:
    """Read conditions, all of which an image must meet.

    Raises:
        ValueError: a text is no condition, or is given twice.
    """
    conditions = tuple(GateCondition.parse(text) for text in texts)
    for place, condition in enumerate(conditions):
        if condition in conditions[:place]:
            raise ValueError(f"{texts[place]!r} is given twice")
    return conditions


def _advice(value: str) -> str:
    """What to write instead, for mistakes that are easy to make."""
    if re.search(r"\b(and|or)\b|[<>=]", value):
        return " (each condition is a text of its own, and all must be met)"
    if value.endswith("%"):
        return " (a share is written as 0.2)"
    return ""


def _text(value: float, other: float | None = None) -> str:
    """A number in as few digits as tell it apart from another; all of its digits without one."""
    if other is None:
        is_whole = abs(value) < 1e15 and value == int(value)
        return str(int(value)) if is_whole else repr(value)
    for digits in range(3, 17):
        short = float(f"{value:.{digits}g}")
        if (short < other) == (value < other) and (short > other) == (value > other):
            return _text(short)
    return _text(value)
