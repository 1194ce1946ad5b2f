"""How a manifest has grown since a run was planned from it: which images came, went and changed.

Every image that the manifest plans now is compared with what the run's plan holds, by hashes, so a
million images take seconds and one request for each part of the plan.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.errors import ManifestError, PlanDamaged, Problem, StoreMissing
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.portability import folded
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import Columns, resolve_columns
from nightpress.pipelines.manifest.files import ManifestFile
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.row_problems import Mask
from nightpress.pipelines.manifest.types import common_type, one_chunk
from nightpress.pipelines.planning.checking import check, scan_all
from nightpress.pipelines.planning.duplicates import Mapper
from nightpress.pipelines.planning.image_hashes import (
    COMPARED,
    ImageHashes,
    Types,
    hashes_of_images,
    hashes_of_names,
    hashes_of_part,
    named,
)
from nightpress.pipelines.planning.images import Planner, expand_rows
from nightpress.pipelines.planning.layout import PlanLayout, PlanPart
from nightpress.pipelines.planning.parts import images_table, plain, plan_part
from nightpress.pipelines.planning.seeds import Hashes, hash64
from nightpress.pipelines.planning.units import WorkUnit, read_batches, split_into_units
from nightpress.pipelines.records import PLAN_SCHEMA
from nightpress.pipelines.storage import Store

PARTS_AT_ONCE = 2
"""How many parts of the plan are in memory at a time."""

MAX_SHOWN = 5
"""How many ids of images are shown to a person."""

MAX_FIRST = 20
"""How many of them are kept."""

MAX_EXAMPLES = 3
"""How many changed images are described."""

DETAILS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("what", pa.string(), nullable=False),
        pa.field("made_as", pa.string()),
    ]
)
"""What an edition keeps of single images: `went`, `changed`, `came` or `kept`; and `made_as`, the
id of the image that stands for `image_id` from now on, if that is another."""


@dataclass(frozen=True)
class SomeImages:
    """How many images there are of a kind, and the ids of the first of them."""

    number: int
    first: tuple[str, ...] = ()

    def __str__(self) -> str:
        """`r1_00, r2_00, r3_00, r4_00, r5_00, ...`."""
        shown = ", ".join(self.first[:MAX_SHOWN])
        return f"{shown}, ..." if self.number > MAX_SHOWN else shown


@dataclass(frozen=True)
class GrowthSummary:
    """How a manifest has grown, for people and for the record."""

    came: SomeImages
    went: SomeImages
    changed: SomeImages
    kept: SomeImages
    """Images whose prompt would be drawn differently now, and that keep what was drawn."""
    num_same: int
    examples: tuple[str, ...] = ()
    """What has changed in the first of the changed images."""

    @property
    def is_empty(self) -> bool:
        """Whether the images are the same as before."""
        return not (self.came.number or self.went.number or self.changed.number)

    def lines(self) -> list[str]:
        """What came, went and changed, a line each."""
        lines = []
        for what, images in (("came", self.came), ("went", self.went), ("changed", self.changed)):
            if images.number:
                lines.append(f"{plural(images.number, 'image')} {what}: {images}")
        lines += [f"  {example}" for example in self.examples]
        if self.kept.number:
            lines.append(f"{plural(self.kept.number, 'image')} kept what was drawn: {self.kept}")
        if self.is_empty:
            lines.append("the images are the same as before")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        some = {
            name: SomeImages(values[name]["number"], tuple(values[name]["first"]))
            for name in ("came", "went", "changed", "kept")
        }
        return cls(**some, num_same=values["num_same"], examples=tuple(values["examples"]))


@dataclass(frozen=True)
class AddedRows:
    """The rows of a manifest that an edition makes images of; (n,) each."""

    numbers: Ints
    """Counted over the whole manifest, ascending."""
    first_variants: Ints
    num_images: Ints


def _none() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Growth:
    """A manifest beside the run that was planned from an earlier state of it."""

    files: tuple[ManifestFile, ...]
    """The manifest's files now."""
    planner: Planner = field(repr=False)
    units: tuple[WorkUnit, ...] = field(repr=False)
    old: ImageHashes = field(repr=False)
    """The images of the run."""
    new: ImageHashes = field(repr=False)
    """The images of the manifest."""
    names: Hashes = field(repr=False)
    """Hashes of the file names of the run's images, if those of others could be equal."""
    came: Ints = field(default_factory=_none, repr=False)
    """Indices into `new`: images that the run does not have."""
    changed: Ints = field(default_factory=_none, repr=False)
    """Indices into `new`: images that the run has, but planned differently."""
    kept: Ints = field(default_factory=_none, repr=False)
    """Indices into `new`: images that keep what was drawn for them; see `DRAW_KEY`."""
    went: Ints = field(default_factory=_none, repr=False)
    """Indices into `old`: images that the manifest does not plan any more."""
    num_same: int = 0
    examples: tuple[str, ...] = ()
    """What has changed in the first of the changed images."""

    @property
    def may_share_names(self) -> bool:
        """Whether different images could have equal file names."""
        return _may_share_names(self.planner)

    @property
    def summary(self) -> GrowthSummary:
        """The counts, and the ids of the first images of each kind."""

        def some(images: ImageHashes, indices: Ints) -> SomeImages:
            first = images.image_ids(indices[:MAX_FIRST]).to_pylist()
            return SomeImages(len(indices), tuple(first))

        came, changed, kept = (
            some(self.new, each) for each in (self.came, self.changed, self.kept)
        )
        went = some(self.old, self.went)
        return GrowthSummary(came, went, changed, kept, self.num_same, self.examples)

    def added(self, new_variants: bool) -> AddedRows:
        """The rows to make images of: those that came, and those that changed if they are made
        again under new variants."""
        return self._assigned(new_variants)[0]

    def details(self, new_variants: bool) -> pa.Table:
        """What an edition keeps of single images: DETAILS."""
        _, slots, variants = self._assigned(new_variants)
        other = self.new.variants[slots] != variants
        made_as = named(self.new.ids.take(pa.array(slots[other])), variants[other])
        moved = dict(zip(slots[other].tolist(), made_as.to_pylist(), strict=True))
        taken = np.array([slot for slot in self.came.tolist() if slot in moved], np.int64)
        groups = [
            ("went", self.old.image_ids(self.went), [None] * len(self.went)),
            *(
                (what, self.new.image_ids(indices), [moved.get(i) for i in indices.tolist()])
                for what, indices in (
                    ("changed", self.changed),
                    ("came", taken),
                    ("kept", self.kept),
                )
            ),
        ]
        tables = [
            pa.table([ids, [what] * len(ids), pa.array(as_, pa.string())], schema=DETAILS)
            for what, ids, as_ in groups
        ]
        return pa.concat_tables(tables).combine_chunks()

    def _assigned(self, new_variants: bool) -> tuple[AddedRows, Ints, Ints]:
        """The rows to add; the images to make, as indices into `new`, and their variants.

        A row's images keep their own variants if these are free and follow each other. Else they
        get the next ones that no image of the row has had.
        """
        slots = np.union1d(self.came, self.changed) if new_variants else self.came
        if not len(slots):
            return AddedRows(_none(), _none(), _none()), slots, _none()
        rows, starts, counts = np.unique(
            self.new.rows[slots], return_index=True, return_counts=True
        )
        variants = self.new.variants[slots]
        first, last = variants[starts], variants[starts + counts - 1]
        taken = np.isin(self.new.images[slots], self.old.images)
        is_own = (last - first + 1 == counts) & ~np.bitwise_or.reduceat(taken, starts)
        first = np.where(is_own, first, self._next_variants(self.new.id_hashes[slots[starts]]))
        numbers = np.arange(len(slots)) - np.repeat(starts, counts)
        return AddedRows(rows, first, counts), slots, np.repeat(first, counts) + numbers

    def _next_variants(self, id_hashes: Hashes) -> Ints:
        """The first variant above all that rows have had and have now; (n,)."""
        every = np.concatenate([self.old.id_hashes, self.new.id_hashes])
        variants = np.concatenate([self.old.variants, self.new.variants])
        order = np.argsort(every, kind="stable")
        ids, starts = np.unique(every[order], return_index=True)
        highest = np.maximum.reduceat(variants[order], starts)
        return highest[np.searchsorted(ids, id_hashes)] + 1


