"""Which manifest column serves which setting, and which columns are carried through.

Settles the `columns` mapping of a job against the files that there are, before any row is read.
Knows nothing of the rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from nightpress.pipelines.errors import ManifestError, Problem
from nightpress.pipelines.job.sections import ColumnMap
from nightpress.pipelines.job.spec import CONDITION_COLUMNS, SETTING_COLUMNS, RunSpec
from nightpress.pipelines.manifest.files import ManifestFile
from nightpress.pipelines.manifest.types import as_type, common_type, one_chunk
from nightpress.pipelines.records import carried_name

TEXT_SETTINGS = frozenset({"prompt", "negative_prompt", "scheduler", "lora"})


@dataclass(frozen=True)
class Carried:
    """A column that no setting is read from."""

    source: str
    """Its name in the manifest."""
    name: str
    """Its name in the plan and the metadata."""
    type: pa.DataType


@dataclass(frozen=True)
class Columns:
    """What each column of the manifest is for."""

    settings: Mapping[str, ColumnMap]
    """Only settings that at least one file has a column for."""
    carried: tuple[Carried, ...]

    @property
    def has_ids(self) -> bool:
        """Whether rows name themselves; else the row number is the id."""
        return "id" in self.settings

    def shown(self, setting: str) -> str:
        """What the manifest itself calls the column of a setting."""
        return self.settings[setting].column if setting in self.settings else setting

    def sources(self) -> list[str]:
        """The manifest's own names of all these columns."""
        names = [column.column for column in self.settings.values()]
        return list(dict.fromkeys(names + [column.source for column in self.carried]))

    def carried_values(self, table: pa.Table) -> dict[str, pa.Array]:
        """The carried columns under their names in the plan; null where a file lacks one."""
        return {
            column.name: one_chunk(as_type(table[column.source], column.type))
            if column.source in table.schema.names
            else pa.nulls(table.num_rows, column.type)
            for column in self.carried
        }


def resolve(spec: RunSpec, files: Sequence[ManifestFile]) -> Columns:
    """Settle every column.

    Raises:
        ManifestError: a mapped column that no file has, a file without prompts, ids in some files
            only, a column of a type that its setting cannot have, or one not supported.
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
        tuple(Carried(name, carried_name(name), common_type(types[name])) for name in carried),
    )


def _mapping(spec: RunSpec) -> dict[str, ColumnMap | None]:
    """Every setting's column: the job's, else the one of the setting's own name."""
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
            message = f"columns.{setting} names it, and there are only: {', '.join(types)}"
            yield Problem(files[0].url, None, name, message)


def _unsupported(files: Sequence[ManifestFile], carried: Sequence[str]) -> Iterator[Problem]:
    for name in carried:
        if name in CONDITION_COLUMNS:
            message = (
                "images are not made from it by this version, and it is no column that is carried; "
                "rename or drop it"
            )
            yield Problem(_first_with(files, name).url, None, name, message)


def _collisions(files: Sequence[ManifestFile], carried: Sequence[str]) -> Iterator[Problem]:
    for name in carried:
        if carried_name(name) != name and carried_name(name) in carried:
            message = f"it would be carried as {carried_name(name)}, which is there too; rename it"
            yield Problem(_first_with(files, name).url, None, name, message)


def _problems_of(
    file: ManifestFile, settings: Mapping[str, ColumnMap], files: Sequence[ManifestFile]
) -> Iterator[Problem]:
    names = file.schema.names
    prompt = settings["prompt"].column if "prompt" in settings else "prompt"
    if prompt not in names:
        message = (
            f"every file needs it, and this one has: {', '.join(names) or 'no columns'}; "
            "the job file's `columns: {prompt: ...}` can name another"
        )
        yield Problem(file.url, None, prompt, message)
    if "id" in settings and settings["id"].column not in names:
        other = _first_with(files, settings["id"].column).url
        message = f"{other} has it and this file does not; give all files ids, or none"
        yield Problem(file.url, None, settings["id"].column, message)
    for setting, column in settings.items():
        if column.column in names:
            type_ = file.schema.field(column.column).type
            if not _fits(setting, type_, coded=bool(column.values)):
                wanted = "text" if setting in TEXT_SETTINGS else "a number"
                wanted = "text or whole numbers" if setting == "id" else wanted
                message = f"it is of type {type_}, and {setting} is {wanted}"
                yield Problem(file.url, None, column.column, message)


def _fits(setting: str, type_: pa.DataType, coded: bool) -> bool:
    if pa.types.is_null(type_) or pa.types.is_string(type_):
        return True
    is_number = (
        pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_)
    )
    return is_number and (coded or setting not in TEXT_SETTINGS)


def _first_with(files: Sequence[ManifestFile], name: str) -> ManifestFile:
    return next(file for file in files if name in file.schema.names)
