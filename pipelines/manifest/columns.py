"""Decide which manifest column holds which setting, and which columns are carried through.

The job's `columns` mapping is resolved against the files' schemas before any row is read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.job.models_section import MODEL, MODEL_NAME
from nightpress.pipelines.job.sections import ColumnMap
from nightpress.pipelines.job.settings import (
    NAMED_SETTINGS,
    PRIORITY,
    SETTING_COLUMNS,
    base_setting,
    is_setting,
)
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.canvas import is_canvas_type
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.manifest.null_lists import cast_with
from nightpress.pipelines.manifest.pictures import PICTURE_SETTINGS, is_picture_type
from nightpress.pipelines.manifest.row_problems import RowProblems
from nightpress.pipelines.manifest.scales import is_scale_type
from nightpress.pipelines.manifest.similar_names import likely_settings
from nightpress.pipelines.manifest.text_scan import MIXED
from nightpress.pipelines.manifest.types import ValueLost, as_type, common_type, one_chunk
from nightpress.pipelines.records import carried_name

TEXT_SETTINGS = frozenset(
    {"prompt", "negative_prompt", "scheduler", "lora", "parent", "to_prompt", MODEL}
)

READ_AND_CARRIED = {PRIORITY: PRIORITY, MODEL: MODEL_NAME}
"""Settings whose values are also carried, and the names of the columns that hold them; those of
`model` also for rows that leave it out."""

FIRST_VARIANT = "first_variant"
"""The setting that says at which variant the images of a row begin. Only an edition's rows have it,
to go on behind images that their run has already."""

PARENT = "parent"
"""The setting that says which image the images of a row are other variants of. Only the rows of
images that are made again have it."""

OF_EDITIONS = "nightpress."
"""The beginning of a column's name in the rows that an edition adds: it gives the setting that
follows, whatever the job's `columns` say."""

WANTED = {
    "id": "text or whole numbers",
    "canvas": "text such as 0,64,0,64 or a list of four whole numbers",
    **dict.fromkeys(PICTURE_SETTINGS, "text (URLs or paths) or the bytes of pictures"),
    **dict.fromkeys(NAMED_SETTINGS[1::2], "numbers or lists of numbers"),
    **dict.fromkeys(TEXT_SETTINGS, "text"),
}
"""What a setting must be, for those that need not be a number."""


@dataclass(frozen=True)
class ColumnUse:
    """What one column of the manifest is read as."""

    name: str
    """The column's name in the manifest."""
    settings: tuple[str, ...]
    """The settings that it gives: one, or several if the job maps it so; none if it is only
    carried."""
    stored_as: str | None
    """Its name in the metadata if it is carried, else None; `priority` is both read and carried."""
    did_you_mean: tuple[str, ...] = ()
    """The settings that a carried column was probably meant to give; usually none."""
    note: str | None = None
    """If files disagree about a carried column: `int64 and string, carried as string`."""


@dataclass(frozen=True)
class CarriedColumn:
    """A column that is copied to the plan and the metadata without being used as a setting."""

    source: str
    """The column's name in the manifest."""
    name: str
    """The column's name in the plan and the metadata."""
    type: pa.DataType


@dataclass(frozen=True)
class Columns:
    """What each column of the manifest is for."""

    settings: Mapping[str, ColumnMap]
    """The settings for which at least one file has a column."""
    carried: tuple[CarriedColumn, ...]
    names_models: bool = False
    """Whether the job has several models, so that each row has the name of one."""

    @property
    def has_ids(self) -> bool:
        """Whether the manifest has an id column; otherwise the row number is the id."""
        return "id" in self.settings

    def manifest_name(self, setting: str) -> str:
        """The manifest's name for a setting's column, for messages."""
        return self.settings[setting].column if setting in self.settings else setting

    def source_names(self) -> list[str]:
        """The manifest's names of all these columns."""
        names = [column.column for column in self.settings.values()]
        return list(dict.fromkeys(names + [column.source for column in self.carried]))

    def carried_values(self, table: pa.Table, problems: RowProblems) -> dict[str, pa.Array]:
        """The carried columns under their names in the plan; all null where a file lacks one.

        Without those of `READ_AND_CARRIED`, which `RowReader` reads.

        Args:
            table: columns as the file has them.
            problems: receives a value that the column's type in all files cannot hold.
        """
        return {
            column.name: _converted(table, column, problems)
            if column.source in table.schema.names
            else pa.nulls(table.num_rows, column.type)
            for column in self.carried
            if column.name not in self.read_and_carried
        }

    @property
    def read_and_carried(self) -> frozenset[str]:
        """The carried columns that are settings too; see `READ_AND_CARRIED`."""
        found = {READ_AND_CARRIED[name] for name in READ_AND_CARRIED if name in self.settings}
        return frozenset(found | ({MODEL_NAME} if self.names_models else set()))


