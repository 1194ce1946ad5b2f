"""Estimates of time and size, from rates that other runs in the same output folder measured.

A rate counts only for the same weights and settings. Without one for every setting there is no
estimate. What the job's scorers take counts only from runs with the same scorers; without one the
estimate is of sampling alone, and says so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, Self

import pyarrow.compute as pc
import pyarrow.dataset as ds

from nightpress.diffusion_core.conditioning.spec import TEXT
from nightpress.diffusion_core.errors import one_line
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.theory.spacing import evenly_spaced
from nightpress.pipelines.errors import (
    RunNotFound,
    SpecError,
    StoreError,
    StoreMissing,
    UnsupportedFormat,
)
from nightpress.pipelines.job.scores_section import MEASURED
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.job_models import ModelInfos, job_models
from nightpress.pipelines.planning import SettingsCount
from nightpress.pipelines.run_directory.gate_trial import try_gates
from nightpress.pipelines.run_directory.reader import open_run
from nightpress.pipelines.run_directory.record import RUN_FILE, RunRecord, require_record
from nightpress.pipelines.storage import Store, find

MAX_RUNS = 8
"""The number of runs that are read: the latest that used the same model."""

MAX_SHARDS = 64
"""The number of shards that are read from each run, evenly spaced."""


@dataclass(frozen=True)
class RateKey:
    """Settings that make one image cost what another does."""

    width: int
    """The width of the finished image, in pixels."""
    height: int
    num_inference_steps: int
    is_guided: bool
    """Whether guidance doubles the work."""
    mode: str = TEXT
    strength: float | None = None
    passes: tuple[tuple[float, float, int], ...] = ()
    """Scale, strength and steps of each."""
    num_frames: int | None = None
    """None for a still image."""
    model: str | None = None
    """The name of their model, if the job has several."""

    @classmethod
    def of(cls, settings: SamplingParams, model: str | None = None) -> Self:
        """The key of images with these settings."""
        return cls(
            *settings.final_size,
            settings.num_inference_steps,
            settings.guidance_scale > 1.0,
            settings.conditioning.mode,
            settings.conditioning.strength,
            tuple((p.scale, p.strength, p.num_inference_steps) for p in settings.passes),
            settings.num_frames,
            model,
        )


Scoring = Literal["none", "measured", "unknown"]
"""Whether times count scoring: the job has no scorers, they were measured, or they were not."""


@dataclass(frozen=True)
class Rate:
    """The cost of an image."""

    sampling_s: float
    """Seconds of one actor to sample one draw."""
    num_bytes: float
    draws: float = 1.0
    """Draws of an image; more than one only with gates."""
    scoring_s: float | None = 0.0
    """Seconds of one actor to score one draw; 0 without scorers, None if that is not known."""

    @property
    def actor_s(self) -> float:
        """Seconds of one actor for all draws of an image.

        An actor scores one image at a time while it samples the next ones, so a draw takes as long
        as the slower of the two.
        """
        return max(self.sampling_s, self.scoring_s or 0.0) * self.draws


@dataclass(frozen=True)
class Estimate:
    """The cost of a job: seconds of one actor, and bytes in the store."""

    actor_s: float
    num_bytes: float
    scoring: Scoring = "none"
    """Whether the seconds count scoring."""


def scoring_in(rates: Iterable[Rate]) -> Scoring:
    """Whether times by these rates count scoring."""
    seconds = [rate.scoring_s for rate in rates]
    if None in seconds:
        return "unknown"
    return "measured" if any(seconds) else "none"


def estimate(counts: Iterable[SettingsCount], rates: Mapping[RateKey, Rate]) -> Estimate | None:
    """Add up the cost of a job's settings; None if one of them has not been measured.

    A plan keeps the thousand most frequent settings; a job with more is estimated from those.
    """
    actor_s = num_bytes = 0.0
    used: list[Rate] = []
    for count in counts:
        rate = rates.get(RateKey.of(count.settings, count.model))
        if rate is None:
            return None
        used.append(rate)
        actor_s += rate.actor_s * count.num_images
        num_bytes += rate.num_bytes * count.num_images
    return Estimate(actor_s, num_bytes, scoring_in(used))


def measured_rates(
    spec: RunSpec,
    model_fingerprint: str,
    on_skipped: Callable[[str], None] = lambda reason: None,
) -> dict[RateKey, Rate]:
    """Rates of this model by settings, from the runs in the job's output folder.

    With gates they count as many draws of an image as `expected_draws_of` says, or else the fewest
    that are possible. With scorers, they count what these took in runs with the same ones.

    Args:
        spec: the job.
        model_fingerprint: of its model.
        on_skipped: called with the reason for each run that cannot be read.

    Raises:
        StoreDenied: the output folder cannot be listed.
    """
    runs = _latest_runs(spec, model_fingerprint, on_skipped)
    rates: dict[RateKey, Rate] = {}
    scoring_s: dict[RateKey, float | None] = {}
    for url, record in runs:
        try:
            found = _rates_of(url, spec, model_fingerprint)
        except StoreError as error:
            on_skipped(one_line(error))
            continue
        rates |= found
        if _same(spec, record.spec, "scores"):
            scoring_s |= {k: v.scoring_s for k, v in found.items() if v.scoring_s is not None}
    draws = 1.0
    if spec.gates is not None:
        told = _draws_of(runs, spec, model_fingerprint)
        draws = float(spec.gates.best_of) if told is None else told.mean
    unknown = None if spec.scores else 0.0
    return {
        key: replace(rate, draws=draws, scoring_s=scoring_s.get(key, unknown))
        for key, rate in rates.items()
    }


def rates_of_models(
    spec: RunSpec,
    infos: ModelInfos,
    on_skipped: Callable[[str], None] = lambda reason: None,
) -> dict[RateKey, Rate]:
    """The rates of all models of a job; see `measured_rates`."""
    rates: dict[RateKey, Rate] = {}
    skipped: set[str] = set()

    def once(reason: str) -> None:  # each model looks at the same runs
        if reason not in skipped:
            skipped.add(reason)
            on_skipped(reason)

    for model in job_models(spec, infos):
        found = measured_rates(model.spec, model.info.fingerprint, once)
        rates |= {replace(key, model=model.name): rate for key, rate in found.items()}
    return rates


@dataclass(frozen=True)
class DrawsOfImage:
    """How many draws an image of a gated job takes."""

    mean: float
    is_foretold: bool = False
    """Whether that is foretold from the scores of a run with other gates or none."""


def expected_draws_of(spec: RunSpec, model_fingerprint: str) -> DrawsOfImage | None:
    """How many draws an image takes with this model, these scorers and these gates.

    As the latest run with them took, or else by the stored scores of the latest run that has them.

    Returns:
        None if no run in the job's output folder tells that.

    Raises:
        StoreDenied: the output folder cannot be listed.
    """
    runs = _latest_runs(spec, model_fingerprint, lambda reason: None)
    return _draws_of(runs, spec, model_fingerprint)


def draws_by_model(spec: RunSpec, infos: ModelInfos) -> dict[str | None, DrawsOfImage | None]:
    """How many draws an image of each model of a job takes; see `expected_draws_of`."""
    return {
        model.name: expected_draws_of(model.spec, model.info.fingerprint)
        for model in job_models(spec, infos)
    }


def mean_of_models(
    num_images: Mapping[str | None, int], draws: Mapping[str | None, DrawsOfImage | None]
) -> DrawsOfImage | None:
    """How many draws an image of a job takes on average; None if that is not known of a model.

    Args:
        num_images: model -> how many images it makes.
        draws: model -> draws of an image.
    """
    total, used = 0.0, []
    for name, number in num_images.items():
        own = draws.get(name)
        if own is None and number:
            return None
        if own is not None and number:
            total += number * own.mean
            used.append(own)
    if not used:
        return next(filter(None, draws.values()), None)
    mean = total / sum(num_images.values())
    return DrawsOfImage(mean, any(each.is_foretold for each in used))


def _latest_runs(
    spec: RunSpec, model_fingerprint: str, on_skipped: Callable[[str], None]
) -> list[tuple[str, RunRecord]]:
    """The latest runs of this model in the job's output folder: URL and record, oldest first."""
    same_model: list[tuple[str, str, RunRecord]] = []
    for url in _run_urls(spec):
        try:
            record = require_record(Store(url, spec.storage))
        except (RunNotFound, UnsupportedFormat, StoreError) as error:
            on_skipped(one_line(error))
            continue
        if any(each.model.fingerprint == model_fingerprint for each in record.each_model):
            same_model.append((record.created_at, url, record))
    same_model.sort(key=lambda each: each[:2])
    return [(url, record) for _, url, record in same_model[-MAX_RUNS:]]


