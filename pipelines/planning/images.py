"""From checked rows to images: ids, seeds, names, and the order in which they are sampled.

All in Arrow and numpy columns. Knows nothing of files, parts or stores.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.diffusion_core.models.loading import ModelInfo
from nightpress.diffusion_core.models.pipeline_folder import MULTIPLY_BY_GUIDANCE
from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.image_files.naming import SPREAD, Field, Template, safe_text, spread
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.columns import Columns
from nightpress.pipelines.manifest.numbers import Floats, Ints
from nightpress.pipelines.manifest.rows import Reader, Rows
from nightpress.pipelines.planning.seeds import Hashes, derive_seeds, hash64
from nightpress.pipelines.records import PLAN_SCHEMA

VARIANT_DIGITS = 2

UNKNOWN_IN_NAMES = frozenset({"file", "shard"})
"""Columns of the plan that come after the names."""

VARYING = frozenset({"image_id", "variant", "seed"})
"""Columns in which the images of one row differ."""


class Planner:
    """One job's rules for its rows; small and picklable, so that any worker can apply them."""

    def __init__(self, spec: RunSpec, info: ModelInfo, columns: Columns) -> None:
        self.spec = spec
        self.columns = columns
        self.reader = Reader(spec, info, columns)
        types = {SPREAD: pa.string()} | {field.name: field.type for field in PLAN_SCHEMA}
        types |= {column.name: column.type for column in columns.carried}
        allowed = {name: type_ for name, type_ in types.items() if name not in UNKNOWN_IN_NAMES}
        self.template = Template.parse(spec.images.template, allowed)
        self.supports_per_image_guidance = info.pipeline in MULTIPLY_BY_GUIDANCE
        """Whether images whose guidance scales differ can share a batch."""

    @property
    def named_columns(self) -> Columns:
        """Only the carried columns that file names are made from."""
        used = tuple(each for each in self.columns.carried if each.name in self.template.fields)
        return Columns(self.columns.settings, used)

    @property
    def names_are_row_numbers(self) -> bool:
        """Whether file names can neither repeat nor be too long, whatever the rows say."""
        of_rows = self.template.fields - {SPREAD} == {"image_id"}
        return of_rows and not self.columns.has_ids and not self.named_columns.carried


@dataclass(frozen=True)
class Images:
    """The images of some rows; every column is made when it is asked for."""

    rows: Rows
    carried: dict[str, pa.Array]
    template: Template
    loras: tuple[str, ...]
    """Those of the job that rows may name."""
    run_seed: int
    picked: Ints
    """(m,) the row of each image."""
    variants: Ints
    """(m,) its number among those of its row."""

    def __len__(self) -> int:
        return len(self.picked)

    def expanded(self, values: pa.Array) -> pa.Array:
        """Row values for every image; (m,)."""
        return values if self._as_they_are else pc.take(values, pa.array(self.picked))

    def shared(self, values: pa.Array) -> pa.Array:
        """Like `expanded`, but each distinct text is stored once."""
        if len(self) == len(self.rows) or not pa.types.is_string(values.type):
            return self.expanded(values)
        return pc.take(values.dictionary_encode(), pa.array(self.picked))

    @cached_property
    def id_hashes(self) -> Hashes:
        """hash64 of the rows' ids, seeded with the run's seed; (n,)."""
        return hash64(self.rows.ids, self.run_seed)

    @cached_property
    def seeds(self) -> Ints:
        """(m,)."""
        given = self.rows.seeds[self.picked] + self.variants
        if self.rows.has_seed.all():
            return given
        derived = derive_seeds(self.id_hashes[self.picked], self.variants)
        return np.where(self.rows.has_seed[self.picked], given, derived)

    @cached_property
    def image_ids(self) -> pa.Array:
        """`<id>_<variant>`; (m,) string."""
        if not self.variants.any():
            return pc.binary_join_element_wise(self.expanded(self.rows.ids), "0" * 2, "_")
        texts = pc.cast(pa.array(self.variants), pa.string())
        padded = pc.utf8_lpad(texts, VARIANT_DIGITS, "0")
        return pc.binary_join_element_wise(self.expanded(self.rows.ids), padded, "_")

    @cached_property
    def files(self) -> pa.Array:
        """Names relative to the run directory; (m,) string."""
        return self.template.join(
            [part if isinstance(part, str) else self._text(part) for part in self.template.parts]
        )

    def _text(self, field: Field) -> pa.Array:
        if field.name in VARYING:
            return safe_text(field, self.column(field.name))
        return self.expanded(safe_text(field, self._of_rows(field.name)))

    def column(self, name: str) -> pa.Array:
        """A column of the plan, less `shard`; (m,)."""
        match name:
            case "image_id":
                return self.image_ids
            case "variant":
                return pa.array(self.variants.astype(np.int32))
            case "seed":
                return pa.array(self.seeds)
            case "file":
                return self.files
            case "lora" | "lora_scale" if not self.rows.lora.any():
                return pa.nulls(len(self), PLAN_SCHEMA.field(name).type)
            case _:
                return self.shared(self._of_rows(name))

    def _of_rows(self, name: str) -> pa.Array:
        match name:
            case "id":
                return self.rows.ids
            case "prompt":
                return self.rows.prompts
            case "negative_prompt":
                return self.rows.negative_prompts
            case "scheduler":
                codes = pa.array(self.rows.scheduler)
                return pc.take(pa.array(SAMPLER_NAMES), codes)
            case "guidance_scale":
                return pa.array(self.rows.guidance_scale)
            case "lora":
                return pc.take(pa.array([None, *self.loras], pa.string()), pa.array(self.rows.lora))
            case "lora_scale":
                return pa.array(self.rows.lora_scale, mask=self.rows.lora == 0)
            case "width" | "height" | "num_inference_steps":
                return pa.array(getattr(self.rows, name).astype(np.int32))
            case "spread" if name not in self.carried:
                return spread(self.rows.numbers)
            case _:
                return self.carried[name]

    @cached_property
    def _as_they_are(self) -> bool:
        return len(self) == len(self.rows) and bool((np.diff(self.picked) == 1).all())


