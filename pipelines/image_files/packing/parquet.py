"""Packs as Parquet files that hold the image bytes, as Hugging Face's `datasets` reads them.

The column `image` holds `bytes` and `path`, and the file's metadata marks it as an image; the facts
and the carried columns follow. Pages have checksums. The image bytes are stored uncompressed and
contiguous, so they can also be read without Parquet.
Reference: huggingface.co/docs/datasets, "Create an image dataset", the features in the schema.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.image_files.packing.members import Member, MemberLocation, Pack
from nightpress.pipelines.records import METADATA_SCHEMA, ImageFacts

ROW_GROUP_IMAGES, ROW_GROUP_BYTES = 100, 32 << 20
"""Limits of a row group: what a reader or writer holds in memory."""

IMAGE = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

FACTS = [
    pa.field(name, METADATA_SCHEMA.field(name).type)
    for name in METADATA_SCHEMA.names
    if name in ImageFacts.__dataclass_fields__
]

FEATURES = {"info": {"features": {"image": {"_type": "Image"}}}}
"""Tells `datasets` which column is an image; it infers the other columns from their types."""


def pack(members: Iterable[Member], carried: pa.Table) -> Pack:
    """Pack members as a Parquet file; see `pipelines.image_files.packing.pack`."""
    carried = _plain_carried(carried)
    schema = pa.schema([IMAGE, *FACTS, *carried.schema], {"huggingface": json.dumps(FEATURES)})
    file, locations = BytesIO(), list[MemberLocation]()
    with image_writer(file, schema) as writer:
        for group in _row_groups(members):
            start = file.tell()
            writer.write_table(_rows(group, carried.slice(len(locations), len(group)), schema))
            locations += _locations(group, file, start)
    return Pack(file.getvalue(), tuple(locations))


def image_writer(file: BytesIO, schema: pa.Schema) -> pq.ParquetWriter:
    """Writes a Parquet file whose nested columns hold images, which are stored as they are."""
    short = [field.name for field in schema if not pa.types.is_nested(field.type)]
    return pq.ParquetWriter(
        file,
        schema,
        compression="none",
        use_dictionary=short,
        write_statistics=short,
        write_page_checksum=True,
    )


def members(data: bytes, columns: Sequence[str] = (IMAGE.name,)) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of each image in a Parquet file.

    Args:
        data: the file.
        columns: those that hold images.

    Raises:
        ValueError: truncated or invalid.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            for batch in file.iter_batches(ROW_GROUP_IMAGES, columns=list(columns)):
                for name in columns:
                    for image in batch.column(name).to_pylist():
                        yield image["path"], image["bytes"]
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"truncated or invalid Parquet file: {one_line(error, 200)}") from error


def _row_groups(members: Iterable[Member]) -> Iterator[list[Member]]:
    group, num_bytes = list[Member](), 0
    for member in members:
        if group and (len(group) == ROW_GROUP_IMAGES or num_bytes > ROW_GROUP_BYTES):
            yield group
            group, num_bytes = [], 0
        group.append(member)
        num_bytes += len(member.data)
    if group:
        yield group


def _rows(group: Sequence[Member], carried: pa.Table, schema: pa.Schema) -> pa.Table:
    images = [{"bytes": member.data, "path": member.name} for member in group]
    facts = pa.Table.from_pylist([member.facts.as_row() for member in group], pa.schema(FACTS))
    columns = [pa.array(images, IMAGE.type), *facts.columns, *carried.columns]
    return pa.Table.from_arrays(columns, schema=schema)


def _locations(group: Sequence[Member], file: BytesIO, start: int) -> Iterator[MemberLocation]:
    """Where the images lie in the row group that was written last, from offset `start` on.

    Parquet keeps their order, and each image is contiguous.
    """
    file.seek(start)
    written, offset = file.read(), 0
    for member in group:
        offset = written.index(member.data, offset)
        yield MemberLocation(member.name, start + offset)
        offset += len(member.data)


def _plain_carried(carried: pa.Table) -> pa.Table:
    """The carried columns without dictionary encoding, and without the name of the image column."""
    names, columns = [], []
    for field, column in zip(carried.schema, carried.columns, strict=True):
        name = f"manifest_{field.name}" if field.name == IMAGE.name else field.name
        while name != field.name and name in carried.column_names:
            name = f"manifest_{name}"
        names.append(name)
        is_encoded = pa.types.is_dictionary(field.type)
        columns.append(column.cast(field.type.value_type) if is_encoded else column)
    return pa.table(columns, names)