def compare_growth(
    spec: RunSpec,
    info: ModelInfo,
    layout: PlanLayout,
    store: Store,
    made_as: Sequence[tuple[str, str]] = (),
    mapper: Mapper = map,
) -> Growth:
    """Compare a job's manifest with the plan of its run.

    Args:
        spec: the job, with the manifest as it is now.
        info: the model.
        layout: the run's plan, that of all editions.
        store: the run directory.
        made_as: an image that a manifest plans, and the image of the run that stands for it, where
            that is another one; the last such pair of an image counts.
        mapper: like `map`; its arguments are picklable.

    Raises:
        SpecError, ManifestError: the manifest cannot be used beside the run.
        StoreError: the manifest or the plan cannot be read.
    """
    files = scan_all(spec, mapper)
    columns = resolve_columns(spec, files)
    planner = Planner(spec, info, columns)
    types = _types(spec, layout, files, columns)
    units = split_into_units(planner, files)
    if not units:
        raise ManifestError([Problem(files[0].url, None, None, "the manifest has no rows")])
    found = list(mapper(hash_unit, [(unit, types) for unit in units]))
    new = ImageHashes.joined(found) if all(found) else None
    if new is None or len(np.unique(new.images)) < len(new):
        check(spec, info, mapper=mapper)  # says what is wrong, and where
        raise AssertionError("a manifest with problems passed its check")
    read = _PlanReader(spec, info, layout, store)
    old, names = read.hashes(types, _may_share_names(planner))
    growth = Growth(tuple(files), planner, tuple(units), old, new, names)
    return _compared(growth, made_as, read)


