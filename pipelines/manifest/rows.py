"""Rows of a manifest, checked and typed: every setting present, every value within bounds.

One function takes a table as a file has it, notes what is wrong, and gives columns that planning
can rely on. All in Arrow and numpy; no loop over rows. Knows nothing of files or of names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.models.loading import ModelInfo
from nightpress.diffusion_core.models.samplers import SAMPLER_NAMES
from nightpress.diffusion_core.sampling.schedulers import is_uneven, max_steps, solver_and_suffix
from nightpress.pipelines.job.sections import ColumnMap
from nightpress.pipelines.job.spec import MAX_SEED, RunSpec
from nightpress.pipelines.manifest.columns import Columns
from nightpress.pipelines.manifest.findings import Findings, Mask
from nightpress.pipelines.manifest.numbers import Floats, Ints, numbers, whole_numbers
from nightpress.pipelines.manifest.types import one_chunk

MAX_PIXELS = 16_384
MAX_STEPS = 10_000
MAX_IMAGES = 100_000
MAX_ID_BYTES = 200
ROW_NUMBER_DIGITS = 8


@dataclass(frozen=True)
class Defaults:
    """What a row gets where it says nothing: the job's word, else the model's."""

    width: int | None
    height: int | None
    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    negative_prompt: str
    num_images: int

    @classmethod
    def of(cls, spec: RunSpec, info: ModelInfo) -> "Defaults":
        """Merge the two."""
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
    """n consecutive rows, one value each in every column."""

    numbers: Ints
    """Their places among all rows of the manifest."""
    ids: pa.Array
    prompts: pa.Array
    negative_prompts: pa.Array
    seeds: Ints
    has_seed: Mask
    """Where it is False the seed is derived from the id."""
    num_images: Ints
    width: Ints
    height: Ints
    num_inference_steps: Ints
    guidance_scale: Floats
    scheduler: Ints
    """Places in SAMPLER_NAMES."""
    lora: Ints
    """Places among the job's `model.row_loras`, counted from 1; 0 for none."""
    lora_scale: Floats
    """In force, so the LoRA's own where the row has none; 0 without a LoRA."""

    def __len__(self) -> int:
        return len(self.ids)

    def between(self, start: int, stop: int) -> "Rows":
        """Rows `start` to `stop`, without a copy."""
        return Rows(*(getattr(self, each.name)[start:stop] for each in fields(self)))


def join_rows(parts: Sequence[Rows]) -> Rows:
    """One after the other."""
    if len(parts) == 1:
        return parts[0]
    columns = ([getattr(part, each.name) for part in parts] for each in fields(Rows))
    return Rows(
        *(
            pa.concat_arrays(each) if isinstance(each[0], pa.Array) else np.concatenate(each)
            for each in columns
        )
    )


