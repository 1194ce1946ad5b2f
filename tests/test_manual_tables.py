"""The tables of the manuals list what there is: keys, columns, errors, formats, samplers."""

from collections.abc import Iterator

from pydantic import BaseModel
from test_docs import code_spans, table_under

from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.job.settings import SETTING_COLUMNS
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.formats import CAMPAIGN_SUFFIXES
from nightpress.pipelines.records import METADATA_SCHEMA, FailureType
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


def in_order(keys: Iterator[str], rows: list[list[str]]) -> list[str]:
    """The keys in the order of the manual's rows, those that it lacks at the end."""
    listed = [key for row in rows for key in code_spans(row[0])]
    return sorted(keys, key=lambda key: listed.index(key) if key in listed else len(listed))


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
