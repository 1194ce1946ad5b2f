"""Check and convert the rows of a manifest: every setting present, every value within bounds.

One call takes a table as the file has it, records what is wrong, and returns columns that planning
can rely on. Everything runs on Arrow and numpy columns, without a Python loop over rows.
"""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES, solver_and_suffix
from nightpress.diffusion_core.sampling.schedulers import is_uneven, max_steps
from nightpress.pipelines.job.characters import not_text
from nightpress.pipelines.job.sections import MAX_PIXELS
from nightpress.pipelines.job.settings import PRIORITY
from nightpress.pipelines.job.spec import MAX_SEED, RunSpec
from nightpress.pipelines.job.text_bytes import CONTROL_CHARACTERS, has_control_characters
from nightpress.pipelines.manifest.clips import ClipReader
from nightpress.pipelines.manifest.codes import decoded, dictionary_indices
from nightpress.pipelines.manifest.columns import FIRST_VARIANT, PARENT, Columns, is_mixed
from nightpress.pipelines.manifest.conditions import ConditionReader, RowSizes
from nightpress.pipelines.manifest.numbers import (
    Floats,
    Ints,
    numbers,
    whole_numbers,
)
from nightpress.pipelines.manifest.row_problems import Mask, RowProblems
from nightpress.pipelines.manifest.rows import Defaults, Rows, row_number_ids
from nightpress.pipelines.manifest.sampler_names import sampler_codes, sampler_problem
from nightpress.pipelines.manifest.types import one_chunk

MAX_STEPS = 10_000
MAX_IMAGES = 100_000
MAX_ID_BYTES = 200

PERHAPS_JSON = r"^(?:[\[{]|true$|false$|-?\d+[.eE])"
"""Matches the JSON of every value that is neither text nor a whole number, and some texts."""