class Reader:
    """Checks and types tables of one manifest; picklable, with nothing of the files in it."""

    def __init__(self, spec: RunSpec, info: ModelInfo, columns: Columns) -> None:
        self.columns = columns
        self.info = info
        self.defaults = Defaults.of(spec, info)
        self.samplers = ("default", *(name for name in info.samplers if name != "default"))
        self.loras = tuple(lora.label for lora in spec.model.row_loras)
        self.lora_scales = np.array([0.0, *(lora.scale for lora in spec.model.row_loras)])

    def rows(self, table: pa.Table, first_row: int, findings: Findings) -> Rows:
        """Type a table, noting its problems; where there are any, the rows mean nothing.

        Args:
            table: columns as the file has them.
            first_row: its place among all rows of the manifest.
        """
        ids = self._ids(table, first_row, findings)
        prompts = self._prompts(table, findings)
        negative_prompts = self._negative_prompts(table, findings)
        num_images = self._whole("num_images", table, (1, MAX_IMAGES), findings)
        seeds, has_seed = self._seeds(table, num_images, findings)
        multiple = self.info.size_multiple
        scheduler = self._schedulers(table, findings)
        lora = self._loras(table, findings)
        return Rows(
            numbers=np.arange(first_row, first_row + table.num_rows),
            ids=ids,
            prompts=prompts,
            negative_prompts=negative_prompts,
            seeds=seeds,
            has_seed=has_seed,
            num_images=num_images,
            width=self._whole("width", table, (1, MAX_PIXELS), findings, multiple),
            height=self._whole("height", table, (1, MAX_PIXELS), findings, multiple),
            num_inference_steps=self._steps(table, scheduler, findings),
            guidance_scale=self._guidance(table, findings),
            scheduler=scheduler,
            lora=lora,
            lora_scale=self._lora_scales(table, lora, findings),
        )

    def _column(self, setting: str, table: pa.Table, findings: Findings) -> pa.Array | None:
        """A setting's column with codes replaced by what they mean; None if there is none."""
        column = self.columns.settings.get(setting)
        if column is None or column.column not in table.schema.names:
            return None
        values = one_chunk(table[column.column])
        return _decoded(values, column, findings) if column.values else values

    def _whole(
        self,
        setting: str,
        table: pa.Table,
        bounds: tuple[int, int],
        findings: Findings,
        multiple: int = 1,
    ) -> Ints:
        default = getattr(self.defaults, setting)
        column = self._column(setting, table, findings)
        if column is None and default is not None:
            return np.full(table.num_rows, default, np.int64)
        if column is None:
            column = pa.nulls(table.num_rows)
        name = self.columns.shown(setting)
        before = findings.total
        values, given = whole_numbers(column, name, findings)
        low, high = bounds
        bad = given & ((values < low) | (values > high) | (values % multiple != 0))
        rule = f"a multiple of {multiple} from {multiple}" if multiple > 1 else f"from {low}"
        findings.mark(bad, name, lambda row: f"{values[row]} is not {rule} to {high:,}")
        if default is None and findings.total == before:
            why = "none given, and neither the job nor the model has a size of its own"
            findings.mark(~given, name, lambda row: why)
        return np.where(given & ~bad, values, default or 1)

    def _seeds(self, table: pa.Table, num_images: Ints, findings: Findings) -> tuple[Ints, Mask]:
        column = self._column("seed", table, findings)
        if column is None:
            return np.zeros(table.num_rows, np.int64), np.zeros(table.num_rows, np.bool_)
        name = self.columns.shown("seed")
        seeds, given = whole_numbers(column, name, findings)
        outside = given & ((seeds < 0) | (seeds > MAX_SEED))
        findings.mark(outside, name, lambda row: f"{seeds[row]} is not from 0 to 2^53 - 1")
        past = given & ~outside & (seeds > MAX_SEED - num_images + 1)
        findings.mark(
            past, name, lambda row: f"{seeds[row]} plus {num_images[row]} images passes 2^53 - 1"
        )
        return seeds, given

    def _steps(self, table: pa.Table, scheduler: Ints, findings: Findings) -> Ints:
        steps = self._whole("num_inference_steps", table, (1, MAX_STEPS), findings)
        most = np.array([max_steps(name, self.info.max_steps) for name in SAMPLER_NAMES])
        findings.mark(
            steps > most[scheduler],
            self.columns.shown("num_inference_steps"),
            lambda row: (
                f"{steps[row]} steps, and {SAMPLER_NAMES[scheduler[row]]} takes "
                f"at most {most[scheduler[row]]}"
            ),
        )
        findings.mark(
            self._uneven(steps, scheduler),
            self.columns.shown("num_inference_steps"),
            lambda row: (
                f"{steps[row]} trailing timesteps come out as one more in diffusers; take one more "
                "or one less"
            ),
        )
        return steps

    def _uneven(self, steps: Ints, scheduler: Ints) -> Mask:
        """Where a sampler cannot divide the process into so many steps."""
        suffixes = [solver_and_suffix(name)[1] for name in SAMPLER_NAMES]
        trailing: Mask = (np.array(suffixes) == "-trailing")[scheduler]
        if not trailing.any():
            return trailing
        most = self.info.max_steps
        uneven = [count for count in range(1, most + 1) if is_uneven(count, most)]
        return trailing & np.isin(steps, uneven)

    def _guidance(self, table: pa.Table, findings: Findings) -> Floats:
        default = self.defaults.guidance_scale
        column = self._column("guidance_scale", table, findings)
        if column is None:
            return np.full(table.num_rows, default, np.float64)
        name = self.columns.shown("guidance_scale")
        values, given = numbers(column, name, findings)
        bad = given & ~(np.isfinite(values) & (values >= 0))
        findings.mark(bad, name, lambda row: f"{values[row]} is not a finite number from 0")
        # adding 0.0 makes -0.0 the same setting as 0.0
        return np.where(given & ~bad, values, default) + 0.0

    def _schedulers(self, table: pa.Table, findings: Findings) -> Ints:
        default = SAMPLER_NAMES.index(self.defaults.scheduler)
        column = self._column("scheduler", table, findings)
        if column is None or pa.types.is_null(column.type):
            return np.full(table.num_rows, default, np.int64)
        encoded = pc.utf8_trim_whitespace(column).dictionary_encode()
        names = encoded.dictionary.to_pylist()
        places = [
            default if name == "" else SAMPLER_NAMES.index(name) if name in self.samplers else -1
            for name in names
        ]
        codes = np.array([*places, default])[_indices(encoded)]
        findings.mark(
            codes < 0,
            self.columns.shown("scheduler"),
            lambda row: self._sampler_problem(column[row].as_py().strip()),
        )
        return codes

    def _sampler_problem(self, name: str) -> str:
        allowed = ", ".join(self.samplers)
        if name in SAMPLER_NAMES:
            return f"sampler {name!r} does not fit this model; one of: {allowed}"
        return f"there is no sampler {name!r}; one of: {allowed}"

    def _loras(self, table: pa.Table, findings: Findings) -> Ints:
        column = self._column("lora", table, findings)
        if column is None or pa.types.is_null(column.type):
            return np.zeros(table.num_rows, np.int64)
        encoded = pc.utf8_trim_whitespace(column).dictionary_encode()
        places = {"": 0} | {label: place for place, label in enumerate(self.loras, 1)}
        codes = np.array([places.get(name, -1) for name in encoded.dictionary.to_pylist()] + [0])
        found = codes[_indices(encoded)]
        findings.mark(
            found < 0,
            self.columns.shown("lora"),
            lambda row: self._lora_problem(column[row].as_py().strip()),
        )
        return found

    def _lora_problem(self, name: str) -> str:
        if not self.loras:
            return f"LoRA {name!r}, and the job has no model.row_loras"
        return f"there is no LoRA {name!r} in model.row_loras; one of: {', '.join(self.loras)}"

    def _lora_scales(self, table: pa.Table, lora: Ints, findings: Findings) -> Floats:
        column = self._column("lora_scale", table, findings)
        if column is None:
            return self.lora_scales[lora]
        name = self.columns.shown("lora_scale")
        values, given = numbers(column, name, findings)
        bad = given & ~np.isfinite(values)
        findings.mark(bad, name, lambda row: f"{values[row]} is not a finite number")
        alone = given & (lora == 0)
        findings.mark(
            alone & ~bad, name, lambda row: f"{values[row]:g} is a scale, and the row has no LoRA"
        )
        # adding 0.0 makes -0.0 the same setting as 0.0
        return np.where(given & ~bad & ~alone, values, self.lora_scales[lora]) + 0.0

    def _prompts(self, table: pa.Table, findings: Findings) -> pa.Array:
        column = self._column("prompt", table, findings)
        name = self.columns.shown("prompt")
        if column is None or pa.types.is_null(column.type):
            column = pa.nulls(table.num_rows, pa.string())
        findings.mark(_blank(column), name, lambda row: "empty prompt")
        return column

    def _negative_prompts(self, table: pa.Table, findings: Findings) -> pa.Array:
        default = self.defaults.negative_prompt
        column = self._column("negative_prompt", table, findings)
        if column is None or pa.types.is_null(column.type):
            return _constant(default, table.num_rows)
        if not self.info.takes_negative_prompt:
            findings.mark(
                ~_blank(column),
                self.columns.shown("negative_prompt"),
                lambda row: "this model takes no negative prompt",
            )
        return pc.fill_null(column, default) if column.null_count else column

    def _ids(self, table: pa.Table, first_row: int, findings: Findings) -> pa.Array:
        if not self.columns.has_ids:
            return row_number_ids(first_row, table.num_rows)
        column = self._column("id", table, findings)
        name = self.columns.shown("id")
        if column is None or pa.types.is_null(column.type):
            column = pa.nulls(table.num_rows, pa.string())
        if not pa.types.is_string(column.type):
            values, given = whole_numbers(column, name, findings)
            column = pc.if_else(pa.array(given), pc.cast(pa.array(values), pa.string()), None)
        findings.mark(_blank(column), name, lambda row: "empty id")
        lengths = np.array(pc.fill_null(pc.binary_length(column), 0))
        findings.mark(
            lengths > MAX_ID_BYTES,
            name,
            lambda row: f"{lengths[row]} bytes; an id has at most {MAX_ID_BYTES}",
        )
        return column