def _converted(table: pa.Table, column: CarriedColumn, problems: RowProblems) -> pa.Array:
    values = table[column.source]
    try:
        return one_chunk(cast_with(as_type, values, column.type))
    except ValueLost as lost:
        message = (
            f"a value cannot become {column.type}, the type that the column has in all files "
            f"together, without a loss ({lost}); give it the same type in every file"
        )
        bad = np.arange(table.num_rows) == lost.row
        problems.add(bad, column.source, lambda row: message)
        return pa.nulls(table.num_rows, column.type)


def resolve_columns(spec: RunSpec, files: Sequence[ManifestFile]) -> Columns:
    """Decide what every column is for.

    Raises:
        ManifestError: no file has a mapped column, a file has no prompts, only some files have
            ids, a column's type does not suit its setting, or a column is not supported.
    """
    types = _types_by_name(files)
    problems = list(_unknown_mappings(spec, files, types))
    if problems:
        raise ManifestError(problems)
    settings = {
        setting: column
        for setting, column in _mapping(spec, types).items()
        if column is not None and column.column in types
    }
    used = {column.column for column in settings.values()}
    carried = [name for name in types if name not in used]
    problems = list(_collisions(files, carried, settings, bool(spec.models)))
    for file in files:
        problems += _problems_of(file, settings, files)
    common = {name: common_type(types[name]) for name in carried}
    problems += [_no_common_type(files, name) for name, type_ in common.items() if type_ is None]
    if problems:
        raise ManifestError(problems)
    columns = [CarriedColumn(name, carried_name(name), type_) for name, type_ in common.items()]
    if PRIORITY in settings:
        columns.append(CarriedColumn(settings[PRIORITY].column, PRIORITY, pa.int64()))
    if spec.models:
        source = settings[MODEL].column if MODEL in settings else MODEL
        columns.append(CarriedColumn(source, MODEL_NAME, pa.string()))
    return Columns(settings, tuple(columns), names_models=bool(spec.models))


def _no_common_type(files: Sequence[ManifestFile], name: str) -> Problem:
    """The first file whose type of a column does not go with that of the files before it."""
    having = [file for file in files if name in file.schema.names]
    types = [file.schema.field(name).type for file in having]
    number = next(n for n in range(len(types)) if common_type(types[: n + 1]) is None)
    first = next(n for n in range(number) if common_type([types[n], types[number]]) is None)
    message = (
        f"its type is {types[number]}, but {types[first]} in {having[first].url}, and no type "
        "holds the values of both exactly; give it the same type in every file"
    )
    return Problem(having[number].url, None, name, message)


def column_uses(spec: RunSpec, files: Sequence[ManifestFile]) -> tuple[ColumnUse, ...]:
    """What every column of the manifest is read as, in order of first appearance.

    A carried column may look like a setting: `Seed`, `steps`, `cfg_scale`, `heigth`. It does unless
    the manifest has another column for that setting, or the job's `columns` says null for it.
    """
    types = _types_by_name(files)
    names = list(types)
    every = _mapping(spec, types)
    mapping = {setting: column for setting, column in every.items() if column is not None}
    missing = [setting for setting, column in mapping.items() if column.column not in names]
    uses = []
    for name in names:
        settings = tuple(key for key, column in mapping.items() if column.column == name)
        if settings:
            stored = next((as_ for key, as_ in READ_AND_CARRIED.items() if key in settings), None)
            uses.append(ColumnUse(name, settings, stored))
        else:
            meant = likely_settings(name, missing)
            uses.append(ColumnUse(name, (), carried_name(name), meant, _type_note(types[name])))
    return tuple(uses)


def _type_note(types: Sequence[pa.DataType]) -> str | None:
    """The types that a column has, and the one that it is carried as; None if they are the same."""
    given = dict.fromkeys(str(type_) for type_ in types if not pa.types.is_null(type_))
    if len(given) < 2:
        return None
    return f"{' and '.join(given)}, carried as {common_type(types)}"


def _mapping(spec: RunSpec, names: Iterable[str]) -> dict[str, ColumnMap | None]:
    """Each setting's column: the one the job names, else the column with the setting's own name.

    Args:
        names: the manifest's columns, some of which may be such as `control_image.depth`.
    """
    mapping: dict[str, ColumnMap | None] = {}
    named = [name for name in (*spec.columns, *names) if is_setting(name)]
    several = (MODEL,) if spec.models else ()
    for setting in dict.fromkeys((*SETTING_COLUMNS, *several, *named)):
        column = spec.columns.get(setting, setting)
        mapping[setting] = ColumnMap(column=column) if isinstance(column, str) else column
    of_edition = {name.removeprefix(OF_EDITIONS): name for name in names if _is_reserved(name)}
    return mapping | {key: ColumnMap(column=name) for key, name in of_edition.items()}


