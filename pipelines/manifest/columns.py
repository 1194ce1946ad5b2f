"""Decide which manifest column holds which setting, and which columns are carried through.

The job's `columns` mapping is resolved against the files' schemas before any row is read.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.job.sections import ColumnMap
from nightpress.pipelines.job.spec import CONDITION_COLUMNS, SETTING_COLUMNS, RunSpec
from nightpress.pipelines.manifest.files import ManifestFile
from nightpress.pipelines.manifest.text_scan import MIXED
from nightpress.pipelines.manifest.types import as_type, common_type, one_chunk
from nightpress.pipelines.records import carried_name

TEXT_SETTINGS = frozenset({"prompt", "negative_prompt", "scheduler", "lora"})


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

    def carried_values(self, table: pa.Table) -> dict[str, pa.Array]:
        """The carried columns under their names in the plan; all null where a file lacks one."""
        return {
            column.name: one_chunk(as_type(table[column.source], column.type))
            if column.source in table.schema.names
            else pa.nulls(table.num_rows, column.type)
            for column in self.carried
        }


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
        for setting, column in _mapping(spec).items()
        if column is not None and column.column in types
    }
    used = {column.column for column in settings.values()}
    carried = [name for name in types if name not in used]
    problems = list(_unsupported(files, carried))
    problems += _collisions(files, carried)
    for file in files:
        problems += _problems_of(file, settings, files)
    if problems:
        raise ManifestError(problems)
    return Columns(
        settings,
        tuple(
            CarriedColumn(name, carried_name(name), common_type(types[name])) for name in carried
        ),
    )


def _mapping(spec: RunSpec) -> dict[str, ColumnMap | None]:
    """Each setting's column: the one the job names, else the column with the setting's own name."""
    mapping: dict[str, ColumnMap | None] = {}
    for setting in SETTING_COLUMNS:
        column = spec.columns.get(setting, setting)
        mapping[setting] = ColumnMap(column=column) if isinstance(column, str) else column
    return mapping


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
        if name is not None and name not in types:
            message = f"columns.{setting} names it, but the columns are: {', '.join(types)}"
            yield Problem(files[0].url, None, name, message)


def _unsupported(files: Sequence[ManifestFile], carried: Sequence[str]) -> Iterator[Problem]:
    for name in carried:
        if name in CONDITION_COLUMNS:
            message = (
                "this name is reserved for conditioning, which this version does not support; "
                "rename or drop the column"
            )
            yield Problem(_first_with(files, name).url, None, name, message)


def _collisions(files: Sequence[ManifestFile], carried: Sequence[str]) -> Iterator[Problem]:
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
        message = (
            f"every file needs this column, but this one has: {', '.join(names) or 'no columns'}; "
            "`columns: {prompt: ...}` in the job file can name another"
        )
        yield Problem(file.url, None, prompt, message)
    if "id" in settings and settings["id"].column not in names:
        other = _first_with(files, settings["id"].column).url
        message = f"{other} has this column but this file does not; give ids to all files or none"
        yield Problem(file.url, None, settings["id"].column, message)
    for setting, column in settings.items():
        if column.column in names:
            type_ = file.schema.field(column.column).type
            if not _fits(setting, type_, coded=bool(column.values)):
                wanted = "text" if setting in TEXT_SETTINGS else "a number"
                wanted = "text or whole numbers" if setting == "id" else wanted
                message = f"its type is {type_}, but {setting} must be {wanted}"
                yield Problem(file.url, None, column.column, message)
            elif setting in TEXT_SETTINGS and not column.values and _is_mixed(file, column):
                message = f"some of its values are not text, but {setting} must be text"
                yield Problem(file.url, None, column.column, message)


def _is_mixed(file: ManifestFile, column: ColumnMap) -> bool:
    """Whether a column is read as text only because its values have no common type."""
    return bool(file.schema.field(column.column).metadata == MIXED)


def _fits(setting: str, type_: pa.DataType, coded: bool) -> bool:
    if pa.types.is_null(type_) or pa.types.is_string(type_):
        return True
    is_number = (
        pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)
    )
    return is_number and (coded or setting not in TEXT_SETTINGS)


def _first_with(files: Sequence[ManifestFile], name: str) -> ManifestFile:
    return next(file for file in files if name in file.schema.names)
