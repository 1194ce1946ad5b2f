"""Typed rows of a manifest, and the defaults for settings that they leave out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.numbers import Floats, Ints
from nightpress.pipelines.manifest.row_problems import Mask

ROW_NUMBER_DIGITS = 8
"""At least this many digits in an id made from a row number."""


@dataclass(frozen=True)
class Defaults:
    """The values of settings that a row leaves out: the job's, or else the model's."""

    width: int | None
    height: int | None
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    negative_prompt: str
    num_images: int

    @classmethod
    def of(cls, spec: RunSpec, info: ModelInfo) -> "Defaults":
        """Merge the job's defaults with the model's."""
        job = spec.sampling
        return cls(
            width=info.width if job.width is None else job.width,
            height=info.height if job.height is None else job.height,
            num_inference_steps=job.num_inference_steps or info.num_inference_steps,
            guidance_scale=(
                info.guidance_scale if job.guidance_scale is None else job.guidance_scale
            ),
            scheduler=job.scheduler or "default",
            negative_prompt=job.negative_prompt,
            num_images=job.num_images,
        )


@dataclass(frozen=True)
class Rows:
    """n consecutive rows, with one value a row in every column."""

    numbers: Ints
    """The row numbers, counted over the whole manifest."""
    ids: pa.Array
    prompts: pa.Array
    negative_prompts: pa.Array
    seeds: Ints
    has_seed: Mask
    """False where the seed is derived from the id."""
    num_images: Ints
    first_variants: Ints
    """The number of each row's first image; 0 except in the rows that an edition adds."""
    width: Ints
    height: Ints
    num_inference_steps: Ints
    guidance_scale: Floats
    scheduler: Ints
    """Indices into SAMPLER_NAMES."""
    lora: Ints
    """The number of the LoRA in the job's `model.row_loras`, from 1; 0 for none. Those of several
    models are counted one after the other."""
    lora_scale: Floats
    """The scale in effect: the LoRA's own where the row sets none; 0 without a LoRA."""
    conditioning: pa.Array
    """`Conditioning.as_text`; null for text alone."""
    inputs: pa.Array
    """The pictures of each row, as in `PLAN_SCHEMA`."""
    priority: pa.Array
    """int64, higher is sooner; null where the row leaves it out."""
    parents: pa.Array
    """The image that each row's images are other variants of; null except in rows made again."""
    clips: pa.Array
    """CLIP_TYPE; null for still images. A row's `to_seed` counts up with its variants."""
    model: Ints
    """The number of each row's model among those of the job, from 0."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def any_conditioned(self) -> bool:
        """Whether any row is more than text alone."""
        return bool(self.conditioning.null_count < len(self))

    @property
    def any_clips(self) -> bool:
        """Whether the rows make clips: all of them, or none."""
        return bool(self.clips.null_count < len(self))

    def between(self, start: int, stop: int) -> "Rows":
        """Rows `start` to `stop`, without a copy."""
        return Rows(*(getattr(self, field.name)[start:stop] for field in fields(self)))

    def take(self, indices: Ints) -> "Rows":
        """The rows at some indices."""
        columns = (getattr(self, field.name) for field in fields(self))
        return Rows(
            *(
                pc.take(column, pa.array(indices))
                if isinstance(column, pa.Array)
                else column[indices]
                for column in columns
            )
        )


def take_each(columns: Mapping[str, pa.Array], indices: Ints) -> dict[str, pa.Array]:
    """The values of some columns at some indices."""
    return {name: pc.take(column, pa.array(indices)) for name, column in columns.items()}


def concat_rows(parts: Sequence[Rows]) -> Rows:
    """Join rows in the given order."""
    if len(parts) == 1:
        return parts[0]
    columns = ([getattr(part, field.name) for part in parts] for field in fields(Rows))
    return Rows(
        *(
            pa.concat_arrays(arrays) if isinstance(arrays[0], pa.Array) else np.concatenate(arrays)
            for arrays in columns
        )
    )


def row_number_ids(first_row: int, num_rows: int) -> pa.Array:
    """Ids made from row numbers, with at least eight digits; (n,) string."""
    row_numbers = np.arange(first_row, first_row + num_rows)
    if first_row + num_rows > 10**ROW_NUMBER_DIGITS:
        texts = pc.cast(pa.array(row_numbers), pa.string())
        return pc.utf8_lpad(texts, ROW_NUMBER_DIGITS, "0")
    halves = np.stack(np.divmod(row_numbers, 10_000), axis=1)
    characters = _four_digits()[halves]
    offsets = np.arange(0, (num_rows + 1) * ROW_NUMBER_DIGITS, ROW_NUMBER_DIGITS, dtype=np.int32)
    return pa.StringArray.from_buffers(num_rows, pa.py_buffer(offsets), pa.py_buffer(characters))


@cache
def _four_digits() -> NDArray[np.bytes_]:
    """The numbers below 10,000 as text of four digits; (10000,), four bytes each."""
    return np.array([b"%04d" % number for number in range(10_000)], "S4")