def _draws_of(
    runs: Sequence[tuple[str, RunRecord]], spec: RunSpec, model_fingerprint: str
) -> DrawsOfImage | None:
    """See `expected_draws_of`; runs that cannot be read are named by `measured_rates`."""
    assert spec.gates is not None  # noqa: S101 - callers have checked
    for url, record in reversed(runs):
        if _same(spec, record.spec, "gates", "scores"):
            with suppress(StoreError):
                if mean := _mean_draws(url, spec, model_fingerprint):
                    return DrawsOfImage(mean)
    measured_alone = set(spec.gates.scores) <= set(MEASURED)
    for url, record in reversed(runs):
        if measured_alone or _same(spec, record.spec, "scores"):
            with suppress(StoreError, SpecError):  # none of its images may have the scores
                trial = try_gates(open_run(url, spec.storage), spec.gates)
                return DrawsOfImage(trial.expected.draws, is_foretold=True)
    return None


def _same(one: RunSpec, other: RunSpec, *keys: str) -> bool:
    """Whether two jobs have the same in these sections."""
    mine, others = one.identity(), other.identity()
    return all(mine.get(key) == others.get(key) for key in keys)


def _mean_draws(url: str, spec: RunSpec, model_fingerprint: str) -> float | None:
    """The draws that images of this model took; None if none of those that are read is of it."""
    run = open_run(url, spec.storage)
    of_model = ds.field("model_fingerprint") == model_fingerprint
    with run.reading():
        shards = evenly_spaced(run.committed, MAX_SHARDS, endpoint=False)
        draws = run.shards(shards).to_table(columns=["draws"], filter=of_model).column("draws")
    mean: float | None = pc.mean(draws).as_py()
    return mean


