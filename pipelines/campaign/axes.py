"""The axes of a campaign: their values, and the columns that each value brings along."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from nightpress.pipelines.campaign.lists import WordLists
from nightpress.pipelines.campaign.near_names import did_you_mean
from nightpress.pipelines.campaign.places import Key, Places
from nightpress.pipelines.campaign.spec import CampaignSpec, CountAxis, ListAxis, TableAxis
from nightpress.pipelines.campaign.syntax import TemplateError, parse
from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.settings import is_setting
from nightpress.pipelines.records import DRAW_KEY

NOT_BY_AXES = ("prompt", "id", "seed")
"""Settings that a value of an axis cannot have; templates give them."""


@dataclass(frozen=True)
class AxisTable:
    """A table whose rows are the values of an axis."""

    url: str
    values: pa.Table
    texts: pa.Table
    """The same values as text, as the file has them."""
    lines: Mapping[int, int] = field(default_factory=dict)
    """Row -> the line on which it begins, in a text file."""

    def problem(self, row: int | None, column: str | None, message: str) -> Problem:
        """A problem with a row of the table."""
        return Problem(self.url, row, column, message, None if row is None else self.lines.get(row))


ReadTable = Callable[[str], AxisTable]
"""Reads the table at a URL that a campaign names."""


@dataclass(frozen=True)
class Axis:
    """k values, each with its columns."""

    name: str
    labels: pa.StringArray
    """(k,) what tells the values apart."""
    texts: Mapping[str, pa.StringArray]
    """What templates may look up, by name: the axis itself, or axis.column. (k,) each; null where a
    value lacks the column."""
    carried: Mapping[str, pa.Array]
    """Columns of the manifest that are carried; (k,) each."""
    settings: Mapping[str, pa.Array]
    """Columns of the manifest that are settings; (k,) each."""
    table: AxisTable | None = None
    """The table that the values are from."""
    lists: tuple[str, ...] = ()
    """The names of the lists that the values are from."""

    def __len__(self) -> int:
        return len(self.labels)


def read_axes(
    spec: CampaignSpec, places: Places, lists: WordLists, read_table: ReadTable
) -> tuple[Axis, ...]:
    """The axes of a campaign, in the order of the file.

    Raises:
        ManifestError: an axis has no values, a value twice, or one that is not allowed.
        StoreError: a table cannot be read.
    """
    reader = _AxisReader(places, lists, read_table)
    axes = tuple(reader.axis(name, value) for name, value in spec.axes.items())
    owners: dict[str, str] = dict.fromkeys(spec.settings, "the campaign itself")
    for axis in axes:
        for setting in axis.settings:
            if setting in owners:
                message = f"{setting} is given by {owners[setting]} too; give it once"
                raise places.error(("axes", axis.name), message)
            owners[setting] = f"the axis {axis.name}"
    return axes


class _AxisReader:
    """Reads one axis after the other."""

    def __init__(self, places: Places, lists: WordLists, read_table: ReadTable) -> None:
        self._places, self._lists, self._read_table = places, lists, read_table

    def axis(self, name: str, given: Any) -> Axis:
        key: Key = ("axes", name)
        is_taken = is_setting(name) or name == DRAW_KEY
        if not name or set(name) & set("${}.=:\n") or name != name.strip() or is_taken:
            why = "is a column already" if is_taken else "has a character with a meaning of its own"
            message = f"an axis cannot be named {name!r}: the name {why}; choose another"
            raise self._places.error(key, message)
        match given:
            case {"from": str()}:
                return self._table(name, self._source(TableAxis, key, given).from_)
            case {"list": str()}:
                return self._list(name, self._source(ListAxis, key, given).list_)
            case {"count": count} if not isinstance(count, Mapping):
                count = self._source(CountAxis, key, given).count
                return _scalars(name, list(range(1, count + 1)))
            case list() if all(isinstance(value, Mapping) for value in given) and given:
                return self._records(name, given)
            case list():
                return self._plain(name, given)
            case Mapping():
                return self._named(name, given)
            case _:
                message = (
                    "an axis is a list of values, a mapping of names to columns, {from: a table}, "
                    "{list: name} or {count: 5}"
                )
                raise self._places.error(key, message)

    def _source(self, model: Any, key: Key, given: Any) -> Any:
        try:
            return model.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            allowed = ", ".join(f.alias or n for n, f in model.model_fields.items())
            message = f"{first['msg'][:1].lower()}{first['msg'][1:]}; allowed here: {allowed}"
            if first["type"] == "extra_forbidden":
                message = f"{first['loc'][0]}: no such key; allowed here: {allowed}"
            raise self._places.error((*key, *first["loc"]), message) from error

    def _plain(self, name: str, values: Sequence[Any]) -> Axis:
        key: Key = ("axes", name)
        if not values:
            raise self._places.error(key, "an axis has at least one value")
        for number, value in enumerate(values):
            if value is None or isinstance(value, list | Mapping):
                what = "empty" if value is None else "neither a text nor a number"
                message = f"value {number + 1} of the axis {name} is {what}"
                raise self._places.error((*key, number), message)
            self._refuse_template((*key, number), value)
        axis = _scalars(name, values)
        self._refuse_repeats(axis, lambda number: (*key, number))
        return axis

    def _records(self, name: str, values: Sequence[Mapping[str, Any]]) -> Axis:
        """A list of mappings: the first key of the first one names the values."""
        first = next(iter(values[0]), "")
        for number, value in enumerate(values):
            if value.get(first) is None:
                what = f"has no {first}, which names it" if first else "is empty"
                message = f"value {number + 1} of the axis {name} {what}"
                raise self._places.error(("axes", name, number), message)
        labels = [text_of(value[first]) for value in values]
        keys: list[Key] = [("axes", name, number) for number in range(len(values))]
        axis = self._with_columns(name, labels, values, keys)
        self._refuse_repeats(axis, lambda number: ("axes", name, number))
        return axis

    def _named(self, name: str, values: Mapping[str, Any]) -> Axis:
        key: Key = ("axes", name)
        if not values:
            raise self._places.error(key, "an axis has at least one value")
        for label, value in values.items():
            if value is not None and not isinstance(value, Mapping):
                message = (
                    f"{label} must be a mapping of columns, such as {label}: {{width: 1024}}; or "
                    f"write the values as a list"
                )
                raise self._places.error((*key, label), message)
        keys: list[Key] = [(*key, label) for label in values]
        return self._with_columns(name, list(values), [v or {} for v in values.values()], keys)

    def _with_columns(
        self,
        name: str,
        labels: Sequence[str],
        values: Sequence[Mapping[str, Any]],
        keys: Sequence[Key],
    ) -> Axis:
        texts = {name: pa.array(labels, pa.string())}
        carried: dict[str, pa.Array] = dict(texts)
        settings: dict[str, pa.Array] = {}
        for column in dict.fromkeys(column for value in values for column in value):
            for value, key in zip(values, keys, strict=True):
                self._check_value((*key, column), column, value.get(column))
            found = [value.get(column) for value in values]
            (settings if is_setting(column) else carried)[
                column if is_setting(column) else f"{name}.{column}"
            ] = typed(found)
            texts[f"{name}.{column}"] = pa.array(
                [None if v is None else text_of(v) for v in found], pa.string()
            )
        return Axis(name, texts[name], texts, carried, settings)

    def _check_value(self, key: Key, column: str, value: Any) -> None:
        if column in NOT_BY_AXES:
            message = f"a value of an axis cannot set {column}; use ${{...}} in `{column}:`"
            raise self._places.error(key, message)
        if isinstance(value, Mapping) or (isinstance(value, list) and not is_setting(column)):
            raise self._places.error(key, f"{column} must be a text, a number or a boolean")
        self._refuse_template(key, value)

    def _refuse_template(self, key: Key, value: Any) -> None:
        """Values are text; what looks like a template in the campaign itself is a mistake."""
        if not isinstance(value, str):
            return
        try:
            is_text = parse(value).plain == value.strip()
        except TemplateError:
            is_text = False
        if not is_text:
            message = (
                f"{value!r} looks like a template, but the values of axes are text; put the choice "
                "into the prompt, or use a list as the axis with `{list: name}`"
            )
            raise self._places.error(key, message)

    def _list(self, name: str, pattern: str) -> Axis:
        pattern = pattern.removeprefix("__").removesuffix("__")
        found = self._lists.find(pattern)
        key: Key = ("axes", name, "list")
        if not found:
            hint = did_you_mean(pattern, self._lists.names, "lists")
            raise self._places.error(key, f"{pattern}: no such list; {hint}")
        for each in found:
            each.require_entries()
        labels: pa.StringArray = pa.concat_arrays([each.entries for each in found])
        names = tuple(each.name for each in found)
        axis = Axis(name, labels, {name: labels}, {name: labels}, {}, lists=names)
        self._refuse_repeats(axis, lambda number: key)
        for each in found:
            for number in each.maybe_templates:
                text = each.entries[number].as_py()
                if parse_or_none(text) != text:
                    message = (
                        f"{text!r} is a template, but the axis {name} takes this list's entries as "
                        "they are; name the list in the prompt instead"
                    )
                    raise ManifestError([each.problem(number, message)])
        return axis

    def _table(self, name: str, url: str) -> Axis:
        table = self._read_table(url)
        if not table.values.num_rows:
            raise ManifestError([table.problem(None, None, "the table has no rows")])
        if not table.values.num_columns:
            raise ManifestError([table.problem(None, None, "the table has no columns")])
        first = table.texts.column_names[0]
        labels = table.texts[first].combine_chunks()
        missing = np.flatnonzero(np.array(pc.is_null(labels)))
        if len(missing):
            row = int(missing[0])
            message = f"it is empty, but it names the value of the axis {name}"
            raise ManifestError([table.problem(row, first, message)])
        columns = {f"{name}.{column}": column for column in table.values.column_names}
        texts = {full: table.texts[column].combine_chunks() for full, column in columns.items()}
        carried = {full: table.values[column].combine_chunks() for full, column in columns.items()}
        axis = Axis(name, labels, {name: labels} | texts, {name: labels} | carried, {}, table)
        twice = _first_repeat(labels)
        if twice is not None:
            message = (
                f"{labels[twice].as_py()!r} is there twice, but the first column names the values "
                f"of the axis {name}"
            )
            raise ManifestError([table.problem(twice, first, message)])
        return axis

    def _refuse_repeats(self, axis: Axis, key: Callable[[int], Key]) -> None:
        twice = _first_repeat(axis.labels)
        if twice is not None:
            message = f"the axis {axis.name} has the value {axis.labels[twice].as_py()!r} twice"
            raise self._places.error(key(twice), message)


def text_of(value: Any) -> str:
    """A scalar as templates write it: text as it is, numbers and booleans as in JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def typed(values: Sequence[Any]) -> pa.Array:
    """The values as one column: of their own type if they share one, else as text."""
    given = [value for value in values if value is not None]
    if any(isinstance(value, list) for value in given):
        return pa.array(values)
    kinds = {bool if isinstance(v, bool) else type(v) for v in given}
    if kinds <= {int} or kinds <= {bool} or kinds <= {str} or kinds <= {int, float}:
        try:
            return pa.array([float(v) if float in kinds and v is not None else v for v in values])
        except (pa.ArrowInvalid, OverflowError):  # an integer beyond 64 bits
            pass
    return pa.array([None if v is None else text_of(v) for v in values], pa.string())


