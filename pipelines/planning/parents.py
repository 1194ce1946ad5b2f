"""Finding images in a run's plan by their ids, to make others of the same rows."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.planning.layout import PlanLayout, PlanPart
from nightpress.pipelines.planning.parts import plain
from nightpress.pipelines.planning.shard_order import read_columns, read_part
from nightpress.pipelines.storage import Store

NAMES = ("image_id", "id", "variant")


@dataclass(frozen=True)
class Parents:
    """Images of one section of a plan that others are to come from."""

    section: PlanLayout
    images: pa.Table
    """Their rows of the plan, with the carried columns."""
    first_variants: Ints
    """(n,) the first variant of the images that come from each."""


@dataclass(frozen=True)
class FoundParents:
    """What was found of the images that were named."""

    parents: tuple[Parents, ...]
    unknown: tuple[str, ...]
    """Names that are neither the id of an image nor that of a row, in the order given."""

    @property
    def num_parents(self) -> int:
        """How many images were found."""
        return sum(len(each.images) for each in self.parents)


def find_parents(
    store: Store, layout: PlanLayout, names: Collection[str], num_images: int
) -> FoundParents:
    """The images of a run that are named by their own ids or by those of their rows.

    The id of a row means the first of its images. The new images of a row follow the highest
    variant that it has had.

    Args:
        store: the run directory.
        layout: its plan, that of all editions.
        names: ids of images or rows; the id of an image counts before that of a row.
        num_images: how many images are to come from each.

    Raises:
        PlanDamaged: a part of the plan is not what was written.
        StoreError: the plan cannot be read.
    """
    rows = [_named_rows(store, part, names) for part in layout.parts]
    every = pa.concat_tables(rows)
    chosen, unknown = _chosen(every, names)
    if not chosen:
        return FoundParents((), unknown)
    highest = _highest_variants(store, layout, every.take(pa.array(chosen)).column("id"))
    ids = np.array(every.column("id").to_pylist(), object)[chosen]
    first = np.zeros(len(chosen), np.int64)
    for number, row_id in enumerate(ids.tolist()):
        first[number] = highest[row_id] + 1
        highest[row_id] += num_images
    parts = np.array(every.column("part"))[chosen]
    places = np.array(every.column("place"))[chosen]
    parents = []
    for number in np.unique(parts).tolist():
        of_part = parts == number
        part = layout.parts[number]
        table = plain(read_part(store, part)).take(pa.array(places[of_part]))
        parents.append(Parents(layout.section_of(part.first_shard), table, first[of_part]))
    return FoundParents(tuple(parents), unknown)


def _named_rows(store: Store, part: PlanPart, names: Collection[str]) -> pa.Table:
    """The images of a part whose own id or whose row's id is named, and where they are."""
    number = int(part.path[len("plan/part-") : -len(".parquet")])
    table = read_columns(store, part, NAMES)
    wanted = pa.array(list(names), pa.string())
    found = pc.or_(pc.is_in(table["image_id"], wanted), pc.is_in(table["id"], wanted))
    places = np.flatnonzero(np.array(found))
    rows = table.take(pa.array(places))
    rows = rows.append_column("part", pa.array(np.full(len(places), number)))
    return rows.append_column("place", pa.array(places))


def _chosen(rows: pa.Table, names: Collection[str]) -> tuple[list[int], tuple[str, ...]]:
    """The image that each name means, each image once, in the order of the names."""
    images = {name: place for place, name in enumerate(rows.column("image_id").to_pylist())}
    firsts: dict[str, tuple[int, int]] = {}
    pairs = zip(*(rows.column(name).to_pylist() for name in ("id", "variant")), strict=True)
    for place, (row_id, variant) in enumerate(pairs):
        firsts[row_id] = min(firsts.get(row_id, (variant, place)), (variant, place))
    chosen: dict[int, None] = {}
    unknown = []
    for name in names:
        if name in images:
            chosen[images[name]] = None
        elif name in firsts:
            chosen[firsts[name][1]] = None
        else:
            unknown.append(name)
    return list(chosen), tuple(unknown)


def _highest_variants(store: Store, layout: PlanLayout, ids: pa.ChunkedArray) -> dict[str, int]:
    """The highest variant of each of some rows in the whole run."""
    highest: dict[str, int] = {}
    wanted = pc.unique(ids)
    for part in layout.parts:
        table = read_columns(store, part, ["id", "variant"])
        rows = table.filter(pc.is_in(table["id"], wanted))
        grouped = rows.group_by("id").aggregate([("variant", "max")])
        columns = (grouped.column(name).to_pylist() for name in ("id", "variant_max"))
        for row_id, variant in zip(*columns, strict=True):
            highest[row_id] = max(variant, highest.get(row_id, -1))
    return highest