def _may_share_names(planner: Planner) -> bool:
    return planner.columns.has_ids or not planner.template.tells_images_apart


def hash_unit(call: tuple[WorkUnit, Types]) -> ImageHashes | None:
    """The images of a unit; None if its rows have problems. Top-level, to be picklable."""
    unit, types = call
    parts = []
    for batch in read_batches(unit, unit.planner.columns):
        if batch.problems.total:
            return None
        images = expand_rows(unit.planner, batch.rows, batch.carried, np.arange(len(batch.rows)))
        parts.append(hashes_of_images(images, types))
    return ImageHashes.joined(parts)


def _types(
    spec: RunSpec, layout: PlanLayout, files: Sequence[ManifestFile], columns: Columns
) -> Types:
    """The type in which each carried column is compared."""
    types = carried_types(spec, layout)
    for column in columns.carried:
        before = types.get(column.name, pa.null())
        common = common_type([before, column.type])
        if common is None:
            where = next(file.url for file in files if column.source in file.schema.names)
            message = (
                f"its type is {column.type} now and was {before} when the run was started, and no "
                "type holds the values of both exactly; give it the old type"
            )
            raise ManifestError([Problem(where, None, column.source, message)])
        types[column.name] = common
    return types


def carried_types(spec: RunSpec, layout: PlanLayout) -> dict[str, pa.DataType]:
    """The name of each carried column of a run -> its type, in the order of the editions."""
    types: dict[str, pa.DataType] = {}
    for section in layout.sections:
        for column in resolve_columns(spec, section.files).carried:
            if pa.types.is_null(types.get(column.name, pa.null())):
                types[column.name] = column.type
    return types


class _PlanReader:
    """Reads the parts of a plan; computes those that are missing or damaged."""

    def __init__(self, spec: RunSpec, info: ModelInfo, layout: PlanLayout, store: Store) -> None:
        self._spec, self._info, self._layout, self._store = spec, info, layout, store
        self._starts = list(accumulate((p.num_images for p in layout.parts), initial=0))

    def hashes(self, types: Types, with_names: bool) -> tuple[ImageHashes, Hashes]:
        """The hashes of all images, and those of their file names if they are wanted."""

        def of_part(index: int) -> tuple[ImageHashes, Hashes]:
            part = self._part(index)
            files = one_chunk(part.column("file")) if with_names else pa.array([], pa.string())
            images = hashes_of_part(part, self._starts[index], self._spec.seed, types)
            return images, hash64(folded(files), 0)

        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            found = list(pool.map(of_part, range(len(self._layout.parts))))
        images, names = zip(*found, strict=True)
        return ImageHashes.joined(list(images)), np.concatenate(names)

    def image(self, position: int) -> dict[str, object]:
        """One planned image, by its position in the plan."""
        index = int(np.searchsorted(self._starts, position, "right")) - 1
        row = position - self._starts[index]
        return dict(self._part(index).slice(row, 1).to_pylist()[0])

    def _part(self, index: int) -> pa.Table:
        part = self._layout.parts[index]
        try:
            return self._stored(part)
        except (StoreMissing, PlanDamaged) as error:
            try:
                return plan_part(self._spec, self._info, self._layout, index)
            except ManifestError as changed:
                raise type(error)(
                    f"{self._store.url}/{part.path}: this part of the plan is missing or damaged, "
                    "and the manifest that it was made from has changed, so the run cannot be "
                    "compared with the manifest as it is now; bring the old manifest back once, "
                    "and run nightpress run and nightpress verify --repair"
                ) from changed

    def _stored(self, part: PlanPart) -> pa.Table:
        data = self._store.read(part.path)
        try:
            return plain(pq.read_table(pa.BufferReader(data), page_checksum_verification=True))
        except (pa.ArrowException, OSError) as error:
            raise PlanDamaged(f"{self._store.url}/{part.path}: damaged", None) from error


