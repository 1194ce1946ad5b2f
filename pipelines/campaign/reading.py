"""Read a campaign file and build the campaign that it describes.

The caller gives the word lists and a way to read tables; nothing here touches a store.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from nightpress.pipelines.campaign.axes import Axis, ReadTable, read_axes
from nightpress.pipelines.campaign.campaign import Campaign, Templates, names_in
from nightpress.pipelines.campaign.combining import Combinations
from nightpress.pipelines.campaign.compiled import (
    Alternatives,
    Compiled,
    Compiler,
    key_of,
)
from nightpress.pipelines.campaign.lists import WordLists
from nightpress.pipelines.campaign.near_names import did_you_mean
from nightpress.pipelines.campaign.places import Key, Places
from nightpress.pipelines.campaign.quotas import shares
from nightpress.pipelines.campaign.spec import NAMES, CampaignSpec, Constant
from nightpress.pipelines.campaign.syntax import (
    TemplateError,
    parse,
)
from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.job.models_section import MODEL
from nightpress.pipelines.job.settings import SETTING_COLUMNS, is_setting
from nightpress.pipelines.job.validation_messages import explain
from nightpress.pipelines.job.yaml_text import NotPlain, parsed
from nightpress.pipelines.records import DRAW_KEY

_LINE = re.compile(r"line (\d+): ")


def read_spec(url: str, data: bytes) -> tuple[CampaignSpec, Places]:
    """Read a campaign file.

    Raises:
        ManifestError: it is not YAML in UTF-8, or a key is missing, unknown or wrong.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = (
            f"byte 0x{data[error.start]:02x} is not UTF-8 text (perhaps the file was saved as "
            "Windows-1252); save it as UTF-8"
        )
        raise ManifestError([Problem(url, None, None, message, line)]) from error
    try:
        values = parsed(text)
    except NotPlain as error:
        message = str(error)
        found = _LINE.match(message)
        line_number = int(found.group(1)) if found else None
        hint = _syntax_hint(text, line_number) if "not valid YAML" in message else ""
        message = _LINE.sub("", message, count=1) + hint
        raise ManifestError([Problem(url, None, None, message, line_number)]) from error
    if not isinstance(values, Mapping):
        message = 'a campaign is a mapping of keys, such as `prompt: "a photo of ${product}"`'
        raise ManifestError([Problem(url, None, None, message, 1)])
    places = Places(url, text)
    _refuse_unknown_keys(values, places)
    try:
        return CampaignSpec.model_validate(values), places
    except ValidationError as error:
        problems = [_problem(message, places) for message in explain(error, CampaignSpec, values)]
        raise ManifestError(problems) from error


def build(spec: CampaignSpec, places: Places, lists: WordLists, read_table: ReadTable) -> Campaign:
    """Build a campaign, without making any row.

    Raises:
        ManifestError: something it names is not there, or cannot be used.
        StoreError: a table cannot be read.
    """
    axes = read_axes(spec, places, lists, read_table)
    builder = _Builder(spec, places, lists, axes)
    templates = builder.templates()
    combinations = Combinations(spec, axes, builder.covered(templates), places)
    builder.check_names()
    builder.check_use(templates)
    builder.check_shares(templates, combinations)
    builder.check_ids(templates, combinations)
    return Campaign(spec, axes, combinations, templates)


