"""The tables of the manuals list what there is: keys, columns, errors, formats, samplers."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, get_args

import click
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from test_docs import code_spans, prose, table_under, text_of

from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.jobs import cli
from nightpress.pipelines.export.columns import exported_schema
from nightpress.pipelines.export.spec import Metadata
from nightpress.pipelines.job.models_section import NamedModel
from nightpress.pipelines.job.settings import SETTING_COLUMNS
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.formats import CAMPAIGN_SUFFIXES
from nightpress.pipelines.manifest.pictures import PICTURE_SETTINGS
from nightpress.pipelines.records import METADATA_SCHEMA, FailureType
from nightpress.pipelines.run_directory.record import FORMAT_VERSION
from nightpress.pipelines.storage.sources import SUFFIXES
from nightpress.pipelines.training.spec import RECIPES


def keys_of(section: type[BaseModel], before: str = "") -> Iterator[str]:
    """Every key of a job file that the manual lists."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel) and name != "speed"
        if inner is ModelSpec:
            yield before + name
        if nested:
            assert isinstance(inner, type)
            yield from keys_of(inner, f"{before}{name}.")
        else:
            yield before + name


def test_the_manual_lists_every_key_of_a_job_file() -> None:
    rows = table_under("jobs/README.md", "## Job-file keys")
    assert [key for row in rows for key in code_spans(row[0])] == in_order(keys_of(RunSpec), rows)


def test_the_manual_names_every_command_that_takes_a_night() -> None:
    (told,) = re.findall(r"These commands take it: (.*?)\.", prose("jobs/README.md"), re.DOTALL)
    commands = {
        name: cli.command.get_command(click.Context(cli.command), name) for name in cli.COMMANDS
    }
    assert set(code_spans(told)) == {
        name
        for name, each in commands.items()
        if each and any("--night" in option.opts for option in each.params)
    }


def in_order(keys: Iterator[str], rows: list[list[str]]) -> list[str]:
    """The keys in the order of the manual's rows, those that it lacks at the end."""
    listed = [key for row in rows for key in code_spans(row[0])]
    return sorted(keys, key=lambda key: listed.index(key) if key in listed else len(listed))


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a value of a type may have in it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [each for argument in get_args(annotation) for each in sections_in(argument)]


def all_keys(section: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a job file, also those of the entries of lists; `model`'s keys only once."""
    for name, field in section.model_fields.items():
        if section is NamedModel and name in ModelSpec.model_fields:
            continue
        yield before + name, field
        for inner in sections_in(field.annotation):
            yield from all_keys(inner, f"{before}{name}.")


def has_default(field: FieldInfo, told: str) -> bool:
    """Whether a cell tells the default of a key."""
    if field.is_required():
        return told == "required"
    default = field.default
    if default is None or isinstance(default, BaseModel):
        return told == "none"
    (written,) = code_spans(told)
    value = written if isinstance(default, str) else yaml.safe_load(written)
    return value == (list(default) if isinstance(default, tuple) else default)


def test_the_manual_lists_every_key_of_the_entries_of_a_job_file_with_its_default() -> None:
    entries = {
        f"{of}.{code_spans(row[1])[0]}": row[2]
        for row in table_under("jobs/README.md", "### Keys of entries")
        for of in code_spans(row[0])
    }
    fields = defaultdict(list)
    for key, field in all_keys(RunSpec):
        fields[key].append(field)
    holders = {key.rpartition(".")[0] for key in fields}  # a table has them or their keys
    assert set(entries) - holders == set(fields) - holders - set(keys_of(RunSpec))
    for key, told in entries.items():
        assert any(has_default(field, told) for field in fields[key]), (key, told)


def test_the_manual_lists_every_metadata_column_with_its_type() -> None:
    rows = table_under("pipelines/README.md", "## Metadata columns")
    assert [code_spans(row[0])[0] for row in rows] == METADATA_SCHEMA.names
    for row, field in zip(rows, METADATA_SCHEMA, strict=True):
        type_, _, null = row[1].partition(", null")
        assert (", null" in row[1]) == field.nullable, row
        assert not null, row
        told = type_.replace("UTC", "tz=UTC")
        assert told == str(field.type) or told.startswith("list of"), row


def test_the_manual_lists_every_error_type() -> None:
    rows = table_under("pipelines/README.md", "### Error types")
    assert [code_spans(row[0])[0] for row in rows] == [str(each) for each in FailureType]


def test_the_manual_lists_every_manifest_column_and_format() -> None:
    columns = table_under("pipelines/README.md", "### Columns")
    assert [name for row in columns for name in code_spans(row[0])] == in_order(
        iter(SETTING_COLUMNS), columns
    )
    formats = table_under("pipelines/README.md", "## Manifests")
    assert {name for row in formats for name in code_spans(row[1])} == {
        *SUFFIXES,
        CAMPAIGN_SUFFIXES[0],
    }


def test_the_manual_lists_every_sampler() -> None:
    listed = {"default"}
    for row in table_under("diffusion_core/README.md", "## Samplers"):
        (name,) = code_spans(row[0])
        listed |= {name, *(name + suffix for suffix in code_spans(row[1]))}
    assert listed == set(SAMPLER_NAMES)


def test_the_manual_lists_every_recipe() -> None:
    rows = table_under("diffusion_core/README.md", "## Training")
    assert [code_spans(row[0])[0] for row in rows] == list(RECIPES)


def test_the_manual_names_every_column_of_pictures() -> None:
    (told,) = re.findall(
        r"^## Inputs\n\nThe columns (.*?) name pictures", prose("pipelines/README.md"), re.MULTILINE
    )
    assert tuple(code_spans(told)) == PICTURE_SETTINGS


def test_the_manual_shows_the_format_that_this_version_reads() -> None:
    refusal = f"in format {FORMAT_VERSION + 1}; this nightpress reads up to format {FORMAT_VERSION}"
    assert refusal in text_of("pipelines/README.md")


def test_the_manual_lists_the_columns_that_each_kind_of_metadata_exports() -> None:
    every = {*METADATA_SCHEMA.names, "run", "commit"} - {"scores"}
    full, minimal = (
        set(exported_schema([METADATA_SCHEMA], (), kind, "hf-parquet").names)
        for kind in get_args(Metadata)[:2]
    )
    expected = {"yes yes": full & minimal, "yes no": full - minimal, "no no": every - full}
    told: dict[str, set[str]] = {key: set() for key in expected}
    for row in table_under("pipelines/README.md", "### Columns of an export"):
        told[f"{row[0]} {row[1]}"] |= set(code_spans(row[2])) - {"scores.<name>"}
    assert told == expected
