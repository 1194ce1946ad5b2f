"""Folders of image files, each with a `metadata.parquet`, as `datasets` reads an image folder.

Reference: huggingface.co/docs/datasets, "Create an image dataset", ImageFolder with metadata.
"""

from collections.abc import Sequence
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.pipelines.export.layouts.hf_parquet import CAPTION
from nightpress.pipelines.export.layouts.part import (
    DATA,
    ExportedImage,
    Part,
    PartKey,
    folder_part,
    safe_name,
)

METADATA_FILE = "metadata.parquet"
FILE_NAME = pa.field("file_name", pa.string())


def write(key: PartKey, images: Sequence[ExportedImage], rows: pa.Table) -> Part:
    """A part as one folder; see `hf_parquet.write`."""
    names = [safe_name(image.name) for image in images]
    files = [(name, image.data) for name, image in zip(names, images, strict=True)]
    files.append((METADATA_FILE, metadata_file(names, images, rows)))
    return folder_part(f"{DATA}/{key.split}/{key.stem}", files, names)


def metadata_file(names: Sequence[str], images: Sequence[ExportedImage], rows: pa.Table) -> bytes:
    """The file with the names, the captions and the columns of the images of a folder."""
    captions = [image.caption for image in images]
    schema = pa.schema([FILE_NAME, CAPTION, *rows.schema])
    columns = [pa.array(names, pa.string()), pa.array(captions, pa.string()), *rows.columns]
    file = BytesIO()
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), file, write_page_checksum=True)
    return file.getvalue()