def _is_reserved(name: str) -> bool:
    """Whether only an edition may have a column of this name."""
    setting = name.removeprefix(OF_EDITIONS)
    return name != setting and (setting in (FIRST_VARIANT, PARENT, MODEL) or is_setting(setting))


def reserved_columns(files: Iterable[ManifestFile]) -> list[Problem]:
    """A problem for each column of a manifest whose name only editions may use."""
    return [
        Problem(file.url, None, name, "nightpress keeps this name for itself; rename the column")
        for file in files
        for name in file.schema.names
        if _is_reserved(name)
    ]


def _types_by_name(files: Sequence[ManifestFile]) -> dict[str, list[pa.DataType]]:
    types: dict[str, list[pa.DataType]] = {}
    for file in files:
        for field in file.schema:
            types.setdefault(field.name, []).append(field.type)
    return types


def _unknown_mappings(
    spec: RunSpec, files: Sequence[ManifestFile], types: Mapping[str, object]
) -> Iterator[Problem]:
    for setting, column in spec.columns.items():
        name = column.column if isinstance(column, ColumnMap) else column
        if f"{OF_EDITIONS}{setting}" in types:
            continue
        if name is not None and name not in types:
            message = f"columns.{setting} names it, but the columns are: {', '.join(types)}"
            yield Problem(files[0].url, None, name, message)


def _collisions(
    files: Sequence[ManifestFile],
    carried: Sequence[str],
    settings: Mapping[str, ColumnMap],
    names_models: bool,
) -> Iterator[Problem]:
    for setting, stored in READ_AND_CARRIED.items():
        if stored in carried and (setting in settings or (setting == MODEL and names_models)):
            source = settings[setting].column if setting in settings else setting
            message = (
                f"columns.{setting} names {source}, whose values are stored under this name; "
                "rename one of the two"
            )
            yield Problem(_first_with(files, stored).url, None, stored, message)
    for name in carried:
        if carried_name(name) != name and carried_name(name) in carried:
            message = f"it would be stored as {carried_name(name)}, which also exists; rename one"
            yield Problem(_first_with(files, name).url, None, name, message)


def _problems_of(
    file: ManifestFile, settings: Mapping[str, ColumnMap], files: Sequence[ManifestFile]
) -> Iterator[Problem]:
    names = file.schema.names
    prompt = settings["prompt"].column if "prompt" in settings else "prompt"
    if prompt not in names:
        meant = [name for name in names if likely_settings(name, ["prompt"]) == ("prompt",)]
        example = repr(meant[0]) if meant else "..."
        message = (
            f"every file needs this column, but this one has: {', '.join(names) or 'no columns'}; "
            f"`columns: {{prompt: {example}}}` in the job file can name another"
        )
        yield Problem(file.url, None, prompt, message)
    if "id" in settings and settings["id"].column not in names:
        other = _first_with(files, settings["id"].column).url
        message = f"{other} has this column but this file does not; give ids to all files or none"
        yield Problem(file.url, None, settings["id"].column, message)
    for setting, column in settings.items():
        if column.column in names:
            type_ = file.schema.field(column.column).type
            wanted = WANTED.get(base_setting(setting), "a number")
            if not _fits(setting, type_, coded=bool(column.values)):
                message = f"its type is {type_}, but {setting} must be {wanted}"
                yield Problem(file.url, None, column.column, message)
            elif _is_only_text(setting) and is_mixed(file.schema, column):
                message = f"some of its values are not text, but {setting} must be {wanted}"
                yield Problem(file.url, None, column.column, message)


def is_mixed(schema: pa.Schema, column: ColumnMap) -> bool:
    """Whether a column without codes is text only because its values have no common type."""
    return not column.values and bool(schema.field(column.column).metadata == MIXED)


def _fits(setting: str, type_: pa.DataType, coded: bool) -> bool:
    if pa.types.is_null(type_) or pa.types.is_string(type_):
        return True
    base = base_setting(setting)
    if not coded and base in PICTURE_SETTINGS:
        return is_picture_type(type_, setting)
    if not coded and base == "canvas":
        return is_canvas_type(type_)
    if not coded and base in NAMED_SETTINGS:
        return is_scale_type(type_)
    is_number = (
        pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)
    )
    return is_number and (coded or setting not in TEXT_SETTINGS)


def _is_only_text(setting: str) -> bool:
    """Whether a value of a setting is text and nothing else, so that JSON in it is a mistake."""
    return setting in TEXT_SETTINGS or setting in ("init_image", "mask_image", "last_image")


def _first_with(files: Sequence[ManifestFile], name: str) -> ManifestFile:
    return next(file for file in files if name in file.schema.names)
