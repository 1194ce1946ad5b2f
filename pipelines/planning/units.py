"""Units of work: consecutive manifest rows that one worker checks and later plans.

Rows are streamed, so memory does not grow with a unit's size, and what is sent to and from a worker
is small.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.conditioning.spec import TEXT, Conditioning
from nightpress.diffusion_core.models.family_rules import guidance_off_at
from nightpress.diffusion_core.models.info import ModelInfo
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.theory.spacing import evenly_spaced
from nightpress.pipelines.errors import MAX_PROBLEMS, Problem
from nightpress.pipelines.hashing import Hashes, hash64
from nightpress.pipelines.image_files.naming import overlong
from nightpress.pipelines.image_files.portability import folded, reserved
from nightpress.pipelines.inputs.decoding import limits_of
from nightpress.pipelines.job.models_section import MODEL_NAME
from nightpress.pipelines.job.settings import PRIORITY
from nightpress.pipelines.manifest.columns import PARENT, Columns
from nightpress.pipelines.manifest.file_records import ManifestFile, RowLocator, RowRange
from nightpress.pipelines.manifest.files import read_checked_rows, read_rows
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.prompt_counts import PromptCounts
from nightpress.pipelines.manifest.row_problems import Mask, ProblemsOfSome, RowProblems
from nightpress.pipelines.manifest.rows import Rows, take_each
from nightpress.pipelines.planning.images import (
    Images,
    expand_rows,
    first_image_of_each_row,
    group_by_settings,
    settings_of,
)
from nightpress.pipelines.planning.named_inputs import joined, named_inputs
from nightpress.pipelines.planning.named_pictures import NamedInputs
from nightpress.pipelines.planning.passes import check_rows
from nightpress.pipelines.planning.planner import ModelPlanner, Planner

MAX_PART_IMAGES = 131_072
MAX_PART_BYTES = 64 << 20
"""The most images, and uncompressed bytes of rows, in one part of the plan."""

MAX_SETTINGS = 1_000
"""How many of its most frequent settings a unit reports; there may be as many as rows."""


SAMPLE_FILES = 3
"""How many file names a plan shows."""


@dataclass(frozen=True)
class WorkUnit:
    """Consecutive rows of a manifest, and the planner for them."""

    planner: Planner
    first_row: int
    """Counted over the whole manifest."""
    row_ranges: tuple[RowRange, ...]


@dataclass(frozen=True)
class RowBatch:
    """A few typed rows of one file."""

    file: str
    first_row: int
    """Within the file."""
    problems: RowProblems
    rows: Rows
    carried: dict[str, pa.Array]
    row_bytes: float
    """The average size of a row in this file."""


def _no_hashes() -> Hashes:
    return np.zeros(0, np.uint64)


ModelSettings = tuple[int, SamplingParams]
"""The number of a model in the job, and settings of its images."""


@dataclass
class UnitReport:
    """What checking a unit found."""

    parts: list[list[tuple[int, int]]] = field(default_factory=list)
    """For each model, the number of rows and of its images in each part that the unit will be split
    into; rows of other models count as rows."""
    settings: "Counter[ModelSettings]" = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    num_problems: int = 0
    prompts: PromptCounts = field(default_factory=PromptCounts)
    ids: Hashes = field(default_factory=_no_hashes)
    """One hash per row, if the manifest has ids."""
    sample_files: list[str] = field(default_factory=list)
    """File names from the first and the last rows."""
    shared_name: Problem | None = None
    """The first row whose images would all have the same name."""
    names: Hashes = field(default_factory=_no_hashes)
    """One hash for each of `images_to_compare`, if two file names could be equal."""
    modes: "Counter[str]" = field(default_factory=Counter)
    """How many images each mode makes."""
    inputs: NamedInputs = field(default_factory=NamedInputs)
    """The pictures of the rows, if they are to be checked."""

    def in_own_memory(self) -> Self:
        """The report with copies of arrays that lie in Ray's object store.

        Those of a hundred million rows would fill the store: an object is freed only when nobody
        reads it any more.
        """
        ids, names = (np.require(each, requirements="O") for each in (self.ids, self.names))
        return replace(self, ids=ids, names=names)


def split_into_units(planner: Planner, files: Sequence[ManifestFile]) -> list[WorkUnit]:
    """Group whole blocks into units of at most one part's size; a larger block is its own unit."""
    spans: list[tuple[int, int]] = []
    start = num_rows = num_bytes = 0
    for block in [block for file in files for block in file.blocks]:
        full = num_rows + block.num_rows > MAX_PART_IMAGES
        if num_rows and (full or num_bytes + block.num_bytes > MAX_PART_BYTES):
            spans.append((start, num_rows))
            start, num_rows, num_bytes = start + num_rows, 0, 0
        num_rows += block.num_rows
        num_bytes += block.num_bytes
    spans += [(start, num_rows)] if num_rows else []
    locator = RowLocator(files)
    return [WorkUnit(planner, first, locator.row_ranges(first, count)) for first, count in spans]


