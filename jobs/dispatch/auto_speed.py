"""Decide `model.speed: auto` for a new run, with the first actor, before its record is written."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.tuning.auto_speed import (
    FEWEST_STEPS,
    LOWEST_DB,
    MAX_SHAPES,
    ActorWork,
    Attempt,
    attempt_of_known,
    attempt_of_unknown,
    choose,
    compiled_ways,
    is_long_enough,
    quick_ways,
)
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.kept_trials import KeptTrial
from nightpress.diffusion_core.tuning.search import ConfigTrial, configs_to_try
from nightpress.jobs.dispatch.trial_images import TrialImages, TrialStart
from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines.formatting import duration
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.manifest.job_models import JobModel, ModelInfos, job_models
from nightpress.pipelines.planning import PlanLayout, SettingsCount
from nightpress.pipelines.planning.batch_sizes import BatchSizes, ImageKind, num_steps
from nightpress.pipelines.planning.shapes import costliest, num_shapes, sampling_s
from nightpress.pipelines.run_directory.auto_speed import AutoSpeed, TriedWay
from nightpress.pipelines.run_directory.run_models import AnyBatchSizes, sizes_for
from nightpress.pipelines.shards.first_images import first_images

if TYPE_CHECKING:  # it imports Ray, which `plan` does not need
    from nightpress.jobs.dispatch.first_actor import FirstActor


@dataclass(frozen=True)
class TriedJob:
    """A job whose run begins."""

    spec: RunSpec
    infos: ModelInfos
    layout: PlanLayout
    sizes: AnyBatchSizes
    """The batch sizes that were decided."""
    url: str
    """URL of the run directory."""
    readable: Callable[[], AbstractContextManager[RunSpec]]
    """The job with a manifest that can be read."""


def decide_speeds(
    job: TriedJob, first: "FirstActor"
) -> Generator[Event, None, tuple[AutoSpeed, ...]]:
    """Decide for each model of a new run whose job leaves that to nightpress, and say what.

    Args:
        first: the first actor.

    Raises:
        ModelError: a model cannot be loaded.
        ClusterError: several actors in a row were lost.
    """
    decisions = []
    for model in job_models(job.spec, job.infos):
        if model.spec.model.speed == "auto" and model.name in job.layout.models:
            decision = yield from _decide(_Work(job, model), first)
            decisions.append(decision)
            yield Message(decision.text)
    return tuple(decisions)


def reason_from_plan(counts: Sequence[SettingsCount]) -> str | None:
    """Why nothing is tried, as far as a plan tells; None if it depends on what is measured."""
    stills = _stills(counts)
    steps = num_steps(stills)
    if counts and not stills:
        return "exact; faster ways are not tried on clips"
    if not is_long_enough(steps):
        return (
            f"exact; faster ways are tried from {FEWEST_STEPS:,} denoising steps, and this run has "
            f"{steps:,}"
        )
    return None


def _stills(counts: Sequence[SettingsCount]) -> list[SettingsCount]:
    return [each for each in counts if each.settings.num_frames is None]


@dataclass(frozen=True)
class _Work:
    """What is to be made with one model."""

    job: TriedJob
    model: JobModel

    @property
    def layout(self) -> PlanLayout:
        """The plan of its images."""
        return self.job.layout.of_model(self.model.name)

    @property
    def sizes(self) -> BatchSizes:
        """The batch size of each kind of its images."""
        return sizes_for(self.model.name, self.job.sizes)

    def trial(self, settings: SamplingParams, size: int) -> TrialImages:
        """The first batch of images with these settings."""
        name, info, job = self.model.name, self.model.info, self.job
        with job.readable() as spec:
            images = first_images(spec, job.infos, job.layout, settings, size, name)
        return TrialImages(images, self.model.spec, job.url, size, info.identity, name)

    def decided(
        self, reason: str, ways: SpeedSpec | None = None, tried: Sequence[TriedWay] = ()
    ) -> AutoSpeed:
        """The decision for this model; for plain sampling, unless ways are given."""
        return AutoSpeed(self.model.name, ways or SpeedSpec(), reason, tuple(tried))

    def of_an_actor(self, first: "FirstActor", most: SettingsCount, start: TrialStart) -> ActorWork:
        """What one of the actors that the cluster has room for will have to sample."""
        from nightpress.jobs.cluster.connection import room

        size = self.sizes.of(ImageKind.of(most.settings))
        factory, counts = first.factory, self.layout.batches
        actors = max(1, room(factory.cpus, factory.gpus, factory.memory_bytes))
        actors = min(actors, self.model.spec.cluster.max_actors or actors)
        actors = min(actors, -(-self.layout.num_images // size))
        total_s = sampling_s(counts, most.settings, start.batch_s / size)
        known = sum(each.num_images for each in counts)  # a plan keeps the most frequent settings
        total_s *= self.layout.num_images / known
        shapes = num_shapes(counts, self.sizes)
        return ActorWork(total_s / actors, start.batch_s, start.few_s, start.load_s, shapes)


def _decide(work: _Work, first: "FirstActor") -> Generator[Event, None, AutoSpeed]:
    """Decide for one model; see `decide_speeds`."""
    counts = work.layout.batches
    if reason := reason_from_plan(counts):
        return work.decided(reason)
    most = costliest(_stills(counts))
    size = work.sizes.of(ImageKind.of(most.settings))
    loading = work.model.info.identity, size, work.model.name
    yield from first.finish_loading(first.begin_loading(*loading), *loading)
    pending = first.handle.begin_trials.remote(work.trial(most.settings, size))
    start: TrialStart | None = yield from first.try_faster(pending, first.load_timeout_s)
    if start is None:
        return work.decided("exact; the first images could not be measured")
    trials = _Trials(work.of_an_actor(first, most, start), first, start.kept)
    yield from trials.make()
    best = yield from trials.confirm_best()
    if best is None:
        return work.decided(f"exact; {trials.why_none}", tried=trials.tried)
    reason = f"{_praise(best)}{trials.compiling_later}"
    return work.decided(reason, best.config.speed, trials.tried)


Found = dict[TuningConfig, ConfigTrial | None]


@dataclass
class _Trials:
    """Trials of faster ways, those that earlier runs have made among them."""

    work: ActorWork
    first: "FirstActor"
    kept: Mapping[TuningConfig, KeptTrial]
    found: Found = field(default_factory=dict, init=False)
    tried: list[TriedWay] = field(default_factory=list, init=False)
    """In this run and in earlier ones, in that order for each way."""
    _unconfirmed: set[TuningConfig] = field(default_factory=set, init=False)
    _left: list[Attempt] = field(default_factory=list, init=False)
    """What the run is too short for, or has too many shapes."""
    _made_any: bool = field(default=False, init=False)
    _lost: str | None = field(default=None, init=False)
    """The name of the way whose trial has cost the actor."""

    def make(self) -> Generator[Event, None, None]:
        """Recall what earlier runs have found, and try what is missing and the run is long enough
        for: ways that compile only if that pays beside the best of the others."""
        self._recall()
        yield from self._try_unknown(quick_ways())
        if not self._lost:
            yield from self._try_unknown(compiled_ways(self.found))

    def confirm_best(self) -> Generator[Event, None, ConfigTrial | None]:
        """The way that the run keeps, whose images were compared in this run; None for none."""
        while True:
            best = choose(self.work, self.found)
            if best is None or best.config not in self._unconfirmed:
                return best
            self._unconfirmed.discard(best.config)
            attempt = attempt_of_known(self.work, best)
            if attempt.pays(self.work):
                yield Message(f"model.speed auto: {_announcement(self.kept[best.config])}")
                limit_s = attempt.limit_s(self.work)
                yield from self._try(best.config, limit_s, self.kept[best.config])
            else:
                del self.found[best.config]
                self._left.append(attempt)

    @property
    def why_none(self) -> str:
        """Why no way is used."""
        if self._lost:
            return f"the actor was lost, or took too long, when it tried {self._lost}"
        if self._left and not self._made_any:
            return _why_left(self.work, self._left)
        why = _why_none(self.found)
        if not self._made_any:
            why = f"{why}, as earlier runs have measured here"
        return why + self.compiling_later

    @property
    def compiling_later(self) -> str:
        """In which runs compiled ways are tried, if this one is too short; else nothing."""
        left = [each for each in self._left if not each.is_known and each.compiles]
        lengths = [each.worthwhile_s for each in left if each.fits(self.work)]
        if not lengths:
            return ""
        return (
            f"; compiling is tried in runs of {duration(min(lengths))} or more of sampling an actor"
        )

    def _recall(self) -> None:
        """Take over what earlier runs have found."""
        for config, known in self.kept.items():
            self.found[config] = known.as_trial(self.work.few_s) if known.is_usable else None
            self._unconfirmed.add(config)
            self.tried.append(_recalled(known))

    def _try_unknown(self, ways: Sequence[TuningConfig]) -> Generator[Event, None, None]:
        """Try what was never tried, if that pays beside the best way so far."""
        best = choose(self.work, self.found)
        work = self.work if best is None else self.work.sped_up(best.ratio)
        attempt = attempt_of_unknown(work, [each for each in ways if each not in self.found])
        if not attempt.ways:
            return
        if not attempt.pays(work):
            self._left.append(attempt)
            return
        yield Message(
            f"model.speed auto: an actor will sample for about {duration(work.sampling_s)}; trying "
            f"{_what(attempt)} first"
        )
        limit_s = attempt.limit_s(work)
        for config in configs_to_try(ways, self.found, LOWEST_DB):
            if config not in self.found:
                yield from self._try(config, limit_s)
            if self._lost:  # and with it what the actor held
                return

    def _try(
        self, config: TuningConfig, limit_s: float, known: KeptTrial | None = None
    ) -> Generator[Event, None, None]:
        """Try a way, or compare the images of a known one."""
        self._made_any = True
        pending = self.first.handle.try_speed.remote(config, known)
        found = yield from self.first.try_faster(pending, limit_s)
        self.found[config] = found if isinstance(found, ConfigTrial) else None
        way = _tried(config, found, known)
        self.tried = [each for each in self.tried if each.name != way.name] + [way]
        if found is None:  # a new actor knows nothing of these trials
            self._lost = config.name
            for each in self._unconfirmed:
                del self.found[each]
            self._unconfirmed.clear()
        else:
            yield Message(f"model.speed auto: {_line(way)}")


def _what(attempt: Attempt) -> str:
    """Which ways are tried, in words."""
    return "compiled ways" if attempt.compiles else "faster ways"


def _why_left(work: ActorWork, left: Sequence[Attempt]) -> str:
    """Why a run tries nothing.

    Args:
        left: what it does not try.
    """
    possible = [each for each in left if each.fits(work)]
    if not possible:
        return (
            f"its batches have {work.num_shapes:,} shapes, each of which would be compiled; "
            f"faster ways are compiled for up to {MAX_SHAPES}"
        )
    soonest = min(possible, key=lambda each: each.worthwhile_s)
    what = f"trying {_what(soonest)}"
    if soonest.is_known:
        (way,) = soonest.ways
        what = f"{way.name}, known to be {soonest.ratio:.2f} times as fast,"
    return (
        f"an actor will sample for about {duration(work.sampling_s)}, and {what} pays from "
        f"about {duration(soonest.worthwhile_s)}"
    )


def _tried(
    config: TuningConfig, found: ConfigTrial | str | None, known: KeptTrial | None
) -> TriedWay:
    """What a trial has found, for the record.

    Args:
        found: why the way cannot be used, if it is text; None if the actor was lost.
        known: the earlier trial that has timed it.
    """
    if not isinstance(found, ConfigTrial):
        return TriedWay(config.name, reason=found or "the actor was lost, or took too long")
    measured_on = None if known is None else known.measured_on
    return TriedWay(
        config.name,
        round(found.ratio, 3),
        found.recorded_lowest_db,
        round(found.warm_s, 1),
        _reason(found.is_compared, found.fault),
        measured_on,
    )


NOT_COMPARED = "it is not faster, so its images were not compared"


def _reason(is_compared: bool, fault: str | None) -> str | None:
    """What is to be said of a way that was timed."""
    return fault if is_compared else NOT_COMPARED


def _announcement(known: KeptTrial) -> str:
    """That the images of a known way are compared now."""
    return (
        f"{known.config.name} was {known.ratio:.2f} times as fast here on {known.measured_on}; "
        "comparing its images"
    )


def _recalled(known: KeptTrial) -> TriedWay:
    """What an earlier run has found."""
    if not known.is_usable:
        return TriedWay(known.config.name, reason=known.fault, measured_on=known.measured_on)
    return TriedWay(
        known.config.name,
        known.ratio,
        known.lowest_db,
        round(known.expected_loading_s, 1),
        _reason(known.is_compared, known.fault),
        known.measured_on,
    )


def _line(way: TriedWay) -> str:
    """What a trial has found, for a person."""
    if way.ratio is None:
        return f"{way.name} cannot be used: {way.reason}"
    speed = f"{way.name} is {way.ratio:.2f} times as fast"
    if way.reason == NOT_COMPARED:
        return speed
    close = "the same pixels" if way.lowest_db is None else f"lowest PSNR {way.lowest_db:.1f} dB"
    faulty = "" if way.reason is None else f", {way.reason}"
    return f"{speed}, {close}{faulty}"


def _praise(best: ConfigTrial) -> str:
    return f"{best.config.name}; {best.ratio:.2f} times as fast as plain sampling"


def _why_none(trials: Found) -> str:
    """Why no way is used of those that were tried."""
    done = [trial for trial in trials.values() if trial is not None]
    if not done:
        return "no faster way can be used"
    if any(trial.is_faster and not trial.within(LOWEST_DB) for trial in done):
        return f"what is faster changes more than the last bits (below {LOWEST_DB:.0f} dB)"
    if any(trial.is_faster for trial in done):
        return "compiling all shapes would take longer than it saves"
    return "nothing that was tried is faster"
