"""Decide `model.speed: auto` for a new run, with the first actor, before its record is written."""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.diffusion_core.tuning.auto_speed import (
    FEWEST_STEPS,
    LOWEST_DB,
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
from nightpress.jobs.dispatch.tried_ways import (
    announcement,
    kind_of,
    line_of,
    praise,
    recalled_way,
    tried_way,
    why_left,
    why_none,
)
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
        ways = [*quick_ways(), *compiled_ways({})]
        return TrialImages(images, self.model.spec, job.url, size, ways, info.identity, name)

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
    trials = _Trials(work.of_an_actor(first, most, start), first, start)
    yield from trials.make()
    best = yield from trials.confirm_best()
    if best is None:
        return work.decided(f"exact; {trials.why_exact}", tried=trials.tried)
    reason = f"{praise(best)}{trials.compiling_later}"
    return work.decided(reason, best.config.speed, trials.tried)


Found = dict[TuningConfig, ConfigTrial | None]


@dataclass
class _Trials:
    """Trials of faster ways, those that earlier runs have made among them."""

    work: ActorWork
    first: "FirstActor"
    start: TrialStart
    found: Found = field(default_factory=dict, init=False)
    """None for a way that cannot be used, or whose images it does not pay to compare."""
    tried: list[TriedWay] = field(default_factory=list, init=False)
    """In this run and in earlier ones, in that order for each way."""
    _unconfirmed: set[TuningConfig] = field(default_factory=set, init=False)
    _left: list[Attempt] = field(default_factory=list, init=False)
    """What the run is too short for, or has too many shapes."""
    _has_measured: bool = field(default=False, init=False)
    """Whether this run has timed a way, or compared its images."""
    _lost: str | None = field(default=None, init=False)
    """The name of the way whose trial has cost the actor."""

    def make(self) -> Generator[Event, None, None]:
        """Recall what earlier runs have found, and try what is missing and the run is long enough
        for: ways that compile only if that pays beside the best of the others.

        What is known comes first, so that a trial that costs the actor does not cost that as well.
        """
        yield from self._recall()
        yield from self.confirm_best()
        yield from self._try_unknown(quick_ways())
        for way in compiled_ways(self.found):
            yield from self._try_unknown([way])

    def confirm_best(self) -> Generator[Event, None, ConfigTrial | None]:
        """The way that the run keeps, whose images were compared in this run; None for none."""
        while True:
            best = choose(self.work, self.found)
            if best is None or best.config not in self._unconfirmed:
                return best
            known = self.start.kept[best.config]
            attempt = attempt_of_known(self.work, best, self._best_so_far)
            self._unconfirmed.discard(best.config)
            if attempt.pays(self.work):
                yield Message(f"model.speed auto: {announcement(known)}")
                yield from self._try(best.config, attempt.limit_s(self.work), known)
            else:
                self.found[best.config] = None
                self._left += [attempt] if attempt.saves else []

    @property
    def why_exact(self) -> str:
        """Why no way is used."""
        if self._lost:
            return f"the actor was lost, or took too long, when it tried {self._lost}"
        if self._left and not self._has_measured:
            return why_left(self.work, self._left)
        why = why_none(self.found)
        if not self._has_measured and self.start.kept:
            why = f"{why}, as earlier runs have measured here"
        return why + self.compiling_later

    @property
    def compiling_later(self) -> str:
        """In which runs compiled ways are tried, if this one is too short; else nothing."""
        left = [each for each in self._left if not each.is_known and each.compiles]
        left = [each for each in left if each.fits(self.work)]
        if not left:
            return ""
        soonest = min(left, key=lambda each: each.worthwhile_s)
        length = duration(soonest.worthwhile_s)
        return f"; {kind_of(soonest)} is tried once an actor has about {length} to sample"

    @property
    def _best_so_far(self) -> ConfigTrial | None:
        """The best way that was compared in this run; None for plain sampling."""
        confirmed = {key: each for key, each in self.found.items() if key not in self._unconfirmed}
        return choose(self.work, confirmed)

    def _recall(self) -> Generator[Event, None, None]:
        """Take over what earlier runs have found, and what cannot be used here.

        The latter is said in runs that are long enough to try it.
        """
        for config, reason in self.start.unusable.items():
            self.found[config] = None
            if attempt_of_unknown(self.work, [config]).pays(self.work):
                self.tried.append(TriedWay(config.name, reason=reason))
                yield Message(f"model.speed auto: {line_of(self.tried[-1])}")
        for config, known in self.start.kept.items():
            self.tried.append(recalled_way(known))
            self.found[config] = None
            if not known.is_given_up:
                self.found[config] = known.as_trial(self.work.few_s)
                self._unconfirmed.add(config)

    def _try_unknown(self, ways: Sequence[TuningConfig]) -> Generator[Event, None, None]:
        """Try what was never tried, if that pays beside the best way so far."""
        unknown = self._unknown(ways)
        if self._lost or not unknown:
            return
        attempt = attempt_of_unknown(self.work, unknown, self._best_so_far)
        if not attempt.pays(self.work):
            self._left.append(attempt)
            return
        yield Message(
            f"model.speed auto: an actor will sample for about {duration(self.work.sampling_s)}; "
            f"trying {kind_of(attempt)} first"
        )
        limit_s = attempt.limit_s(self.work)
        while unknown and not self._lost:
            yield from self._try(unknown[0], limit_s)
            unknown = self._unknown(ways)

    def _unknown(self, ways: Sequence[TuningConfig]) -> list[TuningConfig]:
        """Those of some ways that were never tried; then what is faster together, one by one."""
        unknown = [each for each in ways if each not in self.found]
        if unknown:
            return unknown
        together = configs_to_try(ways, self.found, LOWEST_DB)
        return list(islice((each for each in together if each not in self.found), 1))

    def _try(
        self, config: TuningConfig, limit_s: float, known: KeptTrial | None = None
    ) -> Generator[Event, None, None]:
        """Try a way, or compare the images of a known one."""
        pending = self.first.handle.try_speed.remote(config, known)
        found = yield from self.first.try_faster(pending, limit_s)
        self._has_measured |= isinstance(found, ConfigTrial)
        self.found[config] = found if isinstance(found, ConfigTrial) else None
        way = tried_way(config, found, known)
        self.tried = [each for each in self.tried if each.name != way.name] + [way]
        if found is None:  # a new actor knows nothing of these trials
            self._lost = config.name
            self.found |= dict.fromkeys(self._unconfirmed)
            self._unconfirmed.clear()
        else:
            yield Message(f"model.speed auto: {line_of(way)}")
