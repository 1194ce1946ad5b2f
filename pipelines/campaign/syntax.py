r"""The template language of a campaign: text with choices, word lists and variables.

::

    {a|2::b}         one of the alternatives; b twice as often as a
    {2$$, $$a|b|c}   two of them, joined by ", "; {1-2$$a|b|c} one or two
    __colours__      an entry of a word list; __hats/*__ of all lists that match
    ${product.name}  a value of an axis
    ${x=!{a|b}}      names a value that ${x} repeats; without ! each ${x} is drawn anew
    \{ \} \| \$ \_ \# \: \< \@ \~ \! \% \\   the character itself; \${x} the text ${x}

A line that begins with `#` is a comment, and line breaks become spaces. `#` elsewhere, and a `$`
that opens no `${`, are text.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction

MAX_NESTING = 50
"""The deepest nesting of choices."""

MAX_PARTS = 10_000
"""The most parts of one template, counting what `${name}` repeats: they can grow exponentially."""

SPECIAL = r"[{}\\$\n#]|__"
"""Matches in every text that is not just itself."""

_ESCAPE = re.compile(r"\\(\$\{[^{}]*\}|[{}|$_#:<@~!%\\])")
_QUANTITY = re.compile(r"\s*(\d+)?(-)?(\d+)?\$\$(?:([^{}|$\n]*|[\s,;/&+|-]*)\$\$)?")
_LIKE_A_QUANTITY = re.compile(r"[\s\d.,~-]*[\d.,~-]\s*\$\$")
_WEIGHT = re.compile(r"\s*(\d+\.?\d*|\.\d+)[ \t]*::")
_LIKE_A_WEIGHT = re.compile(r"\s*([-+]?[\d.,]*\d[\d.,]*(?:[eE][-+]?\d+)?%?)[ \t]*::")
_LIST = re.compile(r"__((?!_)\S(?:(?!__)[^{}|$\n])*?)__(?!_(?!_))")
_LIST_NAME = re.compile(r"[\w*?-][\w./ *?+&'()-]*")
_VARIABLE = re.compile(r"\$\{([^{}=]*)(=!?|\})")
_FOREIGN = (
    (re.compile(r"\{[@~!]"), "{mark} names a sampler in dynamic prompts, and has no meaning here"),
    (re.compile(r"\{[%#]"), "{mark} opens a statement of Jinja, which campaigns do not have"),
    (
        re.compile(r"<(random|wildcard|wc)(\[[^\]\n]*\])?:"),
        "{mark} is SwarmUI's; write {{a|b}} or __list__, or convert lists with nightpress import",
    ),
)
"""What other programs read as more than text, and what is said about it."""

_BREAK = re.compile(r"[ \t]*\n[ \t]*")
_COMMENT = re.compile(r"[ \t]*#[^\n]*(?:\n[ \t]*|$)")


class TemplateError(ValueError):
    """A template that cannot be understood, and the offset of the mistake in its text."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


@dataclass(frozen=True)
class Variable:
    """`${name}`: a value of an axis."""

    name: str
    offset: int = field(compare=False)


@dataclass(frozen=True)
class ListReference:
    """`__pattern__`: an entry of the word lists that match."""

    pattern: str
    offset: int = field(compare=False)
    occurrence: int = 0
    """How often the same text stands earlier in the template."""

    @property
    def text(self) -> str:
        """As it is written."""
        return f"__{self.pattern}__"


@dataclass(frozen=True)
class Template:
    """A text whose parts are drawn or looked up; adjacent texts are one."""

    parts: tuple["Part", ...]

    @property
    def plain(self) -> str | None:
        """The text, if it is the same in every row."""
        if not self.parts:
            return ""
        only = self.parts[0]
        return only if len(self.parts) == 1 and isinstance(only, str) else None


@dataclass(frozen=True)
class Choice:
    """`{a|2::b}`: some of several alternatives."""

    options: tuple[Template, ...]
    weights: tuple[Fraction, ...]
    least: int
    most: int
    """How many are drawn."""
    separator: str
    text: str
    """As it is written."""
    offset: int = field(compare=False)
    occurrence: int = 0
    """How often the same text stands earlier in the template."""


