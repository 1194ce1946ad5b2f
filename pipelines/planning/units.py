"""Units of work: consecutive rows of a manifest that one worker checks, and later writes.

A unit streams, so its memory does not grow with it. What a worker gets and gives back is small.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.pipelines.errors import Problem
from nightpress.pipelines.image_files.naming import folded, overlong
from nightpress.pipelines.manifest.columns import Columns
from nightpress.pipelines.manifest.files import ManifestFile, Slice, read
from nightpress.pipelines.manifest.findings import MAX_SHOWN, Findings
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.rows import Rows
from nightpress.pipelines.planning.images import (
    Images,
    Planner,
    all_images,
    first_images,
    group_by_settings,
    settings_of,
)
from nightpress.pipelines.planning.layout import RowPlaces
from nightpress.pipelines.planning.seeds import Hashes, hash64

MAX_PART_IMAGES = 131_072
MAX_PART_BYTES = 64 << 20
"""Of a part's rows before compression."""

MAX_SETTINGS = 1_000
"""A unit tells its most frequent settings; they may be as many as there are rows."""


@dataclass(frozen=True)
class Unit:
    """Some consecutive rows and the rules for them."""

    planner: Planner
    first_row: int
    """Among all rows of the manifest."""
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Batch:
    """A few rows of one file, typed."""

    file: str
    first_row: int
    """Within the file."""
    findings: Findings
    rows: Rows
    carried: dict[str, pa.Array]
    row_bytes: float
    """What a row of this file takes on average."""


def _no_hashes() -> Hashes:
    return np.zeros(0, np.uint64)


@dataclass
class UnitReport:
    """What checking a unit found."""

    parts: list[tuple[int, int]] = field(default_factory=list)
    """Rows and images of each part that it will be cut into."""
    settings: "Counter[SamplingParams]" = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)
    num_problems: int = 0
    ids: Hashes = field(default_factory=_no_hashes)
    """One a row, if rows name themselves."""
    names: Hashes = field(default_factory=_no_hashes)
    """One for each of `hashed_images`, if two names could be the same."""


def cut_units(planner: Planner, files: Sequence[ManifestFile]) -> list[Unit]:
    """Whole pieces, together at most a part's worth of rows unless one alone has more."""
    spans: list[tuple[int, int]] = []
    start = num_rows = num_bytes = 0
    for piece in [piece for file in files for piece in file.pieces]:
        full = num_rows + piece.num_rows > MAX_PART_IMAGES
        if num_rows and (full or num_bytes + piece.num_bytes > MAX_PART_BYTES):
            spans.append((start, num_rows))
            start, num_rows, num_bytes = start + num_rows, 0, 0
        num_rows += piece.num_rows
        num_bytes += piece.num_bytes
    spans += [(start, num_rows)] if num_rows else []
    places = RowPlaces(files)
    return [Unit(planner, first, places.slices(first, count)) for first, count in spans]


def check_unit(unit: Unit) -> UnitReport:
    """Check every row of a unit; a top-level function, so that any mapper can send it."""
    report = UnitReport()
    images, weights, ids, names = [], [], [_no_hashes()], [_no_hashes()]
    for batch in typed(unit, unit.planner.named_columns):
        if not batch.findings.total:
            images.append(batch.rows.num_images)
            weights.append(_weights(batch))
            _count_settings(report.settings, unit.planner, batch.rows)
            ids += _hash_ids(unit.planner, batch)
            names += _hash_names(unit.planner, batch)
        report.num_problems += batch.findings.total
        report.problems += batch.findings.problems[: MAX_SHOWN - len(report.problems)]
    if not report.num_problems:
        report.parts = cut_parts(np.concatenate(images), np.concatenate(weights))
    report.settings = Counter(dict(report.settings.most_common(MAX_SETTINGS)))
    report.ids, report.names = np.concatenate(ids), np.concatenate(names)
    return report


def typed(unit: Unit, columns: Columns) -> Iterator[Batch]:
    """The unit's rows, with those carried columns that `columns` has."""
    sources = columns.sources()
    number = unit.first_row
    for part in unit.slices:
        row = part.first_row
        row_bytes = sum(piece.num_bytes for piece in part.file.pieces) / part.file.num_rows
        for table in read(part, sources, unit.planner.spec.storage):
            findings = Findings(part.file.url, row)
            rows = unit.planner.reader.rows(table, number, findings)
            carried = columns.carried_values(table)
            yield Batch(part.file.url, row, findings, rows, carried, row_bytes)
            row += table.num_rows
            number += table.num_rows


def cut_parts(images: Ints, num_bytes: Ints) -> list[tuple[int, int]]:
    """Rows and images of parts within bounds; a row that is too large alone is a part alone.

    Args:
        images, num_bytes: (n,) of each row.
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


def hashed_images(planner: Planner, batch: Batch) -> Iterator[Images]:
    """The images whose names must be compared to know that all names differ.

    Where the template tells images apart by itself, the first image of a row speaks for all.
    """
    if planner.template.tells_images_apart:
        yield first_images(planner, batch.rows, batch.carried)
        return
    start = 0
    for num_rows, _ in cut_parts(batch.rows.num_images, np.zeros(len(batch.rows), np.int64)):
        order = np.arange(start, start + num_rows)
        yield all_images(planner, batch.rows, batch.carried, order)
        start += num_rows


def _hash_ids(planner: Planner, batch: Batch) -> list[Hashes]:
    return [hash64(batch.rows.ids, 0)] if planner.columns.has_ids else []


def _hash_names(planner: Planner, batch: Batch) -> list[Hashes]:
    """Hashes of the names, and a problem for each that is too long."""
    if planner.names_are_row_numbers:
        return []
    hashes = []
    for images in hashed_images(planner, batch):
        rows = np.unique(images.picked[overlong(images.files)])
        too_long = np.zeros(len(batch.rows), np.bool_)
        too_long[rows] = True
        batch.findings.mark(
            too_long,
            "images.file_name",
            lambda row: "the file name would be too long; cut a value, as in {prompt:.30}",
        )
        hashes.append(hash64(folded(images.files), 0))
    unique = planner.template.tells_images_apart and not planner.columns.has_ids
    return [] if unique else hashes


def _weights(batch: Batch) -> Ints:
    """Bytes of each row in memory, roughly: its texts, and what a row of the file takes."""
    texts = [batch.rows.prompts, batch.rows.negative_prompts]
    lengths = [np.array(pc.binary_length(text)).astype(np.int64) for text in texts]
    return lengths[0] + lengths[1] + int(batch.row_bytes)


def _count_settings(counter: "Counter[SamplingParams]", planner: Planner, rows: Rows) -> None:
    """Add the rows' images; where settings are many, the rarest are forgotten."""
    groups = group_by_settings(rows)
    counts = np.bincount(groups, weights=rows.num_images)
    for group in np.argsort(-counts, kind="stable")[:MAX_SETTINGS].tolist():
        first = int(np.argmax(groups == group))
        counter[settings_of(planner, rows, first)] += int(counts[group])
    if len(counter) > 10 * MAX_SETTINGS:
        for settings, _ in counter.most_common()[MAX_SETTINGS:]:
            del counter[settings]