def check_unit(unit: WorkUnit) -> UnitReport:
    """Check every row of a unit; a top-level function, so that it can be pickled."""
    report = UnitReport()
    images, weights, ids, names = [], [], [_no_hashes()], [_no_hashes()]
    models: list[Ints] = []
    inputs: list[NamedInputs] = []
    for batch in read_batches(unit, unit.planner.columns, read_checked_rows):
        report.prompts += _check_prompts(unit.planner, batch)
        if not batch.problems.total:
            images.append(batch.rows.num_images)
            models.append(batch.rows.model)
            weights.append(_weights(batch))
            _count_settings(report.settings, unit.planner, batch.rows)
            report.modes += images_by_mode(batch.rows)
            inputs += _inputs(unit.planner, batch)
            ids += _hash_ids(unit.planner, batch)
            names += _hash_names(unit.planner, batch)
            report.sample_files[SAMPLE_FILES:] = _sample_files(unit.planner, batch)
            report.shared_name = report.shared_name or _shared_name(unit.planner, batch)
        report.num_problems += batch.problems.total
        report.problems += batch.problems.first[: MAX_PROBLEMS - len(report.problems)]
    if not report.num_problems:
        of_rows = (np.concatenate(images), np.concatenate(weights), np.concatenate(models))
        report.parts = [_parts_of(n, *of_rows) for n in range(len(unit.planner.models))]
    report.settings = Counter(dict(report.settings.most_common(MAX_SETTINGS)))
    report.inputs = joined(inputs)
    report.ids, report.names = np.concatenate(ids), np.concatenate(names)
    return report


def _parts_of(model: int, images: Ints, weights: Ints, models: Ints) -> list[tuple[int, int]]:
    """The parts of one model's images, none if it has none; see `UnitReport.parts`."""
    is_own = models == model
    if not is_own.any():
        return []
    return split_into_parts(images * is_own, weights * is_own)


def read_batches(
    unit: WorkUnit, columns: Columns, read: Callable[..., Iterator[pa.Table]] = read_rows
) -> Iterator[RowBatch]:
    """The unit's rows in small typed batches, with the carried columns of `columns`.

    Args:
        unit: the rows.
        columns: what each column is for.
        read: `read_rows`, or `read_checked_rows` where nobody has read these rows before.
    """
    sources = columns.source_names()
    number = unit.first_row
    for part in unit.row_ranges:
        row = part.first_row
        row_bytes = sum(block.num_bytes for block in part.file.blocks) / part.file.num_rows
        for table in read(part, sources, unit.planner.spec.storage):
            problems = RowProblems(part.file.url, row)
            planner = unit.planner
            rows = planner.row_reader.read(table, number, problems)
            check_rows(planner.spec, planner.infos, columns, rows, problems)
            carried = columns.carried_values(table, problems)
            for column in columns.carried:
                if column.name == PRIORITY:
                    carried.setdefault(PRIORITY, rows.priority)
                elif column.name == MODEL_NAME and columns.names_models:
                    carried[MODEL_NAME] = planner.model_names(rows)
            yield RowBatch(part.file.url, row, problems, rows, carried, row_bytes)
            row += table.num_rows
            number += table.num_rows


