"""Tars and tables as img2dataset writes them: `.tar`, `.parquet` and `_stats.json` for each shard.

Reference: img2dataset's output format "webdataset", github.com/rom1504/img2dataset.
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from nightpress.pipelines.export.layouts.part import (
    DATA,
    ExportedImage,
    Part,
    PartKey,
    Place,
    digest_of,
)
from nightpress.pipelines.image_files.packing.webdataset import append, as_json, finished
from nightpress.pipelines.manifest.python_values import nanoseconds_as_text, python_rows

OWN = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("url", "caption", "key", "status")),
        pa.field("error_message", pa.string()),
        *(
            pa.field(name, pa.int32())
            for name in ("width", "height", "original_width", "original_height")
        ),
        pa.field("sha256", pa.string()),
    ]
)
"""img2dataset's columns; `url` is the image's file name in its run."""


def write(key: PartKey, images: Sequence[ExportedImage], rows: pa.Table) -> Part:
    """A part as a tar, a table and a file of counts; see `hf_parquet.write`."""
    others = rows.select([name for name in rows.column_names if name not in OWN.names])
    own = [_own(key, image) for image in images]
    values = [pa.array([each[name] for each in own], OWN.field(name).type) for name in OWN.names]
    table = pa.table([*values, *others.columns], schema=columns(rows.schema))
    tar = _tar(images, table)
    parquet = BytesIO()
    pq.write_table(table, parquet, compression="zstd", write_page_checksum=True)
    stem = f"{DATA}/{key.split}/{key.number_of_shard:05d}{key.suffix}-"
    stem += digest_of(tar, parquet.getvalue())
    objects = {".tar": tar, ".parquet": parquet.getvalue(), "_stats.json": _stats(len(images))}
    places = (
        Place(f"{stem}.tar", f"{each['key']}.{suffix_of(i.suffix)}")
        for each, i in zip(own, images, strict=True)
    )
    return Part(tuple((stem + end, data) for end, data in objects.items()), tuple(places))


def _own(key: PartKey, image: ExportedImage) -> dict[str, Any]:
    with Image.open(BytesIO(image.data)) as opened:
        width, height = opened.size
    return {
        "url": image.name,
        "caption": image.caption,
        "key": f"{key.number_of_shard:05d}{image.row:04d}",
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "sha256": sha256(image.data).hexdigest(),
    }


def suffix_of(suffix: str) -> str:
    """The suffix of a member with an image, given that of its name in the run."""
    return "jpg" if suffix == "jpeg" else suffix


def columns(exported: pa.Schema) -> pa.Schema:
    """The columns of a table, given those of an export."""
    return pa.schema([*OWN, *(field for field in exported if field.name not in OWN.names)])


def _tar(images: Sequence[ExportedImage], table: pa.Table) -> bytes:
    tar = BytesIO()
    for image, values in zip(images, python_rows(nanoseconds_as_text(table)), strict=True):
        append(tar, f"{values['key']}.{suffix_of(image.suffix)}", image.data)
        append(tar, f"{values['key']}.txt", image.caption.encode())
        append(tar, f"{values['key']}.json", as_json(values))
    return finished(tar)


def _stats(num_images: int) -> bytes:
    values = {
        "count": num_images,
        "successes": num_images,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "status_dict": {"success": num_images},
    }
    return (json.dumps(values, indent=2) + "\n").encode()