Part = str | Variable | ListReference | Choice

Occurrence = Callable[[Choice | ListReference], int]
"""Gives each choice and list the number that tells it from others written alike."""


def parse(text: str) -> Template:
    """Parse a template.

    Raises:
        TemplateError: it cannot be understood.
    """
    return _numbered(_Parser(text).whole())


def parts_of(template: Template) -> Iterator[Variable | ListReference | Choice]:
    """Everything in a template that is not text, at any depth, in the order of the text."""
    for part in template.parts:
        if isinstance(part, str):
            continue
        yield part
        if isinstance(part, Choice):
            for option in part.options:
                yield from parts_of(option)


class _Parser:
    """Reads one template from its beginning to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._named: dict[str, Template] = {}
        """What `${name=...}` has named so far; drawn anew at each use."""
        self._drawn_once: dict[str, Template] = {}
        """What `${name=!...}` has named so far; drawn once."""
        self._num_kept = 0
        self._num_parts = 0

    def whole(self) -> Template:
        parts = self._parts("")
        if self._at < len(self._text):
            message = "} closes no choice; write \\} for the character itself"
            raise TemplateError(self._at, message)
        first, last = parts[:1], parts[-1:]
        if first and isinstance(first[0], str):
            parts[0] = first[0].lstrip()
        if last and isinstance(parts[-1], str):
            parts[-1] = parts[-1].rstrip()
        return Template(tuple(part for part in parts if part != ""))

    def _parts(self, stops: str) -> list[Part]:
        """The parts up to a character of `stops`, `}`, or the end."""
        parts: list[Part] = []
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "}" or character in stops:
                break
            start, found = self._at, self._part()
            self._num_parts += len(found) if isinstance(found, list) else 1
            if self._num_parts > MAX_PARTS + len(self._text):
                raise TemplateError(start, f"${{...}} repeats more than {MAX_PARTS:,} parts")
            for part in found if isinstance(found, list) else [found]:
                if isinstance(part, str) and parts and isinstance(parts[-1], str):
                    parts[-1] += part
                else:
                    parts.append(part)
        return [part for part in parts if part != ""]

    def _part(self) -> Part | list[Part]:
        text, start = self._text, self._at
        at_line_start = not text[text.rfind("\n", 0, start) + 1 : start].strip()
        if at_line_start and (comment := _COMMENT.match(text, start)):
            self._at = comment.end()
            return ""
        if (escape := _ESCAPE.match(text, start)) is not None:
            self._at = escape.end()
            return escape.group(1)
        self._refuse_foreign()
        if text[start] == "{":
            return self._choice()
        if text.startswith("${", start):
            return self._variable()
        if (found := _LIST.match(text, start)) is not None:
            return self._list(found)
        if (line_break := _BREAK.match(text, start)) is not None:
            self._at = line_break.end()
            return " "
        self._at += 1
        return text[start]

    def _refuse_foreign(self) -> None:
        """Refuse what other programs would not take as text."""
        for pattern, message in _FOREIGN:
            if (found := pattern.match(self._text, self._at)) is not None:
                mark = found.group()
                escaped = f"{mark[:-1]}\\{mark[-1]}" if mark[0] == "{" else f"\\{mark}"
                why = f"{message.format(mark=mark)}; as text it is {escaped}"
                raise TemplateError(self._at, why)

    def _list(self, found: re.Match[str]) -> ListReference:
        name = found.group(1)
        self._at = found.end()
        if not _LIST_NAME.fullmatch(name):
            raise TemplateError(
                found.start(),
                f"{found.group()} is not the name of a list; names have letters, digits, "
                "blanks, . / - + & ' and *, or write \\_ for an underscore",
            )
        return ListReference(name, found.start())

    def _variable(self) -> Part | list[Part]:
        start = self._at
        found = _VARIABLE.match(self._text, start)
        if found is None:
            message = "${ is not closed; write ${axis} or ${axis.column}, or \\${ for the text"
            raise TemplateError(start, message)
        name, mark = found.group(1).strip(), found.group(2)
        if not name:
            raise TemplateError(start, "${} names nothing; write ${axis} or ${axis.column}")
        self._at = found.end()
        if mark != "}":
            self._define(name, start, is_drawn_once=mark == "=!")
            return ""
        if name in self._drawn_once:
            return list(self._drawn_once[name].parts)
        if name in self._named:
            return list(self._named[name].parts)
        return Variable(name, start)

    def _define(self, name: str, start: int, is_drawn_once: bool) -> None:
        if name in self._named or name in self._drawn_once:
            raise TemplateError(start, f"${{{name}}} is given a value twice")
        value = Template(tuple(self._parts("")))
        self._close(start, f"${{{name}= is not closed")
        if not is_drawn_once:
            self._named[name] = value
            return
        self._num_kept += 1
        self._drawn_once[name] = _kept(value, -self._num_kept)

    def _choice(self) -> Choice:
        start = self._at
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise TemplateError(start, f"choices are nested more than {MAX_NESTING} deep")
        self._at += 1
        least, most, separator = self._quantity()
        options: list[Template] = []
        weights: list[Fraction] = []
        while True:
            weights.append(self._weight())
            options.append(Template(tuple(self._parts("|"))))
            if self._at >= len(self._text) or self._text[self._at] == "}":
                break
            self._at += 1
        self._close(start, "{ opens a choice that is not closed; write \\{ for the character")
        self._depth -= 1
        written = self._text[start : self._at]
        if not any(weights):
            raise TemplateError(start, f"every alternative of {written} has the weight 0")
        return Choice(tuple(options), tuple(weights), least, most, separator, written, start)

    def _weight(self) -> Fraction:
        """The weight that an alternative begins with, 1 if there is none."""
        weight = _WEIGHT.match(self._text, self._at)
        if weight is not None:
            self._at = weight.end()
            return Fraction(weight.group(1))
        malformed = _LIKE_A_WEIGHT.match(self._text, self._at)
        if malformed is not None:
            written = malformed.group(1)
            message = (
                f"the weight {written!r} is not a decimal number such as 2 or 0.5; as text it is "
                f"{written}\\::"
            )
            raise TemplateError(malformed.start(1), message)
        return Fraction(1)

    def _quantity(self) -> tuple[int, int, str]:
        """How many alternatives are drawn, and what joins them; -1 for all that there are."""
        found = _QUANTITY.match(self._text, self._at)
        if found is None or not (found.group(1) or found.group(3)):
            malformed = _LIKE_A_QUANTITY.match(self._text, self._at)
            if malformed is not None:
                message = (
                    f"{malformed.group().strip()} does not say how many are drawn; write 2$$, "
                    "1-3$$, 1-$$ or -3$$, or \\$\\$ for the text"
                )
                raise TemplateError(self._at, message)
            return 1, 1, ", "
        low, dash, high, separator = found.groups()
        least = int(low or 0)
        most = int(high) if high else (-1 if dash else least)
        if most != -1 and most < least:
            message = f"{found.group().strip()} asks for at least {least} and at most {most}"
            raise TemplateError(self._at, message)
        self._at = found.end()
        return least, most, ", " if separator is None else separator

    def _close(self, start: int, message: str) -> None:
        if self._at >= len(self._text):
            raise TemplateError(start, message)
        self._at += 1


def _kept(template: Template, occurrence: int) -> Template:
    """The template with a fixed occurrence, so that each use of it draws the same."""
    return _renumbered(template, lambda part: occurrence)


def _numbered(template: Template) -> Template:
    """Number the choices and lists that are written alike; those drawn once have their number."""
    seen: Counter[str] = Counter()

    def occurrence(part: Choice | ListReference) -> int:
        if part.occurrence < 0:
            return part.occurrence
        seen[part.text] += 1
        return seen[part.text] - 1

    return _renumbered(template, occurrence)


def _renumbered(template: Template, occurrence: Occurrence) -> Template:
    parts: list[Part] = []
    for part in template.parts:
        if isinstance(part, ListReference):
            part = replace(part, occurrence=occurrence(part))
        elif isinstance(part, Choice):
            number = occurrence(part)
            options = tuple(_renumbered(option, occurrence) for option in part.options)
            part = replace(part, occurrence=number, options=options)
        parts.append(part)
    return Template(tuple(parts))