def split_into_parts(images: Ints, num_bytes: Ints) -> list[tuple[int, int]]:
    """The number of rows and images in each part; a row above the limits gets its own part.

    Args:
        images, num_bytes: (n,) each row's number of images and size.
    """
    image_ends, byte_ends = np.cumsum(images), np.cumsum(num_bytes)
    parts, start, images_before, bytes_before = [], 0, 0, 0
    while start < len(images):
        stop = min(
            int(np.searchsorted(image_ends, images_before + MAX_PART_IMAGES, "right")),
            int(np.searchsorted(byte_ends, bytes_before + MAX_PART_BYTES, "right")),
        )
        stop = max(stop, start + 1)
        parts.append((stop - start, int(image_ends[stop - 1]) - images_before))
        start, images_before, bytes_before = stop, int(image_ends[stop - 1]), byte_ends[stop - 1]
    return parts


def images_to_compare(planner: Planner, batch: RowBatch) -> Iterator[Images]:
    """The images whose file names must be compared to know that all names differ.

    Where the template makes the names of a row's images distinct, or all the same, its first image
    is enough.
    """
    if planner.template.tells_images_apart or planner.names_rows_only:
        yield first_image_of_each_row(planner, batch.rows, batch.carried)
        return
    start = 0
    for num_rows, _ in split_into_parts(batch.rows.num_images, np.zeros(len(batch.rows), np.int64)):
        order = np.arange(start, start + num_rows)
        yield expand_rows(planner, batch.rows, batch.carried, order)
        start += num_rows


def images_by_mode(rows: Rows) -> "Counter[str]":
    """How many images each mode makes."""
    if not rows.any_conditioned:
        return Counter({TEXT: int(rows.num_images.sum())})
    encoded = pc.fill_null(rows.conditioning, "").dictionary_encode()
    totals = np.bincount(np.array(encoded.indices), weights=rows.num_images).tolist()
    counts: Counter[str] = Counter()
    for text, total in zip(encoded.dictionary.to_pylist(), totals, strict=True):
        counts[Conditioning.from_text(text).mode] += int(total)
    return counts


def _inputs(planner: Planner, batch: RowBatch) -> list[NamedInputs]:
    """The pictures of a batch, if they are to be checked and there are any."""
    inputs = planner.spec.inputs
    if inputs.check == "none" or not batch.rows.any_conditioned:
        return []
    limits = limits_of(inputs) if inputs.check == "decode" else None
    return [named_inputs(batch.rows, batch.file, batch.first_row, planner.columns, limits)]


def _hash_ids(planner: Planner, batch: RowBatch) -> list[Hashes]:
    columns = planner.columns
    is_unique = columns.has_ids and PARENT not in columns.settings
    return [hash64(batch.rows.ids, 0)] if is_unique else []


def _hash_names(planner: Planner, batch: RowBatch) -> list[Hashes]:
    """Hash the file names, and add a problem for each that is too long or reserved."""
    if planner.names_are_row_numbers:
        return []
    hashes = []
    for images in images_to_compare(planner, batch):
        for is_bad, why in (
            (overlong, "the file name would be too long; shorten a value, as in {prompt:.30}"),
            (reserved, "the file name would hold a name that Windows reserves, such as con or aux"),
        ):
            _add_for_rows(batch, images.row_indices[is_bad(images.files)], why)
        hashes.append(hash64(folded(images.files), 0))
    unique = planner.template.tells_images_apart and not planner.columns.has_ids
    return [] if unique else hashes


def _sample_files(planner: Planner, batch: RowBatch) -> list[str]:
    """A few of a batch's file names, evenly spaced."""
    rows = np.array(evenly_spaced(range(len(batch.rows)), SAMPLE_FILES), np.int64)
    sample = batch.rows.take(rows), take_each(batch.carried, rows)
    if len(rows) == SAMPLE_FILES:
        names: list[str] = first_image_of_each_row(planner, *sample).files.to_pylist()
        return names
    images = expand_rows(planner, *sample, np.arange(len(rows)))
    return evenly_spaced(images.files.to_pylist(), SAMPLE_FILES)