def all_images(planner: Planner, rows: Rows, carried: dict[str, pa.Array], order: Ints) -> Images:
    """Every image of the rows, the rows in that order and their variants counting up."""
    counts = rows.num_images[order]
    starts = np.cumsum(counts) - counts
    variants = np.arange(counts.sum()) - np.repeat(starts, counts)
    return _images(planner, rows, carried, np.repeat(order, counts), variants)


def in_sampling_order(
    planner: Planner, rows: Rows, carried: dict[str, pa.Array], batch_size: int
) -> Images:
    """Every image of the rows: whole batches of each setting, then what is left of each.

    So a setting is padded once, wherever shards are cut, since they are whole batches, too. What is
    left comes in the opposite order: it begins and ends with the settings that are beside it.
    """
    groups = group_by_settings(rows)
    images = all_images(planner, rows, carried, np.argsort(groups, kind="stable"))
    if not groups.any():
        return images
    if planner.supports_per_image_guidance:
        groups = group_by_settings(rows, supports_per_image_guidance=True)
    order = whole_batches_first(groups[images.picked], batch_size)
    return replace(images, picked=images.picked[order], variants=images.variants[order])


def whole_batches_first(groups: Ints, batch_size: int) -> Ints:
    """An order in which whole batches of each group come first, and behind them what is left.

    Args:
        groups: (m,) in order, from 0.
    """
    counts = np.bincount(groups)
    number = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_left = number >= (counts - counts % batch_size)[groups]
    return np.argsort(np.where(is_left, 2 * len(counts) - groups, groups), kind="stable")


def first_images(planner: Planner, rows: Rows, carried: dict[str, pa.Array]) -> Images:
    """One image of each row, variant 0."""
    zeros = np.zeros(len(rows), np.int64)
    return _images(planner, rows, carried, np.arange(len(rows)), zeros)


def _images(
    planner: Planner, rows: Rows, carried: dict[str, pa.Array], picked: Ints, variants: Ints
) -> Images:
    loras, seed = planner.reader.loras, planner.spec.seed
    return Images(rows, carried, planner.template, loras, seed, picked, variants)


def group_by_settings(rows: Rows, supports_per_image_guidance: bool = False) -> Ints:
    """Which of the rows' distinct settings each has, numbered in sampling order; (n,).

    LoRAs come first in it, so that they are switched as seldom as can be.

    Args:
        supports_per_image_guidance: count scales of guidance as one; the order is that of the settings still.
    """
    groups = np.zeros(len(rows), np.int64)
    for column in (
        rows.lora,
        rows.lora_scale,
        rows.width,
        rows.height,
        rows.scheduler,
        rows.num_inference_steps,
        rows.guidance_scale > 1 if supports_per_image_guidance else rows.guidance_scale,
    ):
        if (column == column[:1]).all():
            continue
        codes, num_codes = _ranks(column)
        groups, _ = _ranks(groups * num_codes + codes)
    return groups


def _ranks(column: Ints | Floats | NDArray[np.bool_]) -> tuple[Ints, int]:
    """Each value's place among the distinct ones in order, and how many those are.

    Like `np.unique`, by hashing: there are few distinct values and many rows.
    """
    encoded = pa.array(column).dictionary_encode()
    order = np.argsort(np.array(encoded.dictionary))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks[np.array(encoded.indices)], len(order)


def settings_of(planner: Planner, rows: Rows, row: int) -> SamplingParams:
    """The settings of one row."""
    lora = int(rows.lora[row])
    return SamplingParams(
        width=int(rows.width[row]),
        height=int(rows.height[row]),
        num_inference_steps=int(rows.num_inference_steps[row]),
        guidance_scale=float(rows.guidance_scale[row]),
        scheduler=SAMPLER_NAMES[rows.scheduler[row]],
        lora=planner.reader.loras[lora - 1] if lora else None,
        lora_scale=float(rows.lora_scale[row]) if lora else None,
    )
