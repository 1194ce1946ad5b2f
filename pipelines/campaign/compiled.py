"""Templates with their word lists found and their weights counted, ready to be drawn."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import comb, factorial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.campaign.lists import WordList, WordLists
from nightpress.pipelines.campaign.near_names import did_you_mean
from nightpress.pipelines.campaign.quotas import Weights, WeightsTooFine
from nightpress.pipelines.campaign.syntax import (
    Choice,
    ListReference,
    Template,
    TemplateError,
    Variable,
    parse,
)
from nightpress.pipelines.errors import ManifestError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.hashing import hash64

EXACT_COUNTS = 2_000
"""With more alternatives, the ways to draw several of them are counted as if they were alike."""


@dataclass(frozen=True)
class AxisValue:
    """A value of an axis, by the name that the template gives it."""

    name: str


@dataclass(frozen=True)
class Alternatives:
    """What a choice or a list draws from."""

    source: Choice | ListReference
    texts: pa.StringArray
    """(k,) the texts of those that are plain; the others are empty."""
    weights: Weights
    least: int
    most: int
    separator: str
    key: int
    """The hash of the choice, its occurrence and the campaign's seed."""
    path: str
    """Tells this choice from every other one of the campaign."""
    is_templated: NDArray[np.bool_]
    """(k,) whether an alternative has something to draw or look up."""
    options: Mapping[int, "Compiled"] = field(repr=False)
    """The templated ones, by their number."""

    @cached_property
    def any_templated(self) -> bool:
        """Whether any alternative is more than text."""
        return bool(self.is_templated.any())


Compiled = tuple[str | AxisValue | Alternatives, ...]
"""The parts of a template."""


@dataclass(frozen=True)
class _Entry:
    """One alternative before it is compiled."""

    template: Template
    words: WordList | None = None
    """The list that it stands in; None in the campaign itself."""
    number: int = 0
    """Which of its entries it is."""


