"""Comparing a manifest with the plan of its run: which images came, went and changed.

Every image that the manifest plans now is compared with what the run's plan holds, by hashes, so a
million images take seconds and one request for each part of the plan.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.pipelines.errors import (
    ManifestError,
    PipelineError,
    PlanDamaged,
    Problem,
    StoreMissing,
)
from nightpress.pipelines.hashing import Hashes, hash64
from nightpress.pipelines.image_files.portability import folded
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import Columns, resolve_columns
from nightpress.pipelines.manifest.file_records import ManifestFile
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.manifest.row_problems import Mask
from nightpress.pipelines.manifest.types import common_type, one_chunk
from nightpress.pipelines.planning.checking import check, scan_all
from nightpress.pipelines.planning.duplicates import Mapper, find_repeats
from nightpress.pipelines.planning.growth import Growth
from nightpress.pipelines.planning.growth_summary import Earlier
from nightpress.pipelines.planning.image_hashes import (
    COMPARED,
    ImageHashes,
    Types,
    among,
    hashes_of_images,
    hashes_of_names,
    hashes_of_part,
)
from nightpress.pipelines.planning.images import expand_rows
from nightpress.pipelines.planning.layout import PlanLayout, PlanPart
from nightpress.pipelines.planning.parts import images_table, plain, plan_part
from nightpress.pipelines.planning.planner import Planner
from nightpress.pipelines.planning.units import WorkUnit, read_batches, split_into_units
from nightpress.pipelines.records import PLAN_SCHEMA
from nightpress.pipelines.storage import Store

PARTS_AT_ONCE = 2
"""How many parts of the plan are in memory at a time."""

MAX_EXAMPLES = 3
"""How many changed images are described."""


class PlanIncomplete(PipelineError):
    """Parts of a run's plan are missing or damaged, and cannot be planned again any more."""


def compare_growth(
    spec: RunSpec,
    info: ModelInfos,
    layout: PlanLayout,
    store: Store,
    earlier: Earlier | None = None,
    mapper: Mapper = map,
) -> Growth:
    """Compare a job's manifest with the plan of its run.

    Args:
        spec: the job, with the manifest as it is now.
        info: the model.
        layout: the run's plan, that of all editions.
        store: the run directory.
        earlier: what the editions of the run say of single images.
        mapper: like `map`; its arguments are picklable.

    Raises:
        SpecError, ManifestError: the manifest cannot be used beside the run.
        PlanIncomplete, StoreError: the plan lacks a part, or something cannot be read.
    """
    files = scan_all(spec, mapper)
    planner = Planner(spec, info, columns := resolve_columns(spec, files))
    types = _types(spec, layout, files, columns)
    units = split_into_units(planner, files)
    if not units:
        raise ManifestError([Problem(files[0].url, None, None, "the manifest has no rows")])
    found = list(mapper(hash_unit, [(unit, types) for unit in units]))
    new = ImageHashes.joined(found) if all(found) else None
    if new is None or len(find_repeats([new.images])[0]):
        check(spec, info, mapper=mapper)  # says what is wrong, and where
        raise AssertionError("a manifest with problems passed its check")
    read = _PlanReader(spec, info, layout, store)
    old, names = read.hashes(types, columns.has_ids or not planner.template.tells_images_apart)
    growth = Growth(tuple(files), planner, tuple(units), old, new, names)
    return _compared(growth, earlier or Earlier(), read)


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

    def __init__(self, spec: RunSpec, info: ModelInfos, layout: PlanLayout, store: Store) -> None:
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
        except (StoreMissing, PlanDamaged):
            try:
                return plan_part(self._spec, self._info, self._layout, index)
            except ManifestError as changed:
                raise PlanIncomplete(
                    f"{part.path} is missing or damaged, and the manifest that it was planned from "
                    "has changed, so nobody can say what came, went and changed"
                ) from changed

    def _stored(self, part: PlanPart) -> pa.Table:
        data = self._store.read(part.path)
        try:
            return plain(pq.read_table(pa.BufferReader(data), page_checksum_verification=True))
        except (pa.ArrowException, OSError) as error:
            raise PlanDamaged(f"{self._store.url}/{part.path}: damaged", None) from error


def _compared(growth: Growth, earlier: Earlier, read: _PlanReader) -> Growth:
    old, new, planner = growth.old, growth.new, growth.planner
    order = np.argsort(old.images)
    wanted, stand_ins, retired = _stand_ins(new, earlier, planner.spec.seed)
    places = np.minimum(np.searchsorted(old.images[order], wanted), len(old) - 1)
    positions = order[places]
    found = old.images[positions] == wanted
    found &= ~among(wanted, stand_ins) | (wanted != new.images)
    same = found & (old.values[positions] == new.values)
    drawn = (old.drawn[positions] == new.drawn) & (new.drawn != 0)
    kept = found & ~same & drawn
    changed = np.flatnonzero(found & ~same & ~kept)
    still: Mask = np.zeros(len(old), np.bool_)
    still[positions[found]] = True
    gone = among(old.images, hashes_of_names(_texts(earlier.gone), planner.spec.seed))
    back = np.flatnonzero(still & gone)
    still |= gone | among(old.images, retired)
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
        back=back,
        num_same=int(same.sum()),
        examples=tuple(examples),
    )


def _stand_ins(new: ImageHashes, earlier: Earlier, run_seed: int) -> tuple[Hashes, Hashes, Hashes]:
    """The image of the run that stands for each planned one; all that ever stood for another or
    were made again; and the images for which another stands now, or none ever did."""
    current, made = dict(earlier.made_as), [to for _, to in earlier.made_as]
    every, planned, stand_ins = (
        hashes_of_names(_texts(ids), run_seed)
        for ids in ([*made, *earlier.again], current, current.values())
    )
    retired = np.unique(np.concatenate([planned, every]))
    retired = retired[~among(retired, stand_ins)]
    wanted = new.images.copy()
    if len(planned):
        order = np.argsort(planned)
        places = np.minimum(np.searchsorted(planned[order], wanted), len(planned) - 1)
        moved = planned[order][places] == wanted
        wanted[moved] = stand_ins[order][places[moved]]
    return wanted, every, retired


def _texts(values: Iterable[str]) -> pa.Array:
    return pa.array(list(values), pa.string())


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
    gone = "this row is not in the file any more"
    raise ManifestError([Problem(unit.row_ranges[0].file.url, number, None, gone)])


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
