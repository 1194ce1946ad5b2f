"""Conditions on the metadata of images, written as in SQL: `priority > 1 and mood = 'calm'`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from nightpress.pipelines.errors import SpecError

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^']|'')*')
      | (?P<name>"(?:[^"]|"")+")
      | (?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<word>[^\W\d][\w.]*)
      | (?P<sign><=|>=|<>|!=|==|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)

KEYWORDS = frozenset(
    ["and", "or", "not", "in", "is", "null", "like", "ilike", "between", "true", "false"]
)

COMPARISONS = {
    "=": pc.equal,
    "==": pc.equal,
    "!=": pc.not_equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}

GRAMMAR = (
    "a condition is such as: status = 'ok' and (guidance_scale <= 4 or surface in ('oak', 'ash')) "
    "and prompt like '%cat%' and not priority is null and scores.clip > 0.3; texts are in single "
    "quotes, and names with other characters in double ones"
)

Literal = str | int | float | bool

SCORE_PREFIX = "scores."
"""What the name of a score begins with in a condition."""


def score_field(score: str) -> ds.Expression:
    """A score as a column: null for images without it."""
    return pc.map_lookup(ds.field("scores"), pa.scalar(score), "first")


def score_name(column: str) -> str:
    """The name of the score that a condition calls `scores.<name>`."""
    return column.removeprefix(SCORE_PREFIX)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int
    """The number of its first character, from 1."""

    @property
    def keyword(self) -> str | None:
        """The keyword that it is, in small letters."""
        word = self.text.lower()
        return word if self.kind == "word" and word in KEYWORDS else None


def parse_condition(text: str, schema: pa.Schema) -> ds.Expression:
    """Read a condition on columns; rows for which it is null do not meet it, as in SQL.

    Args:
        text: comparisons (`=`, `!=`, `<`, `<=`, `>`, `>=`), `in (...)`, `between ... and ...`,
            `like` and `ilike` with `%` and `_`, and `is null`, joined by `and`, `or`, `not` and
            parentheses.
        schema: the columns. Of a column `scores` that maps names to numbers, each score is a column
            of its own, such as `scores.clip`; it is null for rows without that score.

    Raises:
        SpecError: the text is no condition, or compares what cannot be compared.
    """
    return _Parser(text, schema).whole()


def scores_in_condition(text: str, schema: pa.Schema) -> tuple[str, ...]:
    """The names of the scores that a condition is on, such as `clip`; each once, in order.

    Raises:
        SpecError: as for `parse_condition`.
    """
    parser = _Parser(text, schema)
    parser.whole()
    return tuple(parser.scores)


class _Parser:
    """Recursive descent, one method for each level of precedence."""

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self._schema = schema
        self._tokens = list(_tokens(text))
        self._next = 0
        self.scores: dict[str, None] = {}
        """The scores that occur, in order."""

    def whole(self) -> ds.Expression:
        condition = self._either()
        if self._token.kind != "end":
            raise self._wrong("and, or or the end")
        return condition

    def _either(self) -> ds.Expression:
        condition = self._both()
        while self._takes("or"):
            condition = condition | self._both()
        return condition

    def _both(self) -> ds.Expression:
        condition = self._negated()
        while self._takes("and"):
            condition = condition & self._negated()
        return condition

    def _negated(self) -> ds.Expression:
        return ~self._negated() if self._takes("not") else self._single()

    def _single(self) -> ds.Expression:
        if self._takes("("):
            condition = self._either()
            self._expect(")")
            return condition
        name = self._column()
        token = self._token
        if token.text in COMPARISONS:
            self._next += 1
            return COMPARISONS[token.text](self._field(name), self._literal(name))
        if self._takes("is"):
            is_valid = self._takes("not")
            self._expect("null")
            field = self._field(name)
            return field.is_valid() if is_valid else field.is_null()
        negated = self._takes("not")
        condition = self._membership(name)
        return ~condition if negated else condition

    def _membership(self, name: str) -> ds.Expression:
        """`in`, `between` and `like`, which are null for null."""
        field = self._field(name)
        if self._takes("in"):
            self._expect("(")
            conditions = [pc.equal(field, self._literal(name))]
            while self._takes(","):
                conditions.append(pc.equal(field, self._literal(name)))
            self._expect(")")
            condition = conditions[0]
            for each in conditions[1:]:
                condition = condition | each
            return condition
        if self._takes("between"):
            low = self._literal(name)
            self._expect("and")
            return (field >= low) & (field <= self._literal(name))
        for keyword in ("like", "ilike"):
            if self._takes(keyword):
                pattern = self._literal(name)
                if not pa.types.is_string(pattern.type):
                    raise SpecError(
                        f"condition: {keyword} needs a column of texts, and {name} is "
                        f"{pattern.type}"
                    )
                ignore_case = keyword == "ilike"
                return pc.match_like(field, pattern.as_py(), ignore_case=ignore_case)
        raise self._wrong("a comparison such as =, in, between, like or is null")

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _takes(self, text: str) -> bool:
        """Go on behind a keyword or sign if it is the next one."""
        found = self._token.keyword == text or (
            self._token.kind == "sign" and self._token.text == text
        )
        self._next += found
        return found

    def _expect(self, text: str) -> None:
        if not self._takes(text):
            raise self._wrong(text)

    def _wrong(self, expected: str) -> SpecError:
        token = self._token
        found = repr(token.text) if token.text else "nothing"
        return SpecError(
            f"condition: expected {expected} at character {token.place}, found {found}; {GRAMMAR}"
        )

    def _column(self) -> str:
        token = self._token
        if token.kind not in ("word", "name") or token.keyword:
            raise self._wrong("a column")
        name = token.text if token.kind == "word" else token.text[1:-1].replace('""', '"')
        if self._is_score(name):
            self.scores[score_name(name)] = None
        elif name not in self._schema.names:
            near = get_close_matches(name, self._schema.names, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise SpecError(
                f"condition: there is no column {name!r}; {hint}the columns are: "
                f"{', '.join(self._schema.names)}"
            )
        self._next += 1
        return name

    def _is_score(self, name: str) -> bool:
        """Whether it names a score, and no column of its own."""
        names = self._schema.names
        return (
            name not in names
            and len(name) > len(SCORE_PREFIX)
            and name.startswith(SCORE_PREFIX)
            and "scores" in names
            and pa.types.is_map(self._schema.field("scores").type)
        )

    def _type(self, name: str) -> pa.DataType:
        if self._is_score(name):
            return self._schema.field("scores").type.item_type
        return self._schema.field(name).type

    def _field(self, name: str) -> ds.Expression:
        """A column as it is compared: Arrow compares no decimals with other numbers."""
        if self._is_score(name):
            return score_field(score_name(name))
        is_decimal = pa.types.is_decimal(self._type(name))
        return ds.field(name).cast(pa.float64()) if is_decimal else ds.field(name)

    def _literal(self, name: str) -> pa.Scalar:
        """The next value, as one that can be compared with a column."""
        token = self._token
        value: Literal
        if token.kind == "text":
            value = token.text[1:-1].replace("''", "'")
        elif token.kind == "number":
            is_whole = re.fullmatch(r"[+-]?\d+", token.text)
            value = int(token.text) if is_whole else float(token.text)
        elif token.keyword in ("true", "false"):
            value = token.keyword == "true"
        else:
            raise self._wrong("a number, a text in single quotes, true or false")
        self._next += 1
        return _comparable(name, self._type(name), value)


def _comparable(name: str, type_: pa.DataType, value: Literal) -> pa.Scalar:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    numeric = (
        pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)
    )
    if numeric and is_number:
        return pa.scalar(float(value) if pa.types.is_decimal(type_) else value)
    fits = pa.types.is_boolean(type_) if isinstance(value, bool) else isinstance(value, str)
    if fits and not numeric and not pa.types.is_nested(type_):
        try:
            return pa.scalar(value).cast(type_)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            pass
    hint = "; compare one of its entries, such as scores.clip" if pa.types.is_map(type_) else ""
    raise SpecError(f"condition: {name} is {type_} and cannot be compared with {value!r}{hint}")


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if match is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            raise SpecError(
                f"condition: cannot read {text[start : start + 20]!r} at character {start + 1}; "
                f"{GRAMMAR}"
            )
        kind = str(match.lastgroup)
        yield _Token(kind, match.group(kind), match.start(kind) + 1)
        place = match.end()
    yield _Token("end", "", len(text) + 1)
