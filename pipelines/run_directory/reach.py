"""What a run will reach by a deadline, and which of its images it will not.

Images are made in the plan's order of work and take as long as earlier runs measured.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.conditioning.passes import passes_from_text
from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.pipelines.job.models_section import MODEL_NAME
from nightpress.pipelines.job.settings import PRIORITY
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.job_models import ModelInfos
from nightpress.pipelines.manifest.numbers import Floats, Ints
from nightpress.pipelines.manifest.python_values import python_rows
from nightpress.pipelines.planning import PlanLayout, plan_part
from nightpress.pipelines.planning.order import OrderKey, importance_ranks
from nightpress.pipelines.planning.shard_order import read_columns
from nightpress.pipelines.run_directory.estimate import Rate, RateKey, Scoring, scoring_in
from nightpress.pipelines.storage import Store

SETTINGS = (
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "conditioning",
    "passes",
    "clip",
)
"""Columns of the plan that decide how long an image takes."""

MAX_LEVELS = 1_000
"""The most values of the order that are kept of those that are not reached."""

MERGED_ROWS = 1_000_000
"""Counts of distinct values are merged when they have so many rows."""


@dataclass(frozen=True)
class UnreachedLevel:
    """Images of equal importance of which some will not be made in time."""

    values: Mapping[str, Any]
    """Column of the plan -> the value that these images share; empty without an order."""
    num_missed: int
    """About how many of them."""
    num_images: int
    """How many of them are still to be made."""


@dataclass(frozen=True)
class Reach:
    """About how far a run will be at a deadline."""

    num_images: int
    """Images that are still to be made."""
    num_reached: int
    """About how many of them will have been made by then."""
    unreached: tuple[UnreachedLevel, ...]
    """Those of which some will not, the most important first; at most a thousand."""
    num_levels: int
    """How many there are."""
    scoring: Scoring = "none"
    """Whether the time that an image takes counts scoring."""

    @property
    def num_missed(self) -> int:
        """About how many images will not have been made."""
        return self.num_images - self.num_reached


def work_of_manifest(spec: RunSpec, info: ModelInfos, layout: PlanLayout) -> pa.Table:
    """How many images of which order and settings a job makes, from its manifest alone.

    Raises:
        ManifestError: the manifest has changed since it was checked.
        StoreError: the manifest cannot be read.
    """
    names = _columns_of_work(layout)
    parts = (plan_part(spec, info, layout, n) for n in range(len(layout.parts)))
    return _counted((part.select(names) for part in parts), names)


def work_of_plan(store: Store, layout: PlanLayout, committed: Collection[int]) -> pa.Table:
    """The same of those shards of a run that are not committed yet, from its plan.

    Raises:
        PlanDamaged: a part of the plan is not what was written.
        StoreError: a part cannot be read; StoreMissing if it is not written yet.
    """
    names = _columns_of_work(layout)
    done = pa.array(sorted(committed), pa.int32())

    def left() -> Iterable[pa.Table]:
        for part in layout.parts:
            shards = range(part.first_shard, part.first_shard + part.num_shards)
            if any(shard not in committed for shard in shards):
                table = read_columns(store, part, ["shard", *names])
                yield table.filter(pc.invert(pc.is_in(table["shard"], done))).select(names)

    return _counted(left(), names)


def reach(
    work: pa.Table, layout: PlanLayout, rates: Mapping[RateKey, Rate], actor_s: float
) -> Reach | None:
    """About how far some work gets; None if its settings have not all been measured.

    Args:
        work: see `work_of_manifest` and `work_of_plan`.
        layout: of the plan, whose order counts.
        rates: what an image takes, by its settings.
        actor_s: seconds of all actors together.
    """
    found = _rates_of_rows(work, rates)
    if found is None:
        return None
    costs = np.array([rate.actor_s for rate in found], np.float64)
    order = [OrderKey.parse(text) for text in layout.order]
    keys = [work.column(key.column).combine_chunks() for key in order]
    ranks = importance_ranks(keys, order) if order else np.zeros(len(work), np.int64)
    counts = np.array(work.column("num_images")).astype(np.int64)
    missed, totals = _missed(ranks, counts, costs, actor_s)
    levels = np.flatnonzero(missed)
    firsts = np.unique(ranks, return_index=True)[1][levels[:MAX_LEVELS]]
    values = _values(work.select([key.column for key in order]), firsts)
    unreached = tuple(
        UnreachedLevel(value, int(missed[level]), int(totals[level]))
        for value, level in zip(values, levels.tolist(), strict=False)
    )
    total = int(counts.sum())
    num_reached = total - int(missed.sum())
    return Reach(total, num_reached, unreached, len(levels), scoring_in(found))


def _columns_of_work(layout: PlanLayout) -> list[str]:
    keys = [OrderKey.parse(text).column for text in layout.order]
    models = [] if layout.models == (None,) else [MODEL_NAME]
    return list(dict.fromkeys([*keys, *SETTINGS, *models]))


def _counted(tables: Iterable[pa.Table], names: Sequence[str]) -> pa.Table:
    """The distinct rows of some tables, and in `num_images` how often each is there."""
    waiting: list[pa.Table] = []
    for part in tables:
        table = _with_frames_alone(part)
        ones = pa.array(np.ones(len(table), np.int64))
        waiting.append(_merged([table.append_column("num_images", ones)], names))
        if sum(map(len, waiting)) > MERGED_ROWS:
            waiting = [_merged(waiting, names)]
    return _merged(waiting, names)


def _with_frames_alone(part: pa.Table) -> pa.Table:
    """Rows of a plan with the number of frames in place of `clip`; Arrow groups by no structs."""
    place = part.schema.get_field_index("clip")
    column = part.column(place)
    if pa.types.is_struct(column.type):
        part = part.set_column(place, "clip", pc.struct_field(column, "num_frames"))
    return part


def _merged(tables: Sequence[pa.Table], names: Sequence[str]) -> pa.Table:
    if not tables:
        return pa.table({name: pa.nulls(0) for name in [*names, "num_images"]})
    table = pa.concat_tables(tables, promote_options="default")
    nulls = [name for name in names if pa.types.is_null(table.schema.field(name).type)]
    keys = [name for name in names if name not in nulls]  # Arrow groups by no others
    summed = table.group_by(keys, use_threads=False).aggregate([("num_images", "sum")])
    summed = summed.rename_columns([*keys, "num_images"])
    for name in nulls:
        summed = summed.append_column(name, pa.nulls(len(summed)))
    return summed.select([*names, "num_images"])


def _rates_of_rows(work: pa.Table, rates: Mapping[RateKey, Rate]) -> list[Rate] | None:
    """What an image of each row takes; None if a row has no rate."""
    known: dict[tuple[Any, ...], Rate] = {}
    found = []
    names = [*SETTINGS, *(name for name in (MODEL_NAME,) if name in work.column_names)]
    for values in zip(*(work.column(name).to_pylist() for name in names), strict=True):
        if values not in known:
            rate = rates.get(_rate_key(*values))
            if rate is None:
                return None
            known[values] = rate
        found.append(known[values])
    return found


def _rate_key(
    width: int,
    height: int,
    num_inference_steps: int,
    guidance_scale: float,
    conditioning: str | None,
    passes: str | None,
    num_frames: int | None,
    model: str | None = None,
) -> RateKey:
    condition = Conditioning.from_text(conditioning)
    made = passes_from_text(passes)
    return RateKey(
        width,
        height,
        num_inference_steps,
        guidance_scale > 1.0,
        condition.mode,
        condition.strength,
        tuple((each.scale, each.strength, each.num_inference_steps) for each in made),
        num_frames,
        model,
    )


def _missed(ranks: Ints, counts: Ints, costs: Floats, actor_s: float) -> tuple[Ints, Ints]:
    """For each rank, the images that there is no time for, and all of its images."""
    num_levels = int(ranks.max(initial=-1)) + 1
    totals = np.bincount(ranks, weights=counts, minlength=num_levels).astype(np.int64)
    seconds = np.bincount(ranks, weights=counts * costs, minlength=num_levels)
    before = np.cumsum(seconds) - seconds
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(seconds > 0, (actor_s - before) / seconds, actor_s > before)
    reached = np.floor(totals * np.clip(share, 0.0, 1.0) + 1e-9).astype(np.int64)
    return totals - reached, totals


def _values(keys: pa.Table, rows: Ints) -> list[dict[str, Any]]:
    """The values of some rows, with the 0 that a missing priority stands for."""
    if not keys.num_columns:
        return [{}] * len(rows)
    values = python_rows(keys.take(pa.array(rows)))
    for each in values:
        if PRIORITY in each and each[PRIORITY] is None:
            each[PRIORITY] = 0
    return values
