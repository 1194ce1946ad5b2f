"""Folders as kohya's sd-scripts train from: `<repeats>_<name>` with images and captions as `.txt`.

Reference: sd-scripts, docs/train_README, "DreamBooth, class+identifier style": the number before
the first underscore is how often an epoch shows each image; `read_caption` in library/train_util.py
takes the first line of a caption's file.
"""

from collections.abc import Sequence

import pyarrow as pa

from nightpress.pipelines.export.layouts.imagefolder import METADATA_FILE, metadata_file
from nightpress.pipelines.export.layouts.part import (
    DATA,
    ExportedImage,
    Part,
    PartKey,
    flat_name,
    folder_part,
)

REPEATS = 1


def write(key: PartKey, images: Sequence[ExportedImage], rows: pa.Table) -> Part:
    """A part as one folder; see `hf_parquet.write`. Its columns are in a `metadata.parquet`."""
    names = [flat_name(image.name) for image in images]
    files = [(name, image.data) for name, image in zip(names, images, strict=True)]
    files += [
        (f"{name.rpartition('.')[0]}.txt", _caption(image.caption))
        for name, image in zip(names, images, strict=True)
    ]
    files.append((METADATA_FILE, metadata_file(names, images, rows)))
    return folder_part(f"{DATA}/{key.split}/{REPEATS}_{key.title}-{key.stem}", files, names)


def _caption(text: str) -> bytes:
    """A caption as one line, since sd-scripts read only the first, and refuse an empty file."""
    return (" ".join(text.split()) + "\n").encode()
