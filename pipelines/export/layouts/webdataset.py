"""WebDataset tars: an image, its caption as `.txt` and its columns as `.json`.

Reference: webdataset's format, github.com/webdataset/webdataset.
"""

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
    visible,
)
from nightpress.pipelines.image_files.packing.webdataset import (
    append,
    as_json,
    finished,
    member_name,
)
from nightpress.pipelines.manifest.python_values import nanoseconds_as_text, python_rows


def write(key: PartKey, images: Sequence[ExportedImage], rows: pa.Table) -> Part:
    """A part as one tar; see `hf_parquet.write`. Without columns there is no `.json`."""
    tar, members = BytesIO(), list[str]()
    columns = python_rows(nanoseconds_as_text(rows)) if rows.num_columns else [{}] * len(images)
    for image, values in zip(images, columns, strict=True):
        member = _seen(member_name(_unique(key, image.name)))
        append(tar, member, image.data)
        stem = member.rpartition(".")[0]
        append(tar, f"{stem}.txt", image.caption.encode())
        if values:
            append(tar, f"{stem}.json", as_json(values))
        members.append(member)
    data = finished(tar)
    path = f"{DATA}/{key.split}-{key.stem}-{digest_of(data)}.tar"
    return Part(((path, data),), tuple(Place(path, member) for member in members))


def _unique(key: PartKey, name: str) -> str:
    """The name among all images of the export: keys of samples must differ."""
    return f"{key.source}/{name}" if key.num_sources > 1 else name


def _seen(member: str) -> str:
    """A name that `datasets` does not take for that of a hidden file."""
    folder, slash, file = member.rpartition("/")
    return f"{folder}{slash}{visible(file)}"
