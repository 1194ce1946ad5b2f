"""A packed data set: every picture's file in one blob, and an Arrow index of what is where.

Both are mapped into memory, so processes of one machine share their pages. Knows nothing of where
the pictures came from.
"""

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.errors import DataError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.spec import canonical_json
from nightpress.pipelines.training.data.pictures import Pixels, decode, square

if TYPE_CHECKING:
    from torch import Generator

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
        ("reason", pa.string()),  # why it cannot be used; null for a sound picture
    ]
)

NUM_SHOWN = 3
"""Bad pictures that an error names."""

MAX_BAD = 100


@dataclass(frozen=True)
class BadImage:
    """A picture that is left out, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        """`cats/001.png: zero bytes`."""
        return f"{self.name}: {self.reason}"


class PackedImages:
    """The usable pictures of a packed folder, in the order of their source; numbers count from 0.

    Travels between processes as its arguments.

    Args:
        folder: as `pack` wrote it.
        resolution: pixels; smaller pictures are left out.
        need_captions: leave out pictures without a caption.
        where: the source as messages name it.

    Raises:
        DataError: no picture can be used, or captions are needed and there are none.
    """

    def __init__(self, folder: Path, resolution: int, need_captions: bool, where: str) -> None:
        self._arguments = (folder, resolution, need_captions, where)
        self.resolution, self.need_captions = resolution, need_captions
        with pa.memory_map(str(folder / INDEX)) as file:
            self._index: pa.Table = pa.ipc.open_file(file).read_all()
        if need_captions and (missing := self._index.schema.metadata[b"no_captions"].decode()):
            raise DataError(missing)
        sound, small, bare = self._sound(), self._small(), self._bare()
        self._rows: NDArray[np.int64] = np.flatnonzero(sound & ~small & ~bare)
        self.num_bad = len(sound) - len(self._rows)
        if not len(self._rows):
            raise DataError(f"{where}: {self._nothing_left(sound, small)}")
        with (folder / BLOB).open("rb") as blob:
            self._blob = mmap.mmap(blob.fileno(), 0, access=mmap.ACCESS_READ)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, i: int) -> str:
        """What the picture is called below its source: `cats/001.png`, `train.parquet#7`."""
        return str(self._cell("name", self._rows[i]))

    def captions(self, i: int) -> tuple[str, ...]:
        """All captions of a picture; at least one if they are needed."""
        return tuple(self._cell("captions", self._rows[i]))

    def bytes(self, i: int) -> bytes:
        """The picture's file as it was found."""
        start = self._cell("offset", self._rows[i])
        return self._blob[start : start + self._cell("num_bytes", self._rows[i])]

    def pixels(self, i: int, size: int) -> Pixels:
        """The middle square of the picture, upright and on white; (size, size, 3), RGB."""
        return square(decode(self.bytes(i)), size)

    def window(self, i: int, size: int, generator: "Generator") -> Pixels:
        """A random part of the picture's middle square at the resolution; (size, size, 3), RGB."""
        import torch

        room = self.resolution - size + 1
        top, left = torch.randint(room, (2,), generator=generator).tolist()
        return self.pixels(i, self.resolution)[top : top + size, left : left + size]

    @property
    def bad(self) -> tuple[BadImage, ...]:
        """The first pictures that were left out, at most 100."""
        return tuple(islice(self._bad(), MAX_BAD))

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know before it trains, a line each."""
        found = []
        if self.num_bad:
            shown = "; ".join(map(str, self.bad[:NUM_SHOWN]))
            found.append(f"{plural(self.num_bad, 'picture')} left out: {shown}")
        if self.need_captions and (only := self._only_caption()) is not None:
            found.append(
                f"all {len(self):,} pictures have one caption, {only!r:.80}: "
                "words will tell nothing apart"
            )
        return tuple(found)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of names, pictures and, if they are needed, captions; wherever they lie."""
        digest = hashlib.sha256()
        for i, row in enumerate(self._rows):
            captions = self.captions(i) if self.need_captions else ()
            digest.update(canonical_json([self.name(i), list(captions)]).encode())
            digest.update(self._cell("sha256", row))
        return digest.hexdigest()

    def _cell(self, column: str, row: Any) -> Any:
        return self._index.column(column)[int(row)].as_py()

    def _sound(self) -> NDArray[np.bool_]:
        return np.asarray(self._index.column("reason").is_null(), bool)

    def _small(self) -> NDArray[np.bool_]:
        width, height = (self._index.column(c).to_numpy() for c in ("width", "height"))
        return np.asarray(np.minimum(width, height) < self.resolution, bool)

    def _bare(self) -> NDArray[np.bool_]:
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
            return f"{width} x {height} pixels, smaller than the resolution {self.resolution}"
        return "no caption"

    def _nothing_left(self, sound: NDArray[np.bool_], small: NDArray[np.bool_]) -> str:
        if sound.any() and small[sound].all():
            sides = [np.asarray(self._index.column(c)) for c in ("width", "height")]
            largest = int(np.minimum(*sides)[sound].max())
            return (
                f"every picture is smaller than the resolution {self.resolution}; set "
                f"training.resolution to {largest} or less"
            )
        shown = "; ".join(map(str, islice(self._bad(), NUM_SHOWN)))
        return f"none of {plural(len(sound), 'picture')} can be used: {shown}"

    def _only_caption(self) -> str | None:
        """The caption of every picture, if it is the same one."""
        first = self.captions(0)[0]
        same = all(set(self.captions(i)) == {first} for i in range(len(self)))
        return first if same else None
