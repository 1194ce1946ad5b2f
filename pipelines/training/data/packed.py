"""A packed data set: all image files in one blob, and an Arrow index of their offsets.

Both are memory-mapped, so that the processes of one machine share their pages.
"""

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.errors import DataError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.spec import canonical_json
from nightpress.pipelines.training.data.decoding import ImageArray, center_crop, decode

BLOB, INDEX = "pictures.bin", "index.arrow"

SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("offset", pa.int64()),
        ("num_bytes", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.binary(32)),
        ("captions", pa.list_(pa.string())),
        ("reason", pa.string()),  # why the image cannot be used; null if it can
    ]
)

NUM_SHOWN = 3
"""Images that a message names."""

MAX_BAD = 100
"""Images that `PackedImages.bad` lists."""


@dataclass(frozen=True)
class BadImage:
    """An image that is left out, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        """`cats/001.png: the file is empty`."""
        return f"{self.name}: {self.reason}"


class PackedImages:
    """The usable images of a packed folder, numbered from 0 in the order of their source.

    Pickles as its arguments; the receiving process maps the files itself.

    Args:
        folder: written by `pack`.
        resolution: pixels; images with a smaller side are left out.
        need_captions: leave out images without a caption.
        where: the source, as messages name it.

    Raises:
        DataError: no image can be used, or captions are needed and there are none.
    """

    def __init__(self, folder: Path, resolution: int, need_captions: bool, where: str) -> None:
        self._arguments = (folder, resolution, need_captions, where)
        self.resolution, self.need_captions = resolution, need_captions
        with pa.memory_map(str(folder / INDEX)) as file:
            self._index: pa.Table = pa.ipc.open_file(file).read_all()
        if need_captions and (missing := self._index.schema.metadata[b"no_captions"].decode()):
            raise DataError(missing)
        decodable, small = self._is_decodable(), self._is_small()
        usable = decodable & ~small & ~self._lacks_caption()
        self._rows: NDArray[np.int64] = np.flatnonzero(usable)
        self.num_bad = len(usable) - len(self._rows)
        if not len(self._rows):
            raise DataError(f"{where}: {self._why_none_usable(decodable, small)}")
        with (folder / BLOB).open("rb") as blob:
            self._blob = mmap.mmap(blob.fileno(), 0, access=mmap.ACCESS_READ)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def cache(self) -> Path:
        """The folder of packed data sets that this one is in."""
        return self._arguments[0].parent

    def name(self, i: int) -> str:
        """The image's name within its source: `cats/001.png`, `train.parquet#7`."""
        return str(self._cell("name", self._rows[i]))

    def size(self, i: int) -> tuple[int, int]:
        """Width and height in pixels."""
        row = self._rows[i]
        return self._cell("width", row), self._cell("height", row)

    def captions(self, i: int) -> tuple[str, ...]:
        """All captions of an image; at least one if captions are needed."""
        return tuple(self._cell("captions", self._rows[i]))

    def bytes(self, i: int) -> bytes:
        """The image file, unchanged."""
        start = self._cell("offset", self._rows[i])
        return self._blob[start : start + self._cell("num_bytes", self._rows[i])]

    def pixels(self, i: int, size: int) -> ImageArray:
        """The central square, upright and on white; (size, size, 3), RGB."""
        return center_crop(decode(self.bytes(i)), size)

    @property
    def bad(self) -> tuple[BadImage, ...]:
        """The first images that were left out, at most `MAX_BAD`."""
        return tuple(islice(self._bad(), MAX_BAD))

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before training besides `bad`, one line each."""
        found = []
        if self.need_captions and (caption := self._shared_caption()) is not None:
            found.append(
                f"all {len(self):,} images have the same caption, {caption!r:.80}: "
                "the model cannot learn what prompts mean"
            )
        return tuple(found)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of names, images and, if needed, captions; independent of their location."""
        digest = hashlib.sha256()
        for i, row in enumerate(self._rows):
            captions = self.captions(i) if self.need_captions else ()
            digest.update(canonical_json([self.name(i), list(captions)]).encode())
            digest.update(self._cell("sha256", row))
        return digest.hexdigest()

    def _cell(self, column: str, row: Any) -> Any:
        return self._index.column(column)[int(row)].as_py()

    def _is_decodable(self) -> NDArray[np.bool_]:
        return np.asarray(self._index.column("reason").is_null(), bool)

    def _is_small(self) -> NDArray[np.bool_]:
        width, height = (self._index.column(c).to_numpy() for c in ("width", "height"))
        return np.asarray(np.minimum(width, height) < self.resolution, bool)

    def _lacks_caption(self) -> NDArray[np.bool_]:
        """Images without the caption that they need."""
        if not self.need_captions:
            return np.zeros(len(self._index), bool)
        lengths = pc.list_value_length(self._index.column("captions"))
        return np.asarray(np.asarray(lengths) == 0, bool)

    def _bad(self) -> Iterator[BadImage]:
        used = np.zeros(len(self._index), bool)
        used[self._rows] = True
        for row in np.flatnonzero(~used):
            yield BadImage(self._cell("name", row), self._reason(row))

    def _reason(self, row: Any) -> str:
        reason = self._cell("reason", row)
        width, height = self._cell("width", row), self._cell("height", row)
        if reason is not None:
            return str(reason)
        if min(width, height) < self.resolution:
            return f"{width} x {height} pixels, smaller than training.resolution {self.resolution}"
        return "no caption"

    def _why_none_usable(self, decodable: NDArray[np.bool_], small: NDArray[np.bool_]) -> str:
        if decodable.any() and small[decodable].all():
            sides = [np.asarray(self._index.column(c)) for c in ("width", "height")]
            largest = int(np.minimum(*sides)[decodable].max())
            return (
                f"every image is smaller than training.resolution {self.resolution}; "
                f"set it to {largest} or less"
            )
        shown = "; ".join(map(str, islice(self._bad(), NUM_SHOWN)))
        return f"none of {plural(len(decodable), 'image')} can be used: {shown}"

    def _shared_caption(self) -> str | None:
        """The caption of every image, if all have the same one."""
        first = self.captions(0)[0]
        same = all(set(self.captions(i)) == {first} for i in range(len(self)))
        return first if same else None