def parse_or_none(text: str) -> str | None:
    """The text that a template stands for, if it is only text."""
    try:
        return parse(text).plain
    except TemplateError:
        return None


def _scalars(name: str, values: Sequence[Any]) -> Axis:
    labels = pa.array([text_of(value) for value in values], pa.string())
    return Axis(name, labels, {name: labels}, {name: typed(values)}, {})


def _first_repeat(labels: pa.StringArray) -> int | None:
    """The first value that is there already."""
    encoded = labels.dictionary_encode()
    if len(encoded.dictionary) == len(labels):
        return None
    seen: set[int] = set()
    for row, code in enumerate(encoded.indices.to_pylist()):
        if code in seen:
            return row
        seen.add(code)
    return None


def zipped(spec: CampaignSpec, axes: Sequence[Axis], places: Places) -> list[list[int]]:
    """Which axes go in step: the axes of each factor of the product, by number.

    Raises:
        ManifestError: a group names no axis, or axes of different lengths.
    """
    numbers = {axis.name: number for number, axis in enumerate(axes)}
    group_of: dict[int, list[int]] = {}
    for place, names in enumerate(spec.zip):
        key: Key = ("zip", place)
        for position, name in enumerate(names):
            if name not in numbers:
                hint = did_you_mean(name, numbers, "axes")
                raise places.error((*key, position), f"{name}: no such axis; {hint}")
            if numbers[name] in group_of or name in names[:position]:
                raise places.error((*key, position), f"the axis {name} is zipped twice")
        lengths = {name: len(axes[numbers[name]]) for name in names}
        if len(set(lengths.values())) > 1:
            each = ", ".join(f"{name} has {plural(n, 'value')}" for name, n in lengths.items())
            raise places.error(key, f"zipped axes must be equally long, but {each}")
        group = [numbers[name] for name in names]
        group_of |= dict.fromkeys(group, group)
    factors: list[list[int]] = []
    for number in range(len(axes)):
        group = group_of.get(number, [number])
        if group not in factors:
            factors.append(group)
    return factors
