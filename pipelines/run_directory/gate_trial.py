"""What gates would do with the images of a run, by the scores that are stored; nothing is made.

Every draw that has been made counts: the images of the run and, if it had gates itself, the draws
that lost.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.job.gates_section import GatesSpec
from nightpress.pipelines.records import METADATA_SCHEMA
from nightpress.pipelines.run_directory.draws import draws_dataset
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.stored_scores import no_such_score, score_names
from nightpress.pipelines.run_directory.where import score_field
from nightpress.pipelines.scoring.acceptance import (
    Counts,
    ExpectedDraws,
    Share,
    correlation_within,
    expected_best,
    expected_draws,
    plausible_draws,
    quantiles,
)

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]

SETTINGS = ("id", "width", "height", "num_inference_steps", "guidance_scale", "scheduler", "mode")
"""The settings by whose values acceptance is looked at, beside the carried columns."""

FEWEST = 10
"""Fewer draws of a value say too little of it."""

MOST_LOW_VALUES = 20


@dataclass(frozen=True)
class ConditionTrial:
    """What one condition does."""

    condition: str
    passed: Share
    num_missing: int
    """Draws without the score, which do not meet it."""
    num_only: int
    """Draws that meet all conditions but this one."""


@dataclass(frozen=True)
class LowValue:
    """A value of a column of which clearly fewer draws pass than of all."""

    column: str
    value: str
    passed: Share


@dataclass(frozen=True)
class RankTrial:
    """How good the images that are taken would be."""

    rank_by: str
    mean: float
    """The mean of the score, of draws that pass."""
    best: float
    """The expected best of `best_of` of them."""


@dataclass(frozen=True)
class ScoreRange:
    """How a score is spread over the draws that have it."""

    score: str
    num_draws: int
    quantiles: Sequence[float]
    """Least, 5%, 25%, median, 75%, 95%, greatest; see `acceptance.QUANTILES`."""


@dataclass(frozen=True)
class GateTrial:
    """What gates would do with the draws of a run."""

    num_images: int
    """Images of the run that are there."""
    num_lost: int
    """Draws that lost to the run's own gates."""
    passed: Share
    """Draws that pass, of all."""
    conditions: tuple[ConditionTrial, ...]
    expected: ExpectedDraws
    plausible: tuple[float, float]
    """The expected draws of an image that are plausible, given how few rows there are."""
    correlation: float | None
    """How alike the draws of one row are, 0 to 1; None if each has one, so that it is not known."""
    rank: RankTrial | None
    """None without `rank_by`, and if nothing passes."""
    low: tuple[LowValue, ...]
    """The lowest first; no more than `MOST_LOW_VALUES`."""


def try_gates(run: Run, gates: GatesSpec) -> GateTrial:
    """Judge the draws of a run by gates.

    How many draws are to be expected follows from how many pass, and from how alike those of one
    row are: the rows of which few pass take most of them.

    Raises:
        SpecError: no draw has a score that they need, or none is there.
        Damaged, StoreError: the metadata or the draws cannot be read.
    """
    draws = _Draws(run, gates.scores)
    _require_scores(run, draws, gates.scores)
    holds = [each.holds_each(draws.score(each.score)) for each in gates.conditions]
    passes = np.logical_and.reduce([np.ones(len(draws), bool), *holds, ~draws.is_faulty])
    share = Share(int(passes.sum()), len(draws))
    groups = _groups(run, draws.image_ids)
    _, totals, passed = _counts(groups["id"], passes)
    by_row = passed[totals > 0], totals[totals > 0]
    correlation = correlation_within(*by_row)
    return GateTrial(
        num_images=draws.num_images,
        num_lost=len(draws) - draws.num_images,
        passed=share,
        conditions=tuple(_conditions(gates, draws, holds)),
        expected=expected_draws(share.value, gates.best_of, gates.max_draws, correlation or 0.0),
        plausible=plausible_draws(*by_row, gates.best_of, gates.max_draws),
        correlation=correlation,
        rank=_rank(gates, draws, passes),
        low=tuple(_low_values(groups, passes, share)),
    )


def score_ranges(run: Run) -> tuple[ScoreRange, ...]:
    """How each score is spread over the draws of a run.

    Raises:
        Damaged, StoreError: the metadata or the draws cannot be read.
    """
    names = score_names(run)
    draws = _Draws(run, names)
    values = ((name, draws.score(name)) for name in names)
    known = ((name, some[~np.isnan(some)]) for name, some in values)
    return tuple(ScoreRange(name, len(some), quantiles(some)) for name, some in known)


def _require_scores(run: Run, draws: "_Draws", names: Sequence[str]) -> None:
    if not len(draws):
        raise SpecError(f"{run.url}: no image is committed yet, so there is nothing to judge")
    for name in names:
        if np.isnan(draws.score(name)).all():
            raise SpecError(no_such_score(name, score_names(run), run.url))


