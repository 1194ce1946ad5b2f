"""Parquet files that hold the images, as `datasets` reads them.

Reference: huggingface.co/docs/datasets, "Create an image dataset", the features in the schema.
"""

import json
from collections.abc import Sequence
from io import BytesIO

import pyarrow as pa

from nightpress.pipelines.export.layouts.part import (
    DATA,
    ExportedImage,
    Part,
    PartKey,
    Place,
    digest_of,
)
from nightpress.pipelines.image_files.packing.parquet import (
    FEATURES,
    IMAGE,
    ROW_GROUP_BYTES,
    ROW_GROUP_IMAGES,
    image_writer,
)

CAPTION = pa.field("caption", pa.string())


def write(key: PartKey, images: Sequence[ExportedImage], rows: pa.Table) -> Part:
    """A part as one Parquet file.

    Args:
        key: which part it is.
        images: its images, in order.
        rows: the exported columns, one row for each image.
    """
    schema = pa.schema([IMAGE, CAPTION, *rows.schema], {"huggingface": json.dumps(FEATURES)})
    file = BytesIO()
    with image_writer(file, schema) as writer:
        for start, end in row_groups([len(image.data) for image in images]):
            writer.write_table(_group(images[start:end], rows.slice(start, end - start), schema))
    data = file.getvalue()
    path = f"{DATA}/{key.split}-{key.stem}-{digest_of(data)}.parquet"
    return Part(((path, data),), tuple(Place(path, image.name) for image in images))


def row_groups(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """(first, end) of the images of each row group, whose bytes a reader holds in memory."""
    groups, start, num_bytes = list[tuple[int, int]](), 0, 0
    for number, size in enumerate(sizes):
        full = number - start == ROW_GROUP_IMAGES or num_bytes + size > ROW_GROUP_BYTES
        if number > start and full:
            groups.append((start, number))
            start, num_bytes = number, 0
        num_bytes += size
    return [*groups, (start, len(sizes))] if sizes else []


def _group(images: Sequence[ExportedImage], rows: pa.Table, schema: pa.Schema) -> pa.Table:
    pictures = [{"bytes": image.data, "path": image.name} for image in images]
    captions = [image.caption for image in images]
    columns = [pa.array(pictures, IMAGE.type), pa.array(captions, pa.string()), *rows.columns]
    return pa.Table.from_arrays(columns, schema=schema)
