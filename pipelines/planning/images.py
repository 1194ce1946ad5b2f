"""Expand checked rows into images: their ids, seeds, file names and sampling order.

Everything runs on Arrow and numpy columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.diffusion_core.conditioning.spec import Conditioning
from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.hashing import Hashes, derive_seeds, hash64
from nightpress.pipelines.image_files.naming import Field, Template, safe_text, spread
from nightpress.pipelines.manifest.numbers import Floats, Ints
from nightpress.pipelines.manifest.rows import Rows
from nightpress.pipelines.planning.order import OrderKey, by_importance, importance_ranks
from nightpress.pipelines.planning.passes import PassPlanner
from nightpress.pipelines.planning.planner import PER_IMAGE_COLUMNS, Planner
from nightpress.pipelines.records import CLIP_TYPE, PLAN_SCHEMA

VARIANT_DIGITS = 2


@dataclass(frozen=True)
class Images:
    """The m images of n rows; columns are computed on demand."""

    rows: Rows
    carried: dict[str, pa.Array]
    template: Template
    loras: tuple[str, ...]
    """The job's LoRAs that rows can name."""
    run_seed: int
    passes: PassPlanner
    row_indices: Ints
    """(m,) each image's row."""
    variants: Ints
    """(m,) each image's number within its row."""

    def __len__(self) -> int:
        return len(self.row_indices)

    def per_image(self, values: pa.Array) -> pa.Array:
        """Repeat row values for every image; (m,)."""
        return values if self._one_image_per_row else pc.take(values, pa.array(self.row_indices))

    def per_image_encoded(self, values: pa.Array) -> pa.Array:
        """Like `per_image`, but each distinct text is stored once."""
        if len(self) == len(self.rows) or not pa.types.is_string(values.type):
            return self.per_image(values)
        return pc.take(values.dictionary_encode(), pa.array(self.row_indices))

    @cached_property
    def id_hashes(self) -> Hashes:
        """hash64 of the rows' ids with the run's seed; (n,)."""
        return hash64(self.rows.ids, self.run_seed)

    @cached_property
    def seeds(self) -> Ints:
        """Each image's seed: the row's plus the variant, or derived from the id; (m,)."""
        explicit = self.rows.seeds[self.row_indices] + self.variants
        if self.rows.has_seed.all():
            return explicit
        derived = derive_seeds(self.id_hashes[self.row_indices], self.variants)
        return np.where(self.rows.has_seed[self.row_indices], explicit, derived)

    @cached_property
    def image_ids(self) -> pa.Array:
        """`<id>_<variant>`; (m,) string."""
        if not self.variants.any():
            return pc.binary_join_element_wise(
                self.per_image(self.rows.ids), "0" * VARIANT_DIGITS, "_"
            )
        texts = pc.cast(pa.array(self.variants), pa.string())
        padded = pc.utf8_lpad(texts, VARIANT_DIGITS, "0")
        return pc.binary_join_element_wise(self.per_image(self.rows.ids), padded, "_")

    @cached_property
    def files(self) -> pa.Array:
        """File names relative to the run directory; (m,) string."""
        parts = self.template.parts
        texts = [part if isinstance(part, str) else self._text(part) for part in parts]
        return self.template.join(texts, len(self))

    def _text(self, field: Field) -> pa.Array:
        if field.name in PER_IMAGE_COLUMNS:
            return safe_text(field, self.column(field.name))
        return self.per_image(safe_text(field, self._row_column(field.name)))

    def column(self, name: str) -> pa.Array:
        """Any column of the plan except `shard`; (m,)."""
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
            case "conditioning" | "inputs" if not self.rows.any_conditioned:
                return pa.nulls(len(self), PLAN_SCHEMA.field(name).type)
            case "parent" if self.rows.parents.null_count == len(self.rows):
                return pa.nulls(len(self), pa.string())
            case "clip":
                return self._clips()
            case "passes" if not self.passes.specs:
                return pa.nulls(len(self), pa.string())
            case _:
                return self.per_image_encoded(self._row_column(name))

    def _row_column(self, name: str) -> pa.Array:
        match name:
            case "id":
                return self.rows.ids
            case "prompt":
                return self.rows.prompts
            case "negative_prompt":
                return self.rows.negative_prompts
            case "conditioning":
                return self.rows.conditioning
            case "inputs":
                return self.rows.inputs
            case "parent":
                return self.rows.parents
            case "scheduler":
                codes = pa.array(self.rows.scheduler)
                return pc.take(pa.array(SAMPLER_NAMES), codes)
            case "guidance_scale":
                return pa.array(self.rows.guidance_scale)
            case "lora":
                return pc.take(pa.array([None, *self.loras], pa.string()), pa.array(self.rows.lora))
            case "lora_scale":
                return pa.array(self.rows.lora_scale, mask=self.rows.lora == 0)
            case "width" | "height":
                sizes = dict(zip(("width", "height"), self.final_sizes, strict=True))
                return pa.array(sizes[name].astype(np.int32))
            case "num_inference_steps":
                return pa.array(self.rows.num_inference_steps.astype(np.int32))
            case "passes":
                return self.passes.texts(self.rows)
            case "spread" if name not in self.carried:
                return spread(self.rows.numbers)
            case _:
                return self.carried[name]

    def _clips(self) -> pa.Array:
        """The clip of each image; the seed that a walk ends at counts up with the variants."""
        if not self.rows.any_clips:
            return pa.nulls(len(self), CLIP_TYPE)
        clips = self.per_image(self.rows.clips)
        arrays = [clips.field(name) for name in CLIP_TYPE.names]
        place = CLIP_TYPE.names.index("to_seed")
        arrays[place] = pc.add(arrays[place], pa.array(self.variants))
        return pa.StructArray.from_arrays(arrays, fields=list(CLIP_TYPE))

    @cached_property
    def final_sizes(self) -> tuple[Ints, Ints]:
        """Width and height of the finished images of each row; (n,) each."""
        return self.passes.final_sizes(self.rows)

    @cached_property
    def _one_image_per_row(self) -> bool:
        return len(self) == len(self.rows) and bool((np.diff(self.row_indices) == 1).all())


