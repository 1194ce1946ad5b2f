"""Folders as DiffusionDB's: `part-000001/` with images and a JSON of their settings, and one table.

Reference: DiffusionDB, poloclub.github.io/diffusiondb, "Dataset structure" (Wang et al. 2022).
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.export.layouts.part import DATA, ExportedImage, Part, PartKey, Place

SAMPLERS = {
    "ddim": (1, "ddim"),
    "euler": (3, "k_euler"),
    "euler-ancestral": (4, "k_euler_ancestral"),
    "heun": (5, "k_heun"),
}
OTHER_SAMPLER = (9, "others")

TABLE = pa.schema(
    [
        pa.field("image_name", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("part_id", pa.uint32()),
        pa.field("seed", pa.int64()),
        pa.field("step", pa.uint16()),
        pa.field("cfg", pa.float32()),
        pa.field("sampler", pa.uint8()),
        pa.field("width", pa.uint16()),
        pa.field("height", pa.uint16()),
        pa.field("user_name", pa.string()),
        pa.field("timestamp", pa.timestamp("us", tz="UTC")),
        pa.field("image_nsfw", pa.float32()),
        pa.field("prompt_nsfw", pa.float32()),
    ]
)
"""DiffusionDB's `metadata.parquet`, with wider numbers of parts and seeds; `user_name` is null."""

TABLE_STEM = "metadata"


def write(key: PartKey, images: Sequence[ExportedImage], rows: pa.Table) -> Part:
    """A part as one folder; see `hf_parquet.write`. Its name has the number of its shard alone."""
    number = key.number_of_shard + 1
    folder = f"{DATA}/part-{number:06d}"
    values = rows.to_pylist()
    names = [_name(image) for image in images]
    settings = {
        name: _settings(image, row) for name, image, row in zip(names, images, values, strict=True)
    }
    listed = (json.dumps(settings, ensure_ascii=False, indent=1) + "\n").encode()
    objects = [(f"{folder}/{name}", image.data) for name, image in zip(names, images, strict=True)]
    objects.append((f"{folder}/part-{number:06d}{key.suffix}.json", listed))
    objects.append((f"{folder}/table{key.suffix}.parquet", _table(number, names, images, values)))
    return Part(tuple(objects), tuple(Place(f"{folder}/{name}") for name in names))


def part_table(path: str, data: bytes) -> pa.Table:
    """The rows of a part's table, in TABLE.

    Args:
        path: the object, for messages.
        data: its bytes.

    Raises:
        Damaged: it is no such table.
    """
    try:
        return pq.read_table(pa.BufferReader(data), schema=TABLE)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{path}: the table of a part is damaged: {one_line(error, 200)}") from error


def is_part_table(path: str) -> bool:
    """Whether an object is the table of a part."""
    return path.startswith(f"{DATA}/part-") and path.endswith(".parquet")


def _name(image: ExportedImage) -> str:
    """A UUID that is made of the image's bytes, as version 8 allows it: RFC 9562, section 5.8."""
    digest = sha256(image.name.encode() + b"\0" + image.data).digest()[:16]
    number = int.from_bytes(digest) & ~(0xF << 76) & ~(0x3 << 62) | (0x8 << 76) | (0x2 << 62)
    return f"{UUID(int=number)}.{image.suffix}"


def _settings(image: ExportedImage, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "p": image.caption,
        "se": row["seed"],
        "c": row["guidance_scale"],
        "st": row["num_inference_steps"],
        "sa": SAMPLERS.get(row["scheduler"], OTHER_SAMPLER)[1],
    }


def _table(
    number: int,
    names: Sequence[str],
    images: Sequence[ExportedImage],
    rows: Sequence[dict[str, Any]],
) -> bytes:
    values = [
        {
            "image_name": name,
            "prompt": image.caption,
            "part_id": number,
            "seed": row["seed"],
            "step": row["num_inference_steps"],
            "cfg": row["guidance_scale"],
            "sampler": SAMPLERS.get(row["scheduler"], OTHER_SAMPLER)[0],
            "width": row["width"],
            "height": row["height"],
            "timestamp": row.get("started_at"),
            "image_nsfw": row.get("scores.nsfw"),
        }
        for name, image, row in zip(names, images, rows, strict=True)
    ]
    sink = BytesIO()
    pq.write_table(pa.Table.from_pylist(values, schema=TABLE), sink, compression="zstd")
    return sink.getvalue()