class _Draws:
    """The draws of a run with some of their scores: first its images, then those that lost."""

    def __init__(self, run: Run, scores: Sequence[str]) -> None:
        columns = {"image_id": ds.field("image_id")}
        columns |= {f"scores.{name}": score_field(name) for name in scores}
        with run.reading():
            made = run.metadata.to_table(columns=columns, filter=ds.field("status") == "ok")
        with run.reading():
            lost = draws_dataset(run.store).to_table(
                columns={**columns, "draw": ds.field("draw"), "fault": ds.field("fault")}
            )
        lost = _without_repeated(lost)
        self.num_images = len(made)
        self._made, self._lost = made, lost

    def __len__(self) -> int:
        return len(self._made) + len(self._lost)

    @property
    def image_ids(self) -> pa.ChunkedArray:
        """(n,) whose draws they are."""
        return _both(self._made.column("image_id"), self._lost.column("image_id"))

    @property
    def is_faulty(self) -> Mask:
        """(n,) whether there was no image to score."""
        lost = pc.is_valid(self._lost.column("fault")).to_numpy().astype(bool)
        return np.concatenate([np.zeros(len(self._made), bool), lost])

    def score(self, name: str) -> Values:
        """(n,) NaN for draws without it."""
        column = f"scores.{name}"
        values = _both(self._made.column(column), self._lost.column(column))
        found: Values = values.to_numpy().astype(np.float64)
        return found


def _both(made: pa.ChunkedArray, lost: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([*made.chunks, *lost.chunks], made.type)


def _without_repeated(lost: pa.Table) -> pa.Table:
    """Draws that two objects have, because an attempt was cut short, once."""
    rows = lost.append_column("row", pa.array(np.arange(len(lost))))
    firsts = rows.group_by(["image_id", "draw"]).aggregate([("row", "min")]).column("row_min")
    return lost.take(firsts.combine_chunks().sort())


def _conditions(gates: GatesSpec, draws: _Draws, holds: Sequence[Mask]) -> Iterator[ConditionTrial]:
    num_failed = np.sum([~each for each in holds], axis=0)
    for condition, held in zip(gates.conditions, holds, strict=True):
        yield ConditionTrial(
            condition=str(condition),
            passed=Share(int(held.sum()), len(draws)),
            num_missing=int((np.isnan(draws.score(condition.score)) & ~draws.is_faulty).sum()),
            num_only=int((~held & (num_failed == 1)).sum()),
        )


def _rank(gates: GatesSpec, draws: _Draws, passes: Mask) -> RankTrial | None:
    if gates.rank_by is None or gates.ranking is None:
        return None
    name, lowest = gates.ranking
    values = draws.score(name)[passes]
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    best = expected_best(values, gates.best_of, lowest)
    return RankTrial(gates.rank_by, float(values.mean()), best)


def _low_values(
    groups: Mapping[str, pa.ChunkedArray], passes: Mask, share: Share
) -> list[LowValue]:
    """Values of columns whose plausible acceptance lies wholly below that of all draws."""
    found = []
    for column, values in groups.items():
        names, totals, passed = _counts(values, passes)
        for code in np.flatnonzero(totals >= FEWEST).tolist():
            some = Share(int(passed[code]), int(totals[code]))
            if some.interval[1] < share.value:
                found.append(LowValue(column, str(names[code].as_py()), some))
    found.sort(key=lambda each: (each.passed.value, -each.passed.of, each.column, each.value))
    return found[:MOST_LOW_VALUES]


def _counts(values: pa.ChunkedArray, passes: Mask) -> tuple[pa.Array, Counts, Counts]:
    """The different values, how many draws each has, and how many of them pass; without null."""
    encoded = values.dictionary_encode().unify_dictionaries()
    codes = np.concatenate([np.zeros(0, np.int64), *map(_codes, encoded.chunks)])
    known = codes >= 0
    names = encoded.chunks[0].dictionary if encoded.num_chunks else pa.array([])
    totals = np.bincount(codes[known], minlength=len(names))
    return names, totals, np.bincount(codes[known & passes], minlength=len(names))


def _codes(values: pa.DictionaryArray) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = pc.fill_null(values.indices, -1).to_numpy().astype(np.int64)
    return codes


def _groups(run: Run, image_ids: pa.ChunkedArray) -> Mapping[str, pa.ChunkedArray]:
    """The values of the columns that may tell draws apart, for each draw; (n,) each."""
    schema = run.metadata.schema
    carried = [each.name for each in schema if each.name not in METADATA_SCHEMA.names]
    names = [
        name
        for name in (*SETTINGS, *carried)
        if not (
            pa.types.is_nested(schema.field(name).type) or pa.types.is_null(schema.field(name).type)
        )
    ]
    with run.reading():
        table = run.metadata.to_table(columns=["image_id", *names])
    places = pc.index_in(image_ids, table.column("image_id"))
    return {name: table.column(name).take(places) for name in names}