class Compiler:
    """Finds what the templates of one campaign refer to.

    Args:
        lists: the campaign's word lists.
        axes: the names that `${...}` may use.
        seed: of all draws.
    """

    def __init__(self, lists: WordLists, axes: frozenset[str], seed: int) -> None:
        self._lists = lists
        self._axes = axes
        self._seed = seed
        self.used_lists: set[str] = set()
        """The names of the lists that any template can reach."""
        self.used_axes: set[str] = set()
        """The names that any template looks up."""
        self.notes: list[str] = []
        """What may not be what was meant."""

    def compile(self, template: Template, column: str) -> Compiled:
        """Find everything that a column's template refers to.

        Raises:
            TemplateError: it refers to something unknown; the offset is that of the reference.
            ManifestError: an entry of a list cannot be used; names its file, line and character.
        """
        salt = "" if column == "prompt" else column
        return self._compiled(template, salt, column, ())

    def _compiled(
        self, template: Template, salt: str, path: str, open_lists: tuple[str, ...]
    ) -> Compiled:
        parts: list[str | AxisValue | Alternatives] = []
        for number, part in enumerate(template.parts):
            match part:
                case str():
                    parts.append(part)
                case Variable():
                    parts.append(self._looked(part))
                case ListReference() | Choice():
                    parts.append(self._alternatives(part, salt, f"{path}/{number}", open_lists))
        return tuple(parts)

    def _looked(self, variable: Variable) -> AxisValue:
        if variable.name not in self._axes:
            raise TemplateError(variable.offset, unknown_axis(variable.name, self._axes))
        self.used_axes.add(variable.name)
        return AxisValue(variable.name)

    def _alternatives(
        self, part: Choice | ListReference, salt: str, path: str, open_lists: tuple[str, ...]
    ) -> Alternatives:
        only = _only_list(part)
        source = part if only is None else only
        inner_salt = salt
        if isinstance(source, ListReference):
            texts, weights, entries = self._entries_of(source, open_lists)
            open_lists = (*open_lists, *(each.name for each in self._lists.find(source.pattern)))
            inner_salt = f"{salt}\0{part.text}\0{part.occurrence}"
        else:
            texts, weights, entries = _options_of(source)
            if len(source.options) == 1 and not entries and not open_lists:
                why = "has one alternative, so its braces have no effect; as text they are \\{ \\}"
                self.notes.append(f"{source.text} {why}")
        least, most = _quantity(part, int((weights.values > 0).sum()))
        return Alternatives(
            source=part,
            texts=texts,
            weights=weights,
            least=least,
            most=most,
            separator=part.separator if isinstance(part, Choice) else "",
            key=key_of(f"{salt}\0{part.text}\0{part.occurrence}", self._seed),
            path=path,
            is_templated=_mask(len(texts), entries),
            options={
                number: self._option(entry, inner_salt, f"{path}.{number}", open_lists)
                for number, entry in entries.items()
            },
        )

    def _option(self, entry: _Entry, salt: str, path: str, open_lists: tuple[str, ...]) -> Compiled:
        try:
            return self._compiled(entry.template, salt, path, open_lists)
        except TemplateError as error:
            if entry.words is None:
                raise
            raise list_error(entry.words, entry.number, error) from error

    def _entries_of(
        self, part: ListReference, open_lists: tuple[str, ...]
    ) -> tuple[pa.StringArray, Weights, dict[int, _Entry]]:
        """The entries of all lists that a reference names."""
        found = self._lists.find(part.pattern)
        if not found:
            raise TemplateError(part.offset, unknown_list(part, self._lists))
        for each in found:
            if each.name in open_lists:
                chain = " -> ".join([*open_lists[open_lists.index(each.name) :], each.name])
                message = f"the list {each.name} refers to itself: {chain}"
                raise TemplateError(part.offset, message)
            each.require_entries()
        self.used_lists |= {each.name for each in found}
        texts: pa.StringArray = pa.concat_arrays([each.entries for each in found])
        entries: dict[int, _Entry] = {}
        first = 0
        for each in found:
            entries |= {first + row: entry for row, entry in _templated(each)}
            first += len(each.entries)
        plain = {number: entry.template.plain for number, entry in entries.items()}
        texts = _replaced(texts, {n: t for n, t in plain.items() if t is not None})
        rest = {number: entry for number, entry in entries.items() if plain[number] is None}
        return _replaced(texts, dict.fromkeys(rest, "")), _weights_of(found, part), rest


def key_of(text: str, seed: int) -> int:
    """The key of one choice of a campaign, below 2^64."""
    return int(hash64(pa.array([text], pa.string()), seed)[0])


def unknown_list(part: ListReference, lists: WordLists) -> str:
    """What is wrong with a reference that no list matches."""
    near = lists.near(part.pattern) if "*" not in part.pattern else ()
    if near:
        return f"{part.text}: no such list; did you mean {' or '.join(f'__{n}__' for n in near)}?"
    if not lists.names:
        return f"{part.text}: there are no lists; name their folder, such as `lists: lists/`"
    return f"{part.text}: no such list; {did_you_mean(part.pattern, lists.names, 'lists')}"


def unknown_axis(name: str, axes: frozenset[str]) -> str:
    """What is wrong with a `${name}` that no axis gives."""
    if ":" in name:
        return f"${{{name}}}: a default after `:` is not supported; name an axis, or axis.column"
    axis = name.partition(".")[0]
    if axis != name and axis in axes:
        columns = [each for each in axes if each.startswith(f"{axis}.")]
        hint = did_you_mean(name, columns, "columns")
        return f"${{{name}}}: the axis {axis} has no such column; {hint}"
    return f"${{{name}}}: no such axis; {did_you_mean(name, axes, 'axes')}"


def list_error(words: WordList, number: int, error: TemplateError) -> ManifestError:
    """The error for an entry of a list that cannot be used as a template."""
    return ManifestError([words.problem(number, str(error), error.offset)])


