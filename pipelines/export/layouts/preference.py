"""Parquet files of pairs: of the images of a row, the best and the worst by a score.

One row for each pair, as preference training reads it: `caption`, `chosen` and `rejected`, with the
columns of the chosen image and some of the rejected one.
"""

import json
from collections.abc import Iterator, Sequence
from io import BytesIO

import pyarrow as pa

from nightpress.pipelines.export.layouts.hf_parquet import CAPTION, row_groups
from nightpress.pipelines.export.layouts.part import (
    DATA,
    ExportedImage,
    Part,
    PartKey,
    Place,
    digest_of,
)
from nightpress.pipelines.image_files.packing import parquet
from nightpress.pipelines.image_files.packing.parquet import IMAGE, image_writer

CHOSEN, REJECTED = "chosen", "rejected"

FEATURES = {"info": {"features": {name: {"_type": "Image"} for name in (CHOSEN, REJECTED)}}}

OF_REJECTED = ("image_id", "variant", "seed", "sha256")
"""Columns of the rejected image that a row has, too; its scores as well."""


def columns(exported: pa.Schema) -> pa.Schema:
    """The columns beside caption and images, given those of an export."""
    rejected = [
        field.with_name(f"{REJECTED}_{field.name}")
        for field in exported
        if field.name in OF_REJECTED or field.name.startswith("scores.")
    ]
    return pa.schema([*exported, *rejected])


def write(key: PartKey, images: Sequence[ExportedImage], rows: pa.Table) -> Part:
    """A part as one Parquet file; see `hf_parquet.write`.

    Args:
        images: the chosen and the rejected image of each pair in turn.
        rows: one for each image.
    """
    file, pairs = BytesIO(), list(zip(images[::2], images[1::2], strict=True))
    pictures = [pa.field(name, IMAGE.type) for name in (CHOSEN, REJECTED)]
    schema = pa.schema(
        [CAPTION, *pictures, *columns(rows.schema)], {"huggingface": json.dumps(FEATURES)}
    )
    table = _columns(rows)
    sizes = [len(chosen.data) + len(rejected.data) for chosen, rejected in pairs]
    with image_writer(file, schema) as writer:
        for start, end in row_groups(sizes):
            some = table.slice(start, end - start)
            writer.write_table(_group(pairs[start:end], some, schema))
    data = file.getvalue()
    path = f"{DATA}/{key.split}-{key.stem}-{digest_of(data)}.parquet"
    return Part(((path, data),), tuple(Place(path, image.name) for image in images))


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each image in a part.

    Raises:
        ValueError: truncated or invalid.
    """
    return parquet.members(data, (CHOSEN, REJECTED))


def _columns(rows: pa.Table) -> pa.Table:
    """The columns of each pair, from those of its two images."""
    places = pa.array(range(0, rows.num_rows, 2), pa.int64())
    schema = columns(rows.schema)
    chosen = rows.take(places).columns
    others = rows.take(pa.array(range(1, rows.num_rows, 2), pa.int64()))
    rejected = [
        others.column(name.removeprefix(f"{REJECTED}_"))
        for name in schema.names[rows.num_columns :]
    ]
    return pa.table([*chosen, *rejected], schema=schema)


def _group(
    pairs: Sequence[tuple[ExportedImage, ExportedImage]], rows: pa.Table, schema: pa.Schema
) -> pa.Table:
    captions = pa.array([chosen.caption for chosen, _ in pairs], pa.string())
    pictures = [
        pa.array([{"bytes": image.data, "path": image.name} for image in images], IMAGE.type)
        for images in zip(*pairs, strict=True)
    ]
    return pa.Table.from_arrays([captions, *pictures, *rows.columns], schema=schema)