def _run_urls(spec: RunSpec) -> list[str]:
    try:
        found = find([f"{spec.output.rstrip('/')}/*/{RUN_FILE}"], spec.storage)
    except StoreMissing:
        return []
    return [source.url.removesuffix(f"/{RUN_FILE}") for source in found]


def _rates_of(url: str, spec: RunSpec, model_fingerprint: str) -> dict[RateKey, Rate]:
    settings = ["width", "height", "num_inference_steps", "guidance_scale", "mode", "strength"]
    run = open_run(url, spec.storage)
    with run.reading():
        table = run.shards(evenly_spaced(run.committed, MAX_SHARDS, endpoint=False)).to_table(
            columns=[*settings, "num_frames", "sampling_s", "num_bytes", "scoring_s"],
            filter=ds.field("sampling_s").is_valid()
            & (ds.field("model_fingerprint") == model_fingerprint),
        )
    guided = pc.greater(table.column("guidance_scale"), 1.0)
    table = table.set_column(3, "guided", guided)
    modes = pc.fill_null(table.column("mode"), TEXT)  # older versions wrote none
    table = table.set_column(4, "mode", modes)
    passes = tuple((p.scale, p.strength, p.num_inference_steps) for p in run.spec.passes)
    keys = [*settings[:3], "guided", *settings[4:]]
    grouping = [*keys, "num_frames"]
    measured = ("sampling_s", "num_bytes", "scoring_s")
    grouped = table.group_by(grouping).aggregate([(name, "mean") for name in measured])
    return {
        replace(
            RateKey(*(row[key] for key in keys)), passes=passes, num_frames=row["num_frames"]
        ): Rate(row["sampling_s_mean"], row["num_bytes_mean"], scoring_s=row["scoring_s_mean"])
        for row in grouped.to_pylist()
    }
