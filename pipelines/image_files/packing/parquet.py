"""Parquet files with the image bytes inside, as Hugging Face's `datasets` reads them.

The column `image` holds `bytes` and `path`, and the file's own metadata says that it is an image;
the facts and what the manifest carries follow. Pages have checksums. The bytes of an image stand
in the file as they are, so they can also be read without Parquet.
Reference: huggingface.co/docs/datasets, "Create an image dataset", the features in the schema.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.errors import one_line
from nightpress.pipelines.image_files.packing.members import Member, Pack, Place
from nightpress.pipelines.records import METADATA_SCHEMA, ImageFacts

ROW_GROUP_IMAGES, ROW_GROUP_BYTES = 100, 32 << 20
"""What a reader holds at once, and what is copied at once while a file is written."""

IMAGE = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))

FACTS = [
    pa.field(name, METADATA_SCHEMA.field(name).type)
    for name in METADATA_SCHEMA.names
    if name in ImageFacts.__dataclass_fields__
]

FEATURES = {"info": {"features": {"image": {"_type": "Image"}}}}
"""What `datasets` is told; the other columns are what their types say."""


def pack(members: Iterable[Member], carried: pa.Table) -> Pack:
    """A Parquet file of the members; see `pipelines.image_files.packing.pack`."""
    carried = _beside_images(carried)
    schema = pa.schema([IMAGE, *FACTS, *carried.schema], {"huggingface": json.dumps(FEATURES)})
    short = [field.name for field in schema if not pa.types.is_nested(field.type)]
    file, places = BytesIO(), list[Place]()
    with pq.ParquetWriter(
        file,
        schema,
        compression="none",
        use_dictionary=short,
        write_statistics=short,
        write_page_checksum=True,
    ) as writer:
        for group in _row_groups(members):
            start = file.tell()
            writer.write_table(_rows(group, carried.slice(len(places), len(group)), schema))
            places += _places(group, file, start)
    return Pack(file.getvalue(), tuple(places))


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The images of a Parquet file, by their paths.

    Raises:
        ValueError: it is none, or not whole.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            for batch in file.iter_batches(ROW_GROUP_IMAGES, columns=["image"]):
                for image in batch.column("image").to_pylist():
                    yield image["path"], image["bytes"]
    except (pa.ArrowException, OSError) as error:
        reason = one_line(error, 200)
        raise ValueError(f"it is no whole Parquet file: {reason}") from error


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
    facts = pa.Table.from_pylist([member.facts.as_dict() for member in group], pa.schema(FACTS))
    columns = [pa.array(images, IMAGE.type), *facts.columns, *carried.columns]
    return pa.Table.from_arrays(columns, schema=schema)


def _places(group: Sequence[Member], file: BytesIO, start: int) -> Iterator[Place]:
    """Where in the row group that was written last the images are: in order, each in one piece."""
    file.seek(start)
    written, place = file.read(), 0
    for member in group:
        place = written.index(member.data, place)
        yield Place(member.name, start + place)
        place += len(member.data)


def _beside_images(carried: pa.Table) -> pa.Table:
    """Carried columns as they may stand beside `image`, each text by itself."""
    fields = []
    for field in carried.schema:
        of_text = pa.types.is_dictionary(field.type)
        name = f"manifest_{field.name}" if field.name == IMAGE.name else field.name
        while name != field.name and name in carried.column_names:
            name = f"manifest_{name}"
        fields.append(pa.field(name, field.type.value_type if of_text else field.type))
    return carried.rename_columns([field.name for field in fields]).cast(pa.schema(fields))
