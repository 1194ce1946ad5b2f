"""Which columns an export gives, and what they hold for each image."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.export.spec import ExportSpec, Layout, Metadata
from nightpress.pipelines.manifest.types import one_chunk
from nightpress.pipelines.records import METADATA_SCHEMA

ORIGIN = (pa.field("run", pa.string()), pa.field("commit", pa.string()))
"""Where an image comes from: the name of its run, and the SHA-256 of the commit with its row."""

OF_THE_RUN = frozenset(
    ("status", "error_type", "error", "file", "member", "member_offset", "num_bytes")
)
"""Columns about the place of an image in its run, and about failures; no export has them."""

ABOUT_MAKING = frozenset(
    (
        *("prompt", "negative_prompt", "prompt_cut", "negative_prompt_cut", "model", "loras"),
        *("textual_inversions", "controlnets", "references", "inputs", "worker", "started_at"),
        *("sampling_s", "scoring_s", "attempts", "speed"),
    )
)
"""Columns that only `metadata: full` has: what was asked for, with what, and where."""

TAKEN = frozenset(("image", "caption", "run", "commit"))
"""Names that an export gives columns of its own; a carried column is then `manifest_caption`."""

TAKEN_BY_LAYOUT: Mapping[str, re.Pattern[str]] = {
    "imagefolder": re.compile(r"(?:.*_)?file_names?"),
    "kohya": re.compile(r"(?:.*_)?file_names?"),
    "img2dataset": re.compile(r"url|key|status|error_message|original_(?:width|height)"),
    "preference": re.compile(r"chosen|rejected|rejected_.*"),
}
"""Names that a layout gives columns of its own. Of an image folder `datasets` opens the files that
columns `..._file_name` name, so that a carried one ends with `_` there."""


SCORES = "scores"
"""The metadata column with the scores of an image by name; each becomes a column `scores.clip`."""


def exported_schema(
    schemas: Sequence[pa.Schema], scores: Sequence[str], metadata: Metadata, layout: Layout
) -> pa.Schema:
    """The columns of an export beside its images and captions.

    Args:
        schemas: the metadata columns of each of its runs.
        scores: the names of the scores that their images have.
        metadata: how much of them it gives.
        layout: its form, which has names of its own.

    Raises:
        SpecError: two runs have different types in a column of one name.
    """
    if metadata == "none":
        return pa.schema([])
    fields: dict[str, tuple[pa.Field, int]] = {}
    for number, schema in enumerate(schemas):
        for field in _plain(schema, metadata, layout):
            known, first = fields.get(field.name, (field, number))
            if known.type != field.type:
                raise SpecError(
                    f"from: column {field.name!r} is {known.type} in run {first + 1} and "
                    f"{field.type} in run {number + 1}; export them apart, or choose metadata: none"
                )
            fields[field.name] = (known, first)
    scored = [pa.field(f"{SCORES}.{name}", pa.float64()) for name in scores]
    return pa.schema([*ORIGIN, *(field for field, _ in fields.values()), *scored])


def _plain(schema: pa.Schema, metadata: Metadata, layout: Layout) -> Iterator[pa.Field]:
    """The fields that are exported, under the names and types that they get."""
    hidden = OF_THE_RUN if metadata == "full" else OF_THE_RUN | ABOUT_MAKING
    for field in schema:
        if field.name in hidden or pa.types.is_null(field.type) or pa.types.is_map(field.type):
            continue
        type_ = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        yield pa.field(_name(field.name, schema.names, layout), type_)


def _name(name: str, names: Sequence[str], layout: Layout) -> str:
    """The name in the export of a metadata column."""
    if name in METADATA_SCHEMA.names or not _is_taken(name, layout):
        return name
    end = "_" if layout in ("imagefolder", "kohya") and _is_of_layout(name, layout) else ""
    new = f"manifest_{name}{end}"
    while new in names or _is_taken(new, layout):
        new = f"manifest_{new}"
    return new


def _is_taken(name: str, layout: Layout) -> bool:
    is_a_score = name.startswith(f"{SCORES}.")
    return name in TAKEN or is_a_score or _is_of_layout(name, layout)


def _is_of_layout(name: str, layout: Layout) -> bool:
    own = TAKEN_BY_LAYOUT.get(layout)
    return own is not None and own.fullmatch(name) is not None


def exported_rows(
    part: pa.Table,
    rows: Sequence[int],
    columns: pa.Schema,
    layout: Layout,
    origin: tuple[str, str],
) -> pa.Table:
    """The values of the exported columns for some rows of a commit.

    Args:
        part: the commit's rows, with every column of its run.
        rows: their numbers.
        columns: of the export, from `exported_schema`.
        layout: its form.
        origin: the run's name, and the SHA-256 of the commit.
    """
    taken = part.take(pa.array(rows, pa.int64()))
    stored = {_name(name, part.column_names, layout): name for name in part.column_names}
    own = dict(zip(("run", "commit"), origin, strict=True))
    values: list[Any] = []
    for field in columns:
        if field.name in own:
            values.append(pa.array([own[field.name]] * len(rows), field.type))
        elif field.name in stored:
            values.append(one_chunk(taken.column(stored[field.name]).cast(field.type)))
        else:
            values.append(_score(taken, field))
    return pa.table(values, schema=columns)


def _score(rows: pa.Table, field: pa.Field) -> pa.Array:
    """A score of each row; null where it has none."""
    folder, _, name = field.name.partition(".")
    if folder != SCORES or SCORES not in rows.column_names:
        return pa.nulls(len(rows), field.type)
    found = pc.map_lookup(one_chunk(rows.column(SCORES)), name, "first")
    return found.cast(field.type)


def left_out(
    schema: pa.Schema, scores: Sequence[str], columns: pa.Schema, spec: ExportSpec
) -> list[str]:
    """Columns of a run that an export lacks although its `metadata` would have them, and why."""
    if spec.metadata == "none":
        return []
    found = [
        f"{field.name} ({'no values' if pa.types.is_null(field.type) else 'a map'})"
        for field in schema
        if field.name != SCORES and (pa.types.is_null(field.type) or pa.types.is_map(field.type))
    ]
    new = [field.name for field in _plain(schema, spec.metadata, spec.layout)]
    new += [f"{SCORES}.{name}" for name in scores]
    later = [name for name in new if name not in columns.names]
    return found + [f"{name} (it came after the export began)" for name in later]