def _shared_name(planner: Planner, batch: RowBatch) -> Problem | None:
    """A problem for the first row whose images would all have the same name."""
    several = np.flatnonzero(batch.rows.num_images > 1)
    if not planner.names_rows_only or not len(several):
        return None
    row = int(several[0])
    name = expand_rows(planner, batch.rows, batch.carried, several[:1]).files[0].as_py()
    return Problem(
        batch.file,
        batch.first_row + row,
        "images.file_name",
        f"its {batch.rows.num_images[row]} images would all be named {name!r}; add {{variant}} or "
        "{image_id} to images.file_name",
    )


def _add_for_rows(batch: RowBatch, rows: Ints, why: str) -> None:
    bad = np.zeros(len(batch.rows), np.bool_)
    bad[rows] = True
    batch.problems.add(bad, "images.file_name", lambda row: why)


def _check_prompts(planner: Planner, batch: RowBatch) -> PromptCounts:
    """Add a problem for each prompt and negative prompt that the job does not allow."""
    counts = PromptCounts()
    for number, model in enumerate(planner.models):
        is_own = batch.rows.model == number
        if is_own.any():
            counts += _check_prompts_of(model, planner.columns, batch, is_own)
    return counts


def _check_prompts_of(
    model: ModelPlanner, columns: Columns, batch: RowBatch, is_own: Mask
) -> PromptCounts:
    """Check the prompts of one model's rows."""
    rows, problems = batch.rows, batch.problems
    if not is_own.all():
        indices = np.flatnonzero(is_own)
        rows, problems = rows.take(indices), ProblemsOfSome(problems, indices, len(is_own))
    texts = [(columns.manifest_name("prompt"), rows.prompts)]
    if "negative_prompt" in columns.settings or model.checks_negative_prompts:
        texts.append((columns.manifest_name("negative_prompt"), rows.negative_prompts))
    if "to_prompt" in columns.settings and rows.any_clips:
        texts.append((columns.manifest_name("to_prompt"), rows.clips.field("to_prompt")))
    counts = model.prompt_checker.check(texts, problems)
    return replace(counts, num_unguided=_num_unguided(model.info, rows))


def _num_unguided(info: ModelInfo, rows: Rows) -> int:
    """The rows whose negative prompt has no effect, since they have no guidance."""
    unguided = rows.guidance_scale <= guidance_off_at(info.pipeline)
    if not unguided.any():
        return 0
    return int((unguided & (np.array(pc.binary_length(rows.negative_prompts)) > 0)).sum())


def _weights(batch: RowBatch) -> Ints:
    """The rough size of each row in memory: its texts plus the file's average row size.

    Pictures whose bytes the manifest holds stand once for each image in the plan.
    """
    texts = [batch.rows.prompts, batch.rows.negative_prompts]
    lengths = [np.array(pc.binary_length(text)).astype(np.int64) for text in texts]
    copies = (batch.rows.num_images - 1) * _picture_bytes(batch.rows)
    return lengths[0] + lengths[1] + int(batch.row_bytes) + copies


def _picture_bytes(rows: Rows) -> Ints:
    """The bytes of pictures that each row holds; (n,)."""
    found = np.zeros(len(rows), np.int64)
    data = pc.struct_field(pc.list_flatten(rows.inputs), "data") if rows.any_conditioned else None
    if data is not None and data.null_count < len(data):
        of_rows = np.array(pc.list_parent_indices(rows.inputs)).astype(np.int64)
        np.add.at(found, of_rows, np.array(pc.fill_null(pc.binary_length(data), 0)))
    return found


def _count_settings(counter: "Counter[ModelSettings]", planner: Planner, rows: Rows) -> None:
    """Count the rows' images by settings; the rarest settings are dropped if there are many."""
    groups = group_by_settings(rows)
    counts = np.bincount(groups, weights=rows.num_images)
    for group in np.argsort(-counts, kind="stable")[:MAX_SETTINGS].tolist():
        first = int(np.argmax(groups == group))
        settings = int(rows.model[first]), settings_of(planner, rows, first)
        counter[settings] += int(counts[group])
    if len(counter) > 10 * MAX_SETTINGS:
        for settings, _ in counter.most_common()[MAX_SETTINGS:]:
            del counter[settings]