def expand_rows(
    planner: Planner, rows: Rows, carried: dict[str, pa.Array], order: Ints | None = None
) -> Images:
    """Every image of the rows: rows in the given order or their own, variants counting up."""
    order = np.arange(len(rows)) if order is None else order
    counts = rows.num_images[order]
    starts = np.cumsum(counts) - counts
    numbers = np.arange(counts.sum()) - np.repeat(starts, counts)
    variants = numbers + np.repeat(rows.first_variants[order], counts)
    return _images(planner, rows, carried, np.repeat(order, counts), variants)


def sort_for_sampling(
    planner: Planner,
    rows: Rows,
    carried: dict[str, pa.Array],
    batch_size: int,
    order: Sequence[OrderKey] = (),
) -> Images:
    """Every image of the rows: the full batches of each setting, then the leftovers of each.

    Shards consist of whole batches too, so each setting is padded only once, wherever shards are
    cut. Leftovers come in reverse order of settings: they start with those just sampled and end
    with those that the next part starts with.

    Args:
        rows: all of the same model.
        order: what makes some images come sooner; settings then come in the order of their most
            important images, instead of one that switches LoRAs as seldom as possible.
    """
    if order:
        return _sort_by_importance(expand_rows(planner, rows, carried), batch_size, order, planner)
    groups = group_by_settings(rows, lengths=planner.prompt_lengths(rows))
    images = expand_rows(planner, rows, carried, np.argsort(groups, kind="stable"))
    if not groups.any():
        return images
    if _merges_guidance(planner, rows):
        groups = group_by_settings(rows, True, planner.prompt_lengths(rows))
    sooner = full_batches_first(groups[images.row_indices], batch_size)
    return replace(images, row_indices=images.row_indices[sooner], variants=images.variants[sooner])


def _merges_guidance(planner: Planner, rows: Rows) -> bool:
    models = np.unique(rows.model).tolist()
    return all(planner.models[model].supports_per_image_guidance for model in models)