def row_number_ids(first_row: int, num_rows: int) -> pa.Array:
    """Row numbers as text of at least eight digits; (n,) string."""
    numbers_ = np.arange(first_row, first_row + num_rows)
    digits = max(ROW_NUMBER_DIGITS, len(str(first_row + num_rows)))
    if digits > ROW_NUMBER_DIGITS:
        texts = pc.cast(pa.array(numbers_), pa.string())
        return pc.utf8_lpad(texts, ROW_NUMBER_DIGITS, "0")
    powers = 10 ** np.arange(digits - 1, -1, -1)
    characters = (numbers_[:, None] // powers % 10 + ord("0")).astype(np.uint8)
    offsets = np.arange(0, (num_rows + 1) * digits, digits, dtype=np.int32)
    return pa.StringArray.from_buffers(num_rows, pa.py_buffer(offsets), pa.py_buffer(characters))


def _decoded(values: pa.Array, column: ColumnMap, findings: Findings) -> pa.Array:
    """Codes as the text of what they mean; null stays null."""
    encoded = _as_codes(values).dictionary_encode()
    codes = encoded.dictionary.to_pylist()
    known = np.array([code in column.values or not code for code in codes] + [True])
    findings.mark(
        ~known[_indices(encoded)],
        column.column,
        lambda row: (
            f"{encoded[row].as_py()!r} has no meaning; the codes in the job file are: "
            f"{', '.join(column.values)}"
        ),
    )
    meanings = [str(column.values[code]) if code in column.values else None for code in codes]
    return pc.take(pa.array(meanings, pa.string()), encoded.indices)


def _as_codes(values: pa.Array) -> pa.Array:
    if pa.types.is_string(values.type):
        return pc.utf8_trim_whitespace(values)
    if pa.types.is_floating(values.type):
        whole = pc.all(pc.equal(values, pc.floor(values))).as_py()
        values = pc.cast(values, pa.int64()) if whole else values
    return pc.cast(values, pa.string())


def _indices(encoded: pa.DictionaryArray) -> Ints:
    """Places in the dictionary, -1 for null: the last of a list that has one more."""
    return np.array(pc.fill_null(encoded.indices, -1))


def _blank(column: pa.Array) -> Mask:
    """Null, empty, or nothing but white space; (n,) bool."""
    empty = pc.or_(pc.equal(pc.binary_length(column), 0), pc.utf8_is_space(column))
    return np.array(pc.fill_null(empty, True) if empty.null_count else empty)


def _constant(text: str, num_rows: int) -> pa.Array:
    zeros = pa.array(np.zeros(num_rows, np.int32))
    return pc.take(pa.array([text], pa.string()), zeros)