def _only_list(part: Choice | ListReference) -> ListReference | None:
    """The list whose entries a choice such as `{2$$__colours__}` draws from, if it is one."""
    if not isinstance(part, Choice) or len(part.options) != 1:
        return None
    parts = part.options[0].parts
    return parts[0] if len(parts) == 1 and isinstance(parts[0], ListReference) else None


def _options_of(part: Choice) -> tuple[pa.StringArray, Weights, dict[int, _Entry]]:
    plain = [option.plain for option in part.options]
    entries = {
        number: _Entry(option)
        for number, option in enumerate(part.options)
        if plain[number] is None
    }
    try:
        weights = Weights.of(part.weights)
    except WeightsTooFine as error:
        raise TemplateError(part.offset, f"{part.text}: {error}") from error
    return pa.array([text or "" for text in plain], pa.string()), weights, entries


def _templated(words: WordList) -> Iterator[tuple[int, _Entry]]:
    """The entries that may be more than text, and their numbers in the list."""
    for row in words.maybe_templates:
        try:
            template = parse(words.entries[row].as_py())
        except TemplateError as error:
            raise list_error(words, row, error) from error
        yield row, _Entry(template, words, row)


def _weights_of(lists: tuple[WordList, ...], part: ListReference) -> Weights:
    if all(each.weights is None for each in lists):
        return Weights.equal(sum(len(each.entries) for each in lists))
    texts = [w for each in lists for w in each.weights or ["1"] * len(each.entries)]
    distinct = {text: Fraction(text) for text in set(texts)}
    weights = [distinct[text] for text in texts]
    if not any(weights):
        raise TemplateError(part.offset, f"every entry of {part.text} has the weight 0")
    try:
        return Weights.of(weights)
    except WeightsTooFine as error:
        raise TemplateError(part.offset, f"{part.text}: {error}") from error


def _quantity(part: Choice | ListReference, num_possible: int) -> tuple[int, int]:
    """How many are drawn, at least and at most."""
    if isinstance(part, ListReference):
        return 1, 1
    most = num_possible if part.most == -1 else part.most
    if max(part.least, most) > num_possible:
        what = plural(num_possible, "alternative")
        message = f"{part.text} asks for {max(part.least, most):,} of {what}"
        raise TemplateError(part.offset, message)
    return part.least, most


def _replaced(texts: pa.StringArray, new: Mapping[int, str]) -> pa.StringArray:
    if not new:
        return texts
    mask = _mask(len(texts), new)
    return pc.replace_with_mask(texts, pa.array(mask), pa.array(list(new.values()), pa.string()))


def _mask(length: int, numbers: Mapping[int, object]) -> NDArray[np.bool_]:
    found = np.zeros(length, np.bool_)
    found[list(numbers)] = True
    return found


def varies(compiled: Compiled) -> bool:
    """Whether a template has anything to draw or look up."""
    return not all(isinstance(part, str) for part in compiled)


def num_texts(compiled: Compiled) -> int:
    """How many texts a template can draw for one combination of the axes.

    Equal texts that are drawn in different ways count as often.
    """
    total = 1
    for part in compiled:
        if isinstance(part, Alternatives):
            total *= _num_ways(part)
    return total


def _num_ways(part: Alternatives) -> int:
    if not part.options and part.least == part.most == 1:
        return int((part.weights.values > 0).sum())
    ways = [
        num_texts(part.options[n]) if n in part.options else 1
        for n in np.flatnonzero(part.weights.values > 0).tolist()
    ]
    if len(set(ways)) == 1 or len(ways) > EXACT_COUNTS:
        each = max(ways)
        numbers = range(part.least, part.most + 1)
        return sum(comb(len(ways), m) * factorial(m) * each**m for m in numbers)
    sums = [1] + [0] * part.most
    for own in ways:
        for m in range(part.most, 0, -1):
            sums[m] += sums[m - 1] * own
    return sum(sums[m] * factorial(m) for m in range(part.least, part.most + 1))