def _sort_by_importance(
    images: Images, batch_size: int, order: Sequence[OrderKey], planner: Planner
) -> Images:
    rows = images.rows
    merges = _merges_guidance(planner, rows)
    groups = group_by_settings(rows, merges, planner.prompt_lengths(rows))
    ranks = importance_ranks([images.column(key.column) for key in order], order)
    sooner = by_importance(groups[images.row_indices], ranks, batch_size)
    return replace(images, row_indices=images.row_indices[sooner], variants=images.variants[sooner])


def full_batches_first(groups: Ints, batch_size: int) -> Ints:
    """An order with the full batches of each group first and the leftovers after them.

    Args:
        groups: (m,) group numbers from 0, sorted.
        batch_size: images in a full batch.
    """
    counts = np.bincount(groups)
    number_in_group = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_leftover = number_in_group >= (counts - counts % batch_size)[groups]
    return np.argsort(np.where(is_leftover, 2 * len(counts) - groups, groups), kind="stable")


def first_image_of_each_row(planner: Planner, rows: Rows, carried: dict[str, pa.Array]) -> Images:
    """The first image of each row."""
    return _images(planner, rows, carried, np.arange(len(rows)), rows.first_variants)


def _images(
    planner: Planner, rows: Rows, carried: dict[str, pa.Array], row_indices: Ints, variants: Ints
) -> Images:
    loras, seed = planner.row_reader.loras, planner.spec.seed
    return Images(
        rows, carried, planner.template, loras, seed, planner.passes, row_indices, variants
    )


def group_by_settings(
    rows: Rows, merge_guidance_scales: bool = False, lengths: Ints | None = None
) -> Ints:
    """Number the rows' distinct settings in sampling order; returns each row's number, (n,).

    LoRAs sort first, so that they are switched as seldom as possible.

    Args:
        merge_guidance_scales: tell only guided from unguided images, whatever their scales; for
            models that support per-image guidance. The order of settings stays the same.
        lengths: (n,) what else tells rows apart, the least decisive of all; nothing if None.
    """
    groups = np.zeros(len(rows), np.int64)
    for column in (
        rows.model,
        rows.lora,
        rows.lora_scale,
        rows.width,
        rows.height,
        rows.scheduler,
        rows.num_inference_steps,
        rows.guidance_scale > 1 if merge_guidance_scales else rows.guidance_scale,
    ):
        if (column == column[:1]).all():
            continue
        codes, num_codes = _ranks(column)
        groups, _ = _ranks(groups * num_codes + codes)
    if rows.any_clips:
        for name in ("num_frames", "model_fps"):
            codes, num_codes = _ranks(pc.fill_null(rows.clips.field(name), 0))
            groups, _ = _ranks(groups * num_codes + codes)
    if rows.any_conditioned:
        codes, num_codes = _ranks(pc.fill_null(rows.conditioning, ""))
        groups, _ = _ranks(groups * num_codes + codes)
    if lengths is not None:
        codes, num_codes = _ranks(lengths)
        groups, _ = _ranks(groups * num_codes + codes)
    return groups


def _ranks(column: Ints | Floats | NDArray[np.bool_] | pa.Array) -> tuple[Ints, int]:
    """Each value's rank among the distinct values, and how many distinct values there are.

    Like `np.unique`, but by hashing, which is faster for many rows with few distinct values.
    """
    encoded = pa.array(column).dictionary_encode()
    order = np.argsort(np.array(encoded.dictionary))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks[np.array(encoded.indices)], len(order)


def settings_of(planner: Planner, rows: Rows, row: int) -> SamplingParams:
    """The settings of one row."""
    lora = int(rows.lora[row])
    width, height = int(rows.width[row]), int(rows.height[row])
    return SamplingParams(
        width=width,
        height=height,
        num_inference_steps=int(rows.num_inference_steps[row]),
        guidance_scale=float(rows.guidance_scale[row]),
        scheduler=SAMPLER_NAMES[rows.scheduler[row]],
        lora=planner.row_reader.loras[lora - 1] if lora else None,
        lora_scale=float(rows.lora_scale[row]) if lora else None,
        conditioning=Conditioning.from_text(rows.conditioning[row].as_py()),
        passes=planner.passes.passes(width, height, int(rows.model[row])),
        num_frames=rows.clips.field("num_frames")[row].as_py() if rows.any_clips else None,
        fps=rows.clips.field("model_fps")[row].as_py() if rows.any_clips else None,
    )
