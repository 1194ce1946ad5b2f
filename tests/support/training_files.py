"""Training data for tests: image files, tars and tables, and how to write and pack them."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from support.servers import Folder

from nightpress.pipelines.storage import Store
from nightpress.pipelines.training.data import PackedImages

SIDE = 24

Files = Mapping[str, bytes]
"""Name -> content."""

Packed = Callable[..., PackedImages]
"""The fixture `packed`."""


def image_file(seed: int, size: tuple[int, int] = (SIDE, SIDE), form: str = "PNG") -> bytes:
    """An image file of random noise, which depends on the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return encoded(Image.fromarray(pixels), form)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def tar(members: Iterable[tuple[str, bytes]], mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as file:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def parquet(columns: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def table_of(rows: Iterable[Mapping[str, str]]) -> bytes:
    rows = list(rows)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


IMAGES = [image_file(n) for n in range(4)]
CAPTIONS = [f"noise number {n}" for n in range(4)]

TAR = tar(
    (f"{n:03d}.{kind}", data)
    for n in range(4)
    for kind, data in (("png", IMAGES[n]), ("txt", CAPTIONS[n].encode()))
)
JSON_TAR = tar(
    (f"deep/{n:03d}.{kind}", data)
    for n in range(4)
    for kind, data in (
        ("json", json.dumps({"caption": CAPTIONS[n], "n": n}).encode()),
        ("png", IMAGES[n]),
    )
)


def put(files: Files, folder: Folder) -> None:
    store = Store(*folder)
    for name, data in files.items():
        store.put(name, data)


def pack_one(image: Image.Image, packed: Packed, **options: Any) -> PackedImages:
    """Pack a data set of one image; `options` are passed to the encoder."""
    form = options.pop("form", "PNG")
    return packed({f"set/1.{form.lower()}": encoded(image, form, **options)}, need_captions=False)
