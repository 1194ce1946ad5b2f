"""The layout of a plan: its parts and shards, and which manifest rows each part comes from.

The layout is small even for a large manifest and is stored as JSON with the run. What an edition
adds to a run has a layout of its own, whose numbers go on where those of the run end.
"""

import base64
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any, Self

import pyarrow as pa

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.manifest.file_records import Block, ManifestFile, RowLocator, RowRange
from nightpress.pipelines.manifest.prompt_counts import PromptCounts
from nightpress.pipelines.planning.named_pictures import NamedInputs

ROW_GROUP_IMAGES = 8_192
"""About how many images a row group of a part holds."""

INPUT_HASHES = "manifest/inputs.parquet"
"""Where a run keeps the hashes of its pictures, so that a part of the plan can be written again."""

_SETTINGS = frozenset(field.name for field in fields(SamplingParams))


@dataclass(frozen=True)
class SettingsCount:
    """How many images have these settings."""

    settings: SamplingParams
    """A LoRA's scale is always set: the row's, or else the LoRA's own."""
    num_images: int
    model: str | None = None
    """The name of their model; None in a job with a single one."""


@dataclass(frozen=True)
class PlanPart:
    """One file of the plan: consecutive manifest rows, expanded and sorted by settings."""

    path: str
    unit: int
    """The unit of work whose rows the part is made of; one worker writes all parts of a unit."""
    first_row: int
    """Counted over the whole manifest."""
    num_rows: int
    num_images: int
    first_shard: int
    num_shards: int
    model: str | None = None
    """The name of its images' model; None in a job with a single one. Of its rows, those of other
    models are in other parts."""

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON; of the model only if there are several."""
        values = asdict(self)
        return {key: value for key, value in values.items() if key != "model" or value is not None}


@dataclass(frozen=True)
class PlanLayout:
    """A checked manifest and how it is cut into parts and shards."""

    parts: tuple[PlanPart, ...]
    shard_size: int
    batches: tuple[SettingsCount, ...]
    """The most frequent settings, most images first."""
    files: tuple[ManifestFile, ...]
    batch_size: int = 1
    """Images sampled at once; see `images.sort_for_sampling`. The largest of several models."""
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
    """The batch size of each of several models; empty if all have the same."""
    sample_files: tuple[str, ...] = field(default=(), compare=False)
    """A few file names to show to a person, from a manifest that was just checked."""
    prompts: PromptCounts = field(default_factory=PromptCounts)
    """Rows whose prompts the model does not take as they are."""
    modes: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Mode -> how many images it makes, of a manifest that was just checked."""
    inputs: NamedInputs = field(default_factory=NamedInputs, compare=False)
    """The pictures of a manifest that was just checked, until they are checked too."""
    num_pictures: int = field(default=0, compare=False)
    """The distinct pictures that were checked."""
    input_hashes: pa.Table | None = field(default=None, compare=False)
    """The hashes of the pictures that were read for that, until they are kept with the run."""
    has_input_hashes: bool = False
    """Whether the run keeps hashes of its pictures, which are also in the plan."""
    order: tuple[str, ...] = ()
    """What makes images come sooner: columns of the plan such as `-priority`, `+surface`."""
    input_hashes_path: str = INPUT_HASHES
    """Where they are kept, if they are."""
    joined: tuple["PlanLayout", ...] = field(default=(), compare=False)
    """The layouts that this one was joined from; see `sections`."""

    @property
    def sections(self) -> tuple["PlanLayout", ...]:
        """The layouts that were planned each from its own files: the run's, then each edition's."""
        return self.joined or (self,)

    def extended(self, other: "PlanLayout") -> "PlanLayout":
        """This plan, with the parts and shards of another after its own.

        Args:
            other: the layout of an edition as `check` laid it out, with numbers from 0.
        """
        added = other.behind(self)
        both = (*self.sections, added)
        return replace(
            self,
            parts=self.parts + added.parts,
            files=self.files + added.files,
            shard_size=max(each.shard_size for each in both),
            batches=_merged(both),
            prompts=self.prompts + added.prompts,
            order=max((each.order for each in both), key=len),
            joined=both,
        )

    def behind(self, earlier: "PlanLayout") -> "PlanLayout":
        """This plan with numbers and paths that go on where those of another plan end."""
        last_unit = max(part.unit for part in earlier.parts)
        parts = tuple(
            replace(
                part,
                path=part_path(len(earlier.parts) + number),
                unit=part.unit + last_unit + 1,
                first_row=part.first_row + earlier.num_rows,
                first_shard=part.first_shard + earlier.num_shards,
            )
            for number, part in enumerate(self.parts)
        )
        return replace(self, parts=parts)

    def section_of(self, shard: int) -> "PlanLayout":
        """The layout that a shard was planned in.

        Raises:
            IndexError: there is no such shard.
        """
        self.part_of(shard)
        return self.sections[bisect_right(self._section_starts, shard) - 1]

    def sections_of(self, shards: Iterable[int]) -> list["PlanLayout"]:
        """The layouts that some shards were planned in, each once."""
        found = {each.parts[0].path: each for each in map(self.section_of, shards)}
        return list(found.values())

    @property
    def num_rows(self) -> int:
        """The number of rows in the manifest."""
        ends = (part.first_row + part.num_rows for part in self.parts)
        return max(ends) - self._first_row if self.parts else 0

    @property
    def models(self) -> tuple[str | None, ...]:
        """The names of the models that have images, in order; (None,) with a single one."""
        return tuple(dict.fromkeys(part.model for part in self.parts))

    def model_of(self, shard: int) -> str | None:
        """The name of the model of a shard; None in a job with a single one."""
        return self.part_of(shard).model

    def of_model(self, model: str | None) -> "PlanLayout":
        """The parts and settings of one model; not to be stored, or written."""
        return replace(
            self,
            parts=tuple(part for part in self.parts if part.model == model),
            batches=tuple(each for each in self.batches if each.model == model),
            batch_size=self.batch_sizes.get(model or "", self.batch_size),
        )

    @property
    def num_images(self) -> int:
        """The number of images to make."""
        return sum(part.num_images for part in self.parts)

    @cached_property
    def num_shards(self) -> int:
        """The number of shards; they are numbered from 0. Every event of a run asks for it."""
        return sum(part.num_shards for part in self.parts)

    @property
    def cost_ratio(self) -> float:
        """The cost of the costliest images over that of the cheapest; 1.0 if there are none."""
        settings = [count.settings for count in self.batches]
        costs = [one.cost for one in settings]
        return max(costs) / min(costs) if costs else 1.0

    def in_shards(
        self, shard_size: int, batch_size: int, batch_sizes: Mapping[str, int] | None = None
    ) -> Self:
        """The same images, cut into shards and batches of other sizes."""
        num_shards = [-(-part.num_images // shard_size) for part in self.parts]
        first_shards = accumulate(num_shards, initial=0)
        parts = tuple(
            replace(part, first_shard=first, num_shards=number)
            for part, first, number in zip(self.parts, first_shards, num_shards, strict=False)
        )
        return replace(
            self,
            parts=parts,
            shard_size=shard_size,
            batch_size=batch_size,
            batch_sizes=dict(batch_sizes or {}),
        )

    @property
    def row_group_size(self) -> int:
        """Images per row group: a multiple of the shard size, so that no shard spans two groups."""
        return self.shard_size * max(1, ROW_GROUP_IMAGES // self.shard_size)

    def part_of(self, shard: int) -> PlanPart:
        """The part that holds a shard.

        Raises:
            IndexError: there is no such shard.
        """
        if not 0 <= shard < self.num_shards:
            raise IndexError(f"shard {shard} does not exist; the plan has {self.num_shards} shards")
        return self.parts[bisect_right(self._first_shards, shard) - 1]

    def shard_images(self, shard: int) -> int:
        """The number of images in a shard; the last shard of a part may be smaller."""
        part, size = self.part_of(shard), self.section_of(shard).shard_size
        before = (shard - part.first_shard) * size
        return min(size, part.num_images - before)

    def row_ranges(self, first_row: int, num_rows: int) -> tuple[RowRange, ...]:
        """Consecutive rows of one section, as ranges of its files."""
        return self._row_locator.row_ranges(first_row - self._first_row, num_rows)

    @cached_property
    def _first_row(self) -> int:
        return min(part.first_row for part in self.parts)

    @cached_property
    def _row_locator(self) -> RowLocator:
        return RowLocator(self.files)

    @property
    def units(self) -> Iterator[tuple[int, tuple[RowRange, ...]]]:
        """The rows of each unit of work: the first row's number, and where they are."""
        in_units = sorted(self.parts, key=lambda part: part.unit)
        for _, group in groupby(in_units, key=lambda part: part.unit):
            parts = list(group)
            first = parts[0].first_row
            end = max(part.first_row + part.num_rows for part in parts)
            yield first, self.row_ranges(first, end - first)

    @cached_property
    def _section_starts(self) -> list[int]:
        return [each.parts[0].first_shard for each in self.sections]

    @cached_property
    def _first_shards(self) -> list[int]:
        return [part.first_shard for part in self.parts]

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON; a schema that several files share is written once."""
        return (
            {
                "shard_size": self.shard_size,
                "batch_size": self.batch_size,
                "num_rows": self.num_rows,
                "num_images": self.num_images,
                "num_shards": self.num_shards,
                "parts": [part.as_dict() for part in self.parts],
                "batches": [
                    {**asdict(count.settings), "num_images": count.num_images}
                    | ({} if count.model is None else {"model": count.model})
                    for count in self.batches
                ],
                **files_as_dict(self.files),
                "prompts": self.prompts.as_dict(),
            }
            | self._input_hashes_as_dict()
            | ({"order": list(self.order)} if self.order else {})
            | ({"batch_sizes": dict(self.batch_sizes)} if self.batch_sizes else {})
        )

    def _input_hashes_as_dict(self) -> dict[str, Any]:
        if not self.has_input_hashes:
            return {}
        elsewhere = self.input_hashes_path != INPUT_HASHES
        return {"has_input_hashes": True} | (
            {"input_hashes_path": self.input_hashes_path} if elsewhere else {}
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        return cls(
            parts=tuple(PlanPart(**part) for part in values["parts"]),
            shard_size=values["shard_size"],
            batches=tuple(
                SettingsCount(
                    SamplingParams.from_dict(
                        {key: value for key, value in each.items() if key in _SETTINGS}
                    ),
                    each["num_images"],
                    each.get("model"),
                )
                for each in values["batches"]
            ),
            files=files_from_dict(values),
            batch_size=values.get("batch_size", 1),
            prompts=PromptCounts(**values.get("prompts", {})),
            has_input_hashes=values.get("has_input_hashes", False),
            order=tuple(values.get("order", ())),
            batch_sizes=dict(values.get("batch_sizes", {})),
            input_hashes_path=values.get("input_hashes_path", INPUT_HASHES),
        )


def part_path(number: int) -> str:
    """`plan/part-00012.parquet`."""
    return f"plan/part-{number:05d}.parquet"


def files_as_dict(files: Sequence[ManifestFile]) -> dict[str, Any]:
    """`files` and `schemas` as JSON; a schema that several files share is written once."""
    schemas = list(dict.fromkeys(_encode(file.schema) for file in files))
    return {"files": [_file_as_dict(file, schemas) for file in files], "schemas": schemas}


def files_from_dict(values: Mapping[str, Any]) -> tuple[ManifestFile, ...]:
    """The inverse of `files_as_dict`; other keys are ignored."""
    schemas = [_decode(text) for text in values["schemas"]]
    return tuple(_file_from_dict(file, schemas) for file in values["files"])


def _merged(layouts: Sequence[PlanLayout]) -> tuple[SettingsCount, ...]:
    """The settings of several layouts, most images first."""
    counts: Counter[tuple[SamplingParams, str | None]] = Counter()
    for layout in layouts:
        for each in layout.batches:
            counts[each.settings, each.model] += each.num_images
    return tuple(
        SettingsCount(settings, number, model) for (settings, model), number in counts.most_common()
    )


def _file_as_dict(file: ManifestFile, schemas: Sequence[str]) -> dict[str, Any]:
    values = {
        "url": file.url,
        "version": file.version,
        "num_bytes": file.num_bytes,
        "sha256": file.sha256,
        "format": file.format,
        "compression": file.compression,
        "quotes_are_text": file.quotes_are_text,
        "schema": schemas.index(_encode(file.schema)),
        "checksums": base64.b64encode(file.checksums).decode(),
        "pieces": [[block.start, block.num_bytes, block.num_rows] for block in file.blocks],
    }
    if file.partition:
        values["partition"] = file.partition
        values["num_stored_columns"] = file.num_stored_columns
    return values


def _file_from_dict(values: Mapping[str, Any], schemas: Sequence[pa.Schema]) -> ManifestFile:
    blocks = tuple(Block(*block) for block in values["pieces"])
    schema = schemas[values["schema"]]
    checksums = base64.b64decode(values.get("checksums", ""))  # older versions wrote none
    partition = tuple((name, value) for name, value in values.get("partition", ()))
    read = ("pieces", "schema", "checksums", "partition")
    others = {key: value for key, value in values.items() if key not in read}
    return ManifestFile(
        **others, schema=schema, blocks=blocks, checksums=checksums, partition=partition
    )


def _encode(schema: pa.Schema) -> str:
    return base64.b64encode(schema.serialize()).decode()


def _decode(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