class _Builder:
    """Builds the templates of one campaign, and checks what they use."""

    def __init__(
        self, spec: CampaignSpec, places: Places, lists: WordLists, axes: tuple[Axis, ...]
    ) -> None:
        self._spec, self._places, self._lists, self._axes = spec, places, lists, axes
        self._texts = {name: texts for axis in axes for name, texts in axis.texts.items()}
        self._compiler = Compiler(lists, frozenset(self._texts), spec.draw.seed)
        self._sources: dict[str, str] = {}

    def templates(self) -> Templates:
        """Compile every template."""
        texts: dict[str, Compiled] = {}
        constants: dict[str, pa.Scalar] = {}
        prefixes: dict[Key, Mapping[str, Constant]] = {
            (): {"prompt": self._spec.prompt, **self._spec.settings},
            ("columns",): self._spec.columns,
        }
        for prefix, columns in prefixes.items():
            for name, value in columns.items():
                if name in texts or name in constants or (name in SETTING_COLUMNS and prefix):
                    message = f"{name} is a setting; write it as a key of the campaign"
                    raise self._places.error((*prefix, name), message)
                if name == DRAW_KEY or any(name in axis.carried for axis in self._axes):
                    owner = "what a row is drawn from" if name == DRAW_KEY else "an axis"
                    message = f"the column {name} is that of {owner}; choose another name"
                    raise self._places.error((*prefix, name), message)
                if isinstance(value, str):
                    texts[name] = self._compiled(name, value, (*prefix, name))
                else:
                    constants[name] = pa.scalar(value)
        identity = None
        if self._spec.id is not None:
            identity = self._compiled("id", self._spec.id, ("id",))
            if any(isinstance(part, Alternatives) for part in identity):
                message = "an id cannot be drawn, as drawing depends on it; use ${axis} only"
                raise self._places.error(("id",), message)
        self._refuse_empty_values()
        of_axes = {name for axis in self._axes for name in axis.lists}
        used = frozenset(self._compiler.used_lists | of_axes)
        notes = tuple(dict.fromkeys(self._compiler.notes))
        return Templates(identity, texts, constants, notes, used, self._digest(constants))

    def _compiled(self, column: str, text: str, key: Key) -> Compiled:
        self._refuse_joined_comments(column, key)
        try:
            template = parse(text)
            if not template.parts and column in ("prompt", "id"):
                hint = " (a line that begins with # is a comment)" if "#" in text else ""
                raise TemplateError(0, f"the {column} is empty{hint}")
            self._sources[column] = text
            return self._compiler.compile(template, column)
        except TemplateError as error:
            raise self._places.error(key, str(error), error.offset) from error

    def _refuse_joined_comments(self, column: str, key: Key) -> None:
        """Refuse a comment on a line that YAML joins with others."""
        place = self._places.comment_in_joined_lines(key)
        if place is not None:
            message = (
                "YAML joins these lines, so this would be no comment of one line; write | before "
                "the text to keep its lines, or \\# for the sign itself"
            )
            problem = Problem(self._places.url, None, column, message, place.line, place.character)
            raise ManifestError([problem])

    def _digest(self, constants: Mapping[str, pa.Scalar]) -> int:
        """Hash of everything that decides what is drawn, but the values of the axes."""
        used = self._compiler.used_lists
        lists = [self._lists.by_name[name].digest for name in sorted(used)]
        texts = [f"{name}\0{text}" for name, text in sorted(self._sources.items())]
        texts += [f"{name}\0={value.as_py()!r}" for name, value in sorted(constants.items())]
        texts += sorted(self._spec.seed_by or ())
        return key_of("\0\0".join([*texts, *sorted(used), *lists]), self._spec.draw.seed)

    def _refuse_empty_values(self) -> None:
        """Refuse a `${name}` that some value of the axis lacks."""
        for axis in self._axes:
            for name in sorted(self._compiler.used_axes & set(axis.texts)):
                empty = np.flatnonzero(np.array(pc.is_null(axis.texts[name])))
                if not len(empty):
                    continue
                row, column = int(empty[0]), name.removeprefix(f"{axis.name}.")
                label = axis.labels[row].as_py()
                message = f"the value {label!r} of the axis {axis.name} has no {column}"
                message += f", but a template uses ${{{name}}}"
                if axis.table is not None:
                    raise ManifestError([axis.table.problem(row, column, message)])
                is_list = isinstance(self._spec.axes[axis.name], list)
                raise self._places.error(("axes", axis.name, row if is_list else label), message)

    def covered(self, templates: Templates) -> list[Alternatives]:
        """The choices of the prompt that `cover` names, if they must be combined with others."""
        cover = self._spec.draw.covered
        if cover is None:
            return []
        found = []
        for place, name in enumerate(cover.axes or ()):
            if name.startswith(("__", "{")):
                found.append(self._choice(templates, name, place))
        return found if cover.strength > 1 else []

    def _choice(self, templates: Templates, text: str, place: int) -> Alternatives:
        key: Key = ("draw", "cover", place)
        choices = [p for p in templates.texts["prompt"] if isinstance(p, Alternatives)]
        for part in choices:
            if part.source.text == text:
                if part.most != 1 or part.least != 1:
                    message = f"{text} draws several at once, and cannot be covered"
                    raise self._places.error(key, message)
                return part
        written = ", ".join(part.source.text for part in choices)
        message = f"{text}: the prompt has no such choice at its top level"
        raise self._places.error(key, f"{message}; it has {written or 'none'}")

    def check_names(self) -> None:
        """Refuse names of axes that are not there."""
        for place, name in enumerate(self._spec.seed_by or ()):
            if name not in self._texts:
                hint = did_you_mean(name, self._texts, "names")
                raise self._places.error(("seed_by", place), f"{name}: no such axis; {hint}")
        if self._spec.seed_by is not None and "seed" in self._spec.settings:
            message = "the campaign has a seed as well; give one of the two"
            raise self._places.error(("seed_by",), message)

    def check_use(self, templates: Templates) -> None:
        """Refuse an axis that changes nothing."""
        used = self._compiler.used_axes | set(self._spec.seed_by or ())
        zipped = [set(group) for group in self._spec.zip]
        sets = {a.name for a in self._axes if a.settings or a.name == MODEL}
        changes = sets | {a.name for a in self._axes if used & set(a.texts)}
        for axis in self._axes:
            partners = [group for group in zipped if axis.name in group]
            if axis.name in changes or any(group & changes for group in partners):
                continue
            is_last = templates.id is None and _is_count(self._spec.axes[axis.name])
            if not is_last:
                place = self._places.of_name(("axes", axis.name))
                message = (
                    f"the axis {axis.name} is not used: no template has ${{{axis.name}}}, and its "
                    "values set no column; use it, or remove it"
                )
                problem = Problem(
                    self._places.url,
                    None,
                    f"axes.{axis.name}",
                    message,
                    place.line,
                    place.character,
                )
                raise ManifestError([problem])

    def check_shares(self, templates: Templates, combinations: Combinations) -> None:
        """Refuse a covered choice whose alternatives cannot all occur."""
        cover = self._spec.draw.covered
        if cover is None or cover.strength > 1:
            return
        for place, name in enumerate(cover.axes or ()):
            if not name.startswith(("__", "{")):
                continue
            part = self._choice(templates, name, place)
            wanted = part.weights.values > 0
            given = shares(part.weights, combinations.num_rows, part.key)
            if self._spec.draw.weights == "independent":
                message = (
                    f"with `weights: independent` an alternative of {name} may never be drawn; "
                    "leave that out, or cover it with a strength of 2"
                )
                raise self._places.error(("draw", "cover", place), message)
            if (given[wanted] == 0).any():
                least = -(-part.weights.total // int(part.weights.values[wanted].min()))
                message = (
                    f"{combinations.num_rows:,} rows cannot have each of the {int(wanted.sum()):,} "
                    f"alternatives of {name} by exact weights; draw at least {least:,}"
                )
                raise self._places.error(("draw", "cover", place), message)

    def check_ids(self, templates: Templates, combinations: Combinations) -> None:
        """Refuse an id that leaves out an axis of which every value occurs with all others."""
        if templates.id is None or self._spec.draw.rows != "all" or self._spec.rules:
            return
        named = {name for name in self._texts if name in names_in(templates.id)}
        for factor in combinations.factors:
            own = {name for axis in factor.axes for name in self._axes[axis].texts}
            if len(factor) > 1 and factor.axes and not own & named:
                axis = self._axes[factor.axes[0]].name
                message = f"rows that differ in {axis} only would have the same id; add ${{{axis}}}"
                raise self._places.error(("id",), message)


def _is_count(given: object) -> bool:
    return isinstance(given, Mapping) and list(given) == ["count"]


def _refuse_unknown_keys(values: Mapping[str, Any], places: Places) -> None:
    known = ["prompt", "id", *NAMES, *SETTING_COLUMNS]
    for key in values:
        if key not in known and not is_setting(key):
            place = places.of_name((key,))
            message = f"no such key; {did_you_mean(key, known, 'keys')} "
            message += f"(to carry a column of your own, write `columns: {{{key}: ...}}`)"
            problem = Problem(places.url, None, key, message, place.line, place.character)
            raise ManifestError([problem])


def _problem(message: str, places: Places) -> Problem:
    """A line of `explain` with the place of the key that it begins with."""
    name, _, rest = message.partition(": ")
    key: list[str | int] = [int(part) if part.isdigit() else part for part in name.split(".")]
    return places.problem(tuple(key), rest)


def _syntax_hint(text: str, line: int | None) -> str:
    """A hint where a tab, or a template without quotes, is not YAML."""
    lines = text.splitlines()
    if line is None or not 0 < line <= len(lines):
        return ""
    if "\t" in lines[line - 1][: -len(lines[line - 1].lstrip()) or None]:
        return "; YAML is indented with blanks, not tabs"
    has_template = any(sign in lines[line - 1] for sign in ("{", "${", "__"))
    return '; put a text with { or ": " in quotes' if has_template else ""