class RowReader:
    """Checks and converts tables of one manifest; picklable, and independent of its files."""

    def __init__(self, spec: RunSpec, info: ModelInfo, columns: Columns) -> None:
        self.columns = columns
        self.info = info
        self.defaults = Defaults.of(spec, info)
        self.images = spec.images
        self.conditions = ConditionReader(info, columns, spec.model.controlnets)
        self.clips = ClipReader.of(spec, info, columns)
        self.samplers = ("default", *(name for name in info.samplers if name != "default"))
        self.loras = tuple(lora.label for lora in spec.model.row_loras)
        self.lora_scales = np.array([0.0, *(lora.scale for lora in spec.model.row_loras)])

    def read(self, table: pa.Table, first_row: int, problems: RowProblems) -> Rows:
        """Check and convert a table; the rows are valid only if no problems are added.

        `first_row` is the number of the table's first row, counted over the whole manifest.
        """
        ids, prompts = self._ids(table, first_row, problems), self._prompts(table, problems)
        negative_prompts = self._negative_prompts(table, problems)
        num_images = self._whole("num_images", table, (1, MAX_IMAGES), problems)
        first = self._first_variants(table, problems)
        seeds, has_seed = self._seeds(table, first + num_images, problems)
        width, height = self._sides(table, problems)
        scheduler, lora = self._schedulers(table, problems), self._loras(table, problems)
        steps = self._steps(table, scheduler, problems)
        conditioning, inputs = self.conditions.read(
            table, RowSizes(width, height, steps, scheduler), problems
        )
        return Rows(
            numbers=np.arange(first_row, first_row + table.num_rows),
            ids=ids,
            prompts=prompts,
            negative_prompts=negative_prompts,
            seeds=seeds,
            has_seed=has_seed,
            num_images=num_images,
            first_variants=first,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=self._guidance(table, problems),
            scheduler=scheduler,
            lora=lora,
            lora_scale=self._lora_scales(table, lora, problems),
            conditioning=conditioning,
            inputs=inputs,
            priority=self._priorities(table, problems),
            parents=self._parents(table, problems),
            clips=self.clips.read(table, prompts, pa.array(seeds, mask=~has_seed), problems),
            model=np.zeros(table.num_rows, np.int64),
        )

    def column(self, setting: str, table: pa.Table, problems: RowProblems) -> pa.Array | None:
        """A setting's column with codes replaced by their meanings; None if there is no column."""
        column = self.columns.settings.get(setting)
        if column is None or column.column not in table.schema.names:
            return None
        values = one_chunk(table[column.column])
        return decoded(values, column, problems) if column.values else values

    def _whole(
        self,
        setting: str,
        table: pa.Table,
        bounds: tuple[int, int],
        problems: RowProblems,
        multiple: int = 1,
    ) -> Ints:
        default = getattr(self.defaults, setting)
        column = self.column(setting, table, problems)
        if column is None and default is not None:
            return np.full(table.num_rows, default, np.int64)
        if column is None:
            column = pa.nulls(table.num_rows)
        name = self.columns.manifest_name(setting)
        before = problems.total
        values, given = whole_numbers(column, name, problems)
        low, high = bounds
        bad = given & ((values < low) | (values > high) | (values % multiple != 0))
        rule = f"a multiple of {multiple} between {multiple}" if multiple > 1 else f"between {low}"
        problems.add(bad, name, lambda row: f"{values[row]} is not {rule} and {high:,}")
        if default is None and problems.total == before:
            why = f"no {setting} given, and neither the job nor the model sets a default"
            problems.add(~given, name, lambda row: why)
        return np.where(given & ~bad, values, default or 1)

    def _sides(self, table: pa.Table, problems: RowProblems) -> tuple[Ints, Ints]:
        """Width and height in pixels; no image is too large to be opened again."""
        bounds = (1, self.images.max_side)
        multiple = math.lcm(self.info.size_multiple, self.images.size_multiple)
        width = self._whole("width", table, bounds, problems, multiple)
        height = self._whole("height", table, bounds, problems, multiple)
        problems.add(
            width * height > MAX_PIXELS,
            self.columns.manifest_name("width"),
            lambda row: (
                f"{width[row]:,} x {height[row]:,} pixels are more than {MAX_PIXELS:,}, above "
                "which Pillow does not open an image without a warning"
            ),
        )
        return width, height

    def _first_variants(self, table: pa.Table, problems: RowProblems) -> Ints:
        column = self.column(FIRST_VARIANT, table, problems)
        if column is None:
            return np.zeros(table.num_rows, np.int64)
        values, _ = whole_numbers(column, self.columns.manifest_name(FIRST_VARIANT), problems)
        return values

    def _seeds(self, table: pa.Table, num_images: Ints, problems: RowProblems) -> tuple[Ints, Mask]:
        column = self.column("seed", table, problems)
        if column is None:
            return np.zeros(table.num_rows, np.int64), np.zeros(table.num_rows, np.bool_)
        name = self.columns.manifest_name("seed")
        seeds, given = whole_numbers(column, name, problems)
        outside = given & ((seeds < 0) | (seeds > MAX_SEED))
        problems.add(outside, name, lambda row: f"{seeds[row]} is not between 0 and 2^53 - 1")
        past = given & ~outside & (seeds > MAX_SEED - num_images + 1)
        problems.add(
            past,
            name,
            lambda row: (
                f"the seeds of the {num_images[row]} images of this row, from {seeds[row]} up, "
                "would exceed 2^53 - 1"
            ),
        )
        return seeds, given

    def _steps(self, table: pa.Table, scheduler: Ints, problems: RowProblems) -> Ints:
        steps = self._whole("num_inference_steps", table, (1, MAX_STEPS), problems)
        most = np.array([max_steps(name, self.info.max_steps) for name in SAMPLER_NAMES])
        problems.add(
            steps > most[scheduler],
            self.columns.manifest_name("num_inference_steps"),
            lambda row: (
                f"{steps[row]} steps are more than the {most[scheduler[row]]} that "
                f"{SAMPLER_NAMES[scheduler[row]]} allows"
            ),
        )
        problems.add(
            self._uneven(steps, scheduler),
            self.columns.manifest_name("num_inference_steps"),
            lambda row: (
                f"diffusers would make {steps[row] + 1} trailing timesteps instead of "
                f"{steps[row]}; use one step more or less"
            ),
        )
        return steps

    def _uneven(self, steps: Ints, scheduler: Ints) -> Mask:
        """Where diffusers' trailing spacing would not give the requested number of steps."""
        suffixes = [solver_and_suffix(name)[1] for name in SAMPLER_NAMES]
        trailing: Mask = (np.array(suffixes) == "-trailing")[scheduler]
        if not trailing.any():
            return trailing
        most = self.info.max_steps
        uneven = [count for count in range(1, most + 1) if is_uneven(count, most)]
        return trailing & np.isin(steps, uneven)

    def _guidance(self, table: pa.Table, problems: RowProblems) -> Floats:
        default = self.defaults.guidance_scale
        column = self.column("guidance_scale", table, problems)
        if column is None:
            return np.full(table.num_rows, default, np.float64)
        name = self.columns.manifest_name("guidance_scale")
        values, given = numbers(column, name, problems)
        bad = given & ~(np.isfinite(values) & (values >= 0))
        problems.add(bad, name, lambda row: f"{values[row]} is not a finite number of 0 or more")
        if not self.info.takes_guidance:
            problems.add(
                given & (values > 1) & ~bad,
                name,
                lambda row: f"this model takes no guidance; {values[row]:g} would have no effect",
            )
        # adding 0.0 makes -0.0 the same setting as 0.0
        return np.where(given & ~bad, values, default) + 0.0

    def _schedulers(self, table: pa.Table, problems: RowProblems) -> Ints:
        default = SAMPLER_NAMES.index(self.defaults.scheduler)
        column = self.column("scheduler", table, problems)
        if column is None or pa.types.is_null(column.type):
            return np.full(table.num_rows, default, np.int64)
        codes = sampler_codes(column, default, self.samplers)
        problems.add(
            codes < 0,
            self.columns.manifest_name("scheduler"),
            lambda row: sampler_problem(column[row].as_py().strip(), self.samplers),
        )
        return codes

    def _loras(self, table: pa.Table, problems: RowProblems) -> Ints:
        column = self.column("lora", table, problems)
        if column is None or pa.types.is_null(column.type):
            return np.zeros(table.num_rows, np.int64)
        encoded = pc.utf8_trim_whitespace(column).dictionary_encode()
        numbers_by_label = {"": 0} | {label: number for number, label in enumerate(self.loras, 1)}
        labels = encoded.dictionary.to_pylist()
        codes = np.array([numbers_by_label.get(label, -1) for label in labels] + [0])
        lora: Ints = codes[dictionary_indices(encoded)]
        problems.add(
            lora < 0,
            self.columns.manifest_name("lora"),
            lambda row: self._lora_problem(column[row].as_py().strip()),
        )
        return lora

    def _lora_problem(self, name: str) -> str:
        if not self.loras:
            return f"LoRA {name!r} cannot be used, because the job has no model.row_loras"
        return f"model.row_loras has no LoRA {name!r}; choose one of: {', '.join(self.loras)}"

    def _lora_scales(self, table: pa.Table, lora: Ints, problems: RowProblems) -> Floats:
        column = self.column("lora_scale", table, problems)
        if column is None:
            return self.lora_scales[lora]
        name = self.columns.manifest_name("lora_scale")
        values, given = numbers(column, name, problems)
        bad = given & ~np.isfinite(values)
        problems.add(bad, name, lambda row: f"{values[row]} is not a finite number")
        without_lora = given & (lora == 0)
        problems.add(
            without_lora & ~bad,
            name,
            lambda row: f"the scale is {values[row]:g}, but the row has no LoRA",
        )
        # adding 0.0 makes -0.0 the same setting as 0.0
        return np.where(given & ~bad & ~without_lora, values, self.lora_scales[lora]) + 0.0

    def _priorities(self, table: pa.Table, problems: RowProblems) -> pa.Array:
        column = self.column(PRIORITY, table, problems)
        if column is None:
            return pa.nulls(table.num_rows, pa.int64())
        values, given = whole_numbers(column, self.columns.manifest_name(PRIORITY), problems)
        return pa.array(values, mask=~given)

    def _parents(self, table: pa.Table, problems: RowProblems) -> pa.Array:
        column = self.column(PARENT, table, problems)
        return pa.nulls(table.num_rows, pa.string()) if column is None else column

    def _prompts(self, table: pa.Table, problems: RowProblems) -> pa.Array:
        column = self.column("prompt", table, problems)
        name = self.columns.manifest_name("prompt")
        if column is None or pa.types.is_null(column.type):
            column = pa.nulls(table.num_rows, pa.string())
        if self.info.clips is not None and not self.info.clips.takes_prompt:
            why = "this model reads no prompt; leave it empty"
            problems.add(~_blank(column), name, lambda row: why)
            return _constant("", table.num_rows)
        problems.add(_blank(column), name, lambda row: "the prompt is empty")
        _refuse_control_characters(column, name, problems)
        return column

    def _negative_prompts(self, table: pa.Table, problems: RowProblems) -> pa.Array:
        default = self.defaults.negative_prompt
        column = self.column("negative_prompt", table, problems)
        if column is None or pa.types.is_null(column.type):
            return _constant(default, table.num_rows)
        if not self.info.takes_negative_prompt:
            problems.add(
                ~_blank(column),
                self.columns.manifest_name("negative_prompt"),
                lambda row: "this model takes no negative prompt",
            )
        name = self.columns.manifest_name("negative_prompt")
        _refuse_control_characters(column, name, problems)
        return pc.fill_null(column, default) if column.null_count else column

    def _ids(self, table: pa.Table, first_row: int, problems: RowProblems) -> pa.Array:
        if not self.columns.has_ids:
            return row_number_ids(first_row, table.num_rows)
        column = self.column("id", table, problems)
        name = self.columns.manifest_name("id")
        if column is None or pa.types.is_null(column.type):
            column = pa.nulls(table.num_rows, pa.string())
        if _is_whole(column.type):
            column = pc.cast(column, pa.string())
        elif not pa.types.is_string(column.type):
            values, given = whole_numbers(column, name, problems)
            column = pc.if_else(pa.array(given), pc.cast(pa.array(values), pa.string()), None)
        elif is_mixed(table.schema, self.columns.settings["id"]):
            problems.add(
                _other_json(column),
                name,
                lambda row: (
                    f"{column[row].as_py()[:60]!r} is neither text nor a whole number; ids that "
                    "are text must be in quotes in every row"
                ),
            )
        problems.add(_blank(column), name, lambda row: "the id is empty")
        lengths = np.array(pc.fill_null(pc.binary_length(column), 0))
        problems.add(
            lengths > MAX_ID_BYTES,
            name,
            lambda row: f"the id has {lengths[row]} bytes, but at most {MAX_ID_BYTES} are allowed",
        )
        return column