def _compared(growth: Growth, made_as: Sequence[tuple[str, str]], read: _PlanReader) -> Growth:
    old, new, planner = growth.old, growth.new, growth.planner
    order = np.argsort(old.images)
    wanted, stand_ins, retired = _stand_ins(new, made_as, planner.spec.seed)
    places = np.minimum(np.searchsorted(old.images[order], wanted), len(old) - 1)
    positions = order[places]
    found = old.images[positions] == wanted
    found &= ~np.isin(wanted, stand_ins) | (wanted != new.images)
    same = found & (old.values[positions] == new.values)
    drawn = (old.drawn[positions] == new.drawn) & (new.drawn != 0)
    kept = found & ~same & drawn
    changed = np.flatnonzero(found & ~same & ~kept)
    still: Mask = np.zeros(len(old), np.bool_)
    still[positions[found]] = True
    still |= np.isin(old.images, retired)
    examples = [
        _difference(read.image(int(positions[i])), _planned(growth, i))
        for i in changed[:MAX_EXAMPLES].tolist()
    ]
    return replace(
        growth,
        came=np.flatnonzero(~found),
        changed=changed,
        kept=np.flatnonzero(kept),
        went=np.flatnonzero(~still),
        num_same=int(same.sum()),
        examples=tuple(examples),
    )


def _stand_ins(
    new: ImageHashes, made_as: Sequence[tuple[str, str]], run_seed: int
) -> tuple[Hashes, Hashes, Hashes]:
    """The image of the run that stands for each planned one; all that ever stood for another; and
    the images for which another stands now."""
    current = dict(made_as)
    every = hashes_of_names(pa.array([to for _, to in made_as], pa.string()), run_seed)
    planned = hashes_of_names(pa.array(list(current), pa.string()), run_seed)
    stand_ins = hashes_of_names(pa.array(list(current.values()), pa.string()), run_seed)
    retired = np.setdiff1d(np.concatenate([planned, every]), stand_ins)
    wanted = new.images.copy()
    if len(planned):
        order = np.argsort(planned)
        places = np.minimum(np.searchsorted(planned[order], wanted), len(planned) - 1)
        moved = planned[order][places] == wanted
        wanted[moved] = stand_ins[order][places[moved]]
    return wanted, every, retired


def _planned(growth: Growth, index: int) -> dict[str, object]:
    """One image as the manifest plans it now."""
    planner = growth.planner
    number, variant = int(growth.new.rows[index]), int(growth.new.variants[index])
    unit = next(unit for unit in reversed(growth.units) if unit.first_row <= number)
    for batch in read_batches(unit, planner.columns):
        row = number - int(batch.rows.numbers[0])
        if row < len(batch.rows):
            images = expand_rows(planner, batch.rows, batch.carried, np.array([row]))
            return dict(images_table(images).slice(variant, 1).to_pylist()[0])
    raise ManifestError([Problem(unit.row_ranges[0].file.url, number, None, "it is gone")])


def _difference(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """`r3_00: prompt 'a cat' -> 'a dog'`."""
    carried = [n for n in dict.fromkeys([*old, *new]) if n not in _KNOWN]
    texts = [
        f"{name} {_short(old.get(name))} -> {_short(new.get(name))}"
        for name in (*COMPARED, *carried)
        if name != "inputs" and old.get(name) != new.get(name)
    ]
    if not texts and old["seed"] != new["seed"]:
        texts = [f"seed {old['seed']} -> {new['seed']}"]
    return f"{new['image_id']}: {', '.join(texts) or 'its pictures'}"


_KNOWN = frozenset(PLAN_SCHEMA.names)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
