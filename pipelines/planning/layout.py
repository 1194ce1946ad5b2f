"""The shape of a plan: its parts, its shards, and where in the manifest each part's rows lie.

Small even for a large manifest, and JSON-ready, so it is kept with the run.
"""

import base64
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Self

import pyarrow as pa

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.manifest.files import ManifestFile, Piece, Slice

ROW_GROUP_IMAGES = 8_192

_SETTINGS = frozenset(field.name for field in fields(SamplingParams))


@dataclass(frozen=True)
class SettingsCount:
    """How many images have these settings."""

    settings: SamplingParams
    """The scale of a LoRA is always said: the row's, or the LoRA's own."""
    num_images: int


@dataclass(frozen=True)
class PlanPart:
    """One file of the plan: consecutive manifest rows, expanded and sorted by settings."""

    path: str
    unit: int
    """Parts of one unit are cheapest when written one after the other, by one worker."""
    first_row: int
    """Among all rows of the manifest."""
    num_rows: int
    num_images: int
    first_shard: int
    num_shards: int


class RowPlaces:
    """Where rows of a whole manifest lie in its files."""

    def __init__(self, files: Sequence[ManifestFile]) -> None:
        self._files = files
        self._ends = list(accumulate(file.num_rows for file in files))

    def slices(self, first_row: int, num_rows: int) -> tuple[Slice, ...]:
        """The places of consecutive rows, file by file."""
        found = []
        index = bisect_right(self._ends, first_row)
        while num_rows:
            file, end = self._files[index], self._ends[index]
            taken = min(num_rows, end - first_row)
            if taken:
                found.append(Slice(file, first_row - (end - file.num_rows), taken))
            first_row += taken
            num_rows -= taken
            index += 1
        return tuple(found)


@dataclass(frozen=True)
class PlanLayout:
    """A checked manifest and how it is cut."""

    parts: tuple[PlanPart, ...]
    shard_size: int
    batches: tuple[SettingsCount, ...]
    """The most frequent settings, most images first."""
    files: tuple[ManifestFile, ...]
    batch_size: int = 1
    """Images sampled at once; see `images.in_sampling_order`."""

    @property
    def num_rows(self) -> int:
        """Rows of the manifest."""
        return sum(part.num_rows for part in self.parts)

    @property
    def num_images(self) -> int:
        """Images to make."""
        return sum(part.num_images for part in self.parts)

    @property
    def num_shards(self) -> int:
        """Shards to hand out, numbered from 0."""
        return sum(part.num_shards for part in self.parts)

    @property
    def cost_ratio(self) -> float:
        """Pixels times steps of the hardest images, over those of the easiest; 1.0 of no images."""
        settings = [each.settings for each in self.batches]
        costs = [each.width * each.height * each.num_inference_steps for each in settings]
        return max(costs) / min(costs) if costs else 1.0

    def in_shards(self, shard_size: int, batch_size: int) -> Self:
        """The same images in shards and batches of other sizes."""
        num_shards = [-(-part.num_images // shard_size) for part in self.parts]
        first_shards = accumulate(num_shards, initial=0)
        parts = tuple(
            replace(part, first_shard=first, num_shards=number)
            for part, first, number in zip(self.parts, first_shards, num_shards, strict=False)
        )
        return replace(self, parts=parts, shard_size=shard_size, batch_size=batch_size)

    @property
    def row_group_size(self) -> int:
        """Images in a row group of a part: whole shards, so that a shard lies in one."""
        return self.shard_size * max(1, ROW_GROUP_IMAGES // self.shard_size)

    def part_of(self, shard: int) -> PlanPart:
        """The part that holds a shard.

        Raises:
            IndexError: there is no such shard.
        """
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard {shard} is not among the plan's {self.num_shards}")
        return self.parts[bisect_right(self._first_shards, shard) - 1]

    def shard_images(self, shard: int) -> int:
        """How many images a shard has: the last of each part may be short."""
        part = self.part_of(shard)
        before = (shard - part.first_shard) * self.shard_size
        return min(self.shard_size, part.num_images - before)

    @cached_property
    def rows(self) -> RowPlaces:
        """Where the manifest's rows lie."""
        return RowPlaces(self.files)

    @cached_property
    def _first_shards(self) -> list[int]:
        return [part.first_shard for part in self.parts]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values; schemas that files share are written once."""
        schemas = list(dict.fromkeys(_encode(file.schema) for file in self.files))
        return {
            "shard_size": self.shard_size,
            "batch_size": self.batch_size,
            "num_rows": self.num_rows,
            "num_images": self.num_images,
            "num_shards": self.num_shards,
            "parts": [asdict(part) for part in self.parts],
            "batches": [
                {**asdict(each.settings), "num_images": each.num_images} for each in self.batches
            ],
            "files": [_file_as_dict(file, schemas) for file in self.files],
            "schemas": schemas,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        schemas = [_decode(text) for text in values["schemas"]]
        return cls(
            parts=tuple(PlanPart(**part) for part in values["parts"]),
            shard_size=values["shard_size"],
            batches=tuple(
                SettingsCount(
                    SamplingParams(
                        **{key: value for key, value in each.items() if key in _SETTINGS}
                    ),
                    each["num_images"],
                )
                for each in values["batches"]
            ),
            files=tuple(_file_from_dict(file, schemas) for file in values["files"]),
            batch_size=values.get("batch_size", 1),
        )


def _file_as_dict(file: ManifestFile, schemas: Sequence[str]) -> dict[str, Any]:
    return {
        "url": file.url,
        "version": file.version,
        "num_bytes": file.num_bytes,
        "sha256": file.sha256,
        "format": file.format,
        "compression": file.compression,
        "schema": schemas.index(_encode(file.schema)),
        "pieces": [[piece.start, piece.num_bytes, piece.num_rows] for piece in file.pieces],
    }


def _file_from_dict(values: Mapping[str, Any], schemas: Sequence[pa.Schema]) -> ManifestFile:
    pieces = tuple(Piece(*piece) for piece in values["pieces"])
    return ManifestFile(**{**values, "schema": schemas[values["schema"]], "pieces": pieces})


def _encode(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize()).decode()


def _decode(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