def _is_whole(type_: pa.DataType) -> bool:
    """Whether a type holds whole numbers only, which Arrow writes as text exactly."""
    is_integer = pa.types.is_integer(type_)
    return bool(is_integer or (pa.types.is_decimal(type_) and type_.scale == 0))


def _other_json(column: pa.StringArray) -> Mask:
    """Where the text of mixed JSON values is an object, a list, a boolean or a fraction; (n,)."""
    found = np.array(pc.fill_null(pc.match_substring_regex(column, PERHAPS_JSON), False))
    for index in np.flatnonzero(found).tolist():
        try:
            found[index] = isinstance(json.loads(column[index].as_py()), dict | list | bool | float)
        except (ValueError, RecursionError):
            found[index] = False
    return found


def _refuse_control_characters(column: pa.Array, name: str, problems: RowProblems) -> None:
    """Add a problem for texts with control characters, which JSON and Parquet can hold."""
    if has_control_characters(column):
        found = pc.match_substring_regex(column, CONTROL_CHARACTERS)
        problems.add(
            np.array(pc.fill_null(found, False)),
            name,
            lambda row: f"it has {not_text(column[row].as_py())}, which is not text",
        )


def _blank(column: pa.Array) -> Mask:
    """Where a text is null, empty or white space only; (n,) bool."""
    empty = pc.or_(pc.equal(pc.binary_length(column), 0), pc.utf8_is_space(column))
    return np.array(pc.fill_null(empty, True) if empty.null_count else empty)


def _constant(text: str, num_rows: int) -> pa.Array:
    zeros = pa.array(np.zeros(num_rows, np.int32))
    return pc.take(pa.array([text], pa.string()), zeros)
