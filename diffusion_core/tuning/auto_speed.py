"""The rules of `model.speed: auto`: whether a run tries faster ways, and which one it keeps.

Nothing is measured or loaded here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nightpress.diffusion_core.tuning.candidates import TuningConfig, last_bit_candidates
from nightpress.diffusion_core.tuning.search import ConfigTrial, Trials, fastest

LOWEST_DB = 70.0
"""The PSNR that each image must have at least: pixels differ by single rounding errors."""

FEWEST_STEPS = 2_000
"""A run with fewer denoising steps does not even measure how long its steps take."""

EXPECTED_RATIO = 1.15
"""The speed-up that is expected before anything was tried; compiling gives 1.1 to 1.5."""

EXPECTED_RATIO_BESIDE_COMPILED = 1.05
"""The same where another compiled way is used already, as `full` beside `regional`."""

COMPILE_S = {"regional": 20.0, "full": 100.0}
"""Seconds that compiling one shape is expected to take, before any was compiled.

Of the built-in model on a slow CPU core it took 16 and 113.
"""

TIMED_CALLS = 7
"""Calls of a few steps that time a way: one to warm up, and three in turn with plain sampling."""

COMPARED_BATCHES = 1
"""Batches that each way, and plain sampling, sample in full to compare their images."""

PAYBACK = 2.0
"""What compiling is expected to save must be at least this many times what trying it costs."""

SHORTEST_LIMIT_S = 60.0
"""Seconds that a trial may take at least before it is given up."""

MAX_SHAPES = 64
"""With more shapes nothing is compiled: each would be compiled by itself."""


@dataclass(frozen=True)
class ActorWork:
    """What one actor has to sample with one model."""

    sampling_s: float
    """Seconds that its share of the run takes with plain sampling."""
    batch_s: float
    """Seconds of one such batch, of the settings that are tried."""
    few_s: float
    """Seconds of the same batch with the few steps that are timed."""
    load_s: float
    """Seconds to load the model once more, as each way does."""
    num_shapes: int
    """Different shapes of tensors among the run's batches; each is compiled."""


@dataclass(frozen=True)
class Attempt:
    """Ways that a run may try, with what that is expected to cost and to gain."""

    ways: tuple[TuningConfig, ...]
    ratio: float
    """The speed-up, beside the way that is used otherwise."""
    cost_s: float
    """Seconds of an actor until all shapes are ready."""
    payback: float
    """How many times its cost it must be expected to save."""
    beside: float = 1.0
    """How many times as fast as plain sampling is what is used otherwise."""
    is_known: bool = False
    """Whether an earlier run has timed the way."""

    @property
    def compiles(self) -> bool:
        """Whether one of the ways is compiled."""
        return any(each.speed.compile for each in self.ways)

    @property
    def saves(self) -> bool:
        """Whether it is faster than what is used otherwise."""
        return self.ratio > 1.0

    @property
    def worthwhile_s(self) -> float:
        """Seconds of plain sampling from which trying pays; infinite if it saves nothing."""
        return self.payback * self.cost_s / self._saving_s(1.0) if self.saves else math.inf

    def fits(self, work: ActorWork) -> bool:
        """Whether the run has few enough shapes."""
        return work.num_shapes <= MAX_SHAPES or not self.compiles

    def pays(self, work: ActorWork) -> bool:
        """Whether the run is long enough, and has few enough shapes."""
        return self.fits(work) and work.sampling_s >= self.worthwhile_s

    def limit_s(self, work: ActorWork) -> float:
        """Seconds after which a trial is given up: twice its expected cost, or all it may save."""
        return max(SHORTEST_LIMIT_S, 2.0 * self.cost_s, self._saving_s(work.sampling_s))

    def _saving_s(self, sampling_s: float) -> float:
        """What is saved of a time with plain sampling."""
        return saving_s(sampling_s / self.beside, self.ratio)


def quick_ways() -> list[TuningConfig]:
    """The ways that take no time to get ready, which are tried first."""
    return [each for each in last_bit_candidates() if not each.speed.compile]


def compiled_ways(trials: Trials) -> list[TuningConfig]:
    """The ways that are compiled, those first that take less time, with the fastest quick way.

    Compiled code is not compiled a second time to find out what each of the two gains alone.

    Args:
        trials: of the quick ways, and of compiled ones that cannot be used at all.
    """
    ways = [each for each in last_bit_candidates() if each.speed.compile]
    usable = [each for each in ways if each not in trials or trials[each] is not None]
    quick = {config: trial for config, trial in trials.items() if not config.speed.compile}
    best = fastest(quick, LOWEST_DB)
    return usable if best is None else [best.config.combined_with(each) or each for each in usable]


def attempt_of_unknown(
    work: ActorWork, ways: Sequence[TuningConfig], beside: ConfigTrial | None = None
) -> Attempt:
    """Trying ways that were not tried before with this model on this device.

    What was found is kept for later runs, so that ways that need no compiling must just save what
    trying them costs. What is faster together costs another trial, and saves more than expected.

    Args:
        work: what there is to sample.
        ways: what is tried.
        beside: the way that is used otherwise; None for plain sampling.
    """
    timing = len(ways) * (work.load_s + TIMED_CALLS * work.few_s)
    comparing = (len(ways) + 1) * COMPARED_BATCHES * work.batch_s
    attempt = Attempt(tuple(ways), EXPECTED_RATIO, timing + comparing, 1.0, _ratio(beside))
    if not attempt.compiles:
        return attempt
    expected_s = [COMPILE_S[each.speed.compile] for each in ways if each.speed.compile]
    # Each way compiles one shape, and the best one all others.
    compiling = sum(expected_s) + (work.num_shapes - 1) * max(expected_s)
    is_second = beside is not None and beside.config.speed.compile is not None
    ratio = EXPECTED_RATIO_BESIDE_COMPILED if is_second else EXPECTED_RATIO
    return replace(attempt, ratio=ratio, cost_s=attempt.cost_s + compiling, payback=PAYBACK)


def attempt_of_known(
    work: ActorWork, trial: ConfigTrial, beside: ConfigTrial | None = None
) -> Attempt:
    """Using the way that was the fastest in an earlier run, once its images are compared.

    Args:
        work: what there is to sample.
        trial: as it would be made now, with the code of its shape compiled already.
        beside: the way that is used otherwise; None for plain sampling.
    """
    comparing = 2 * COMPARED_BATCHES * (work.few_s + work.batch_s)  # plain sampling too
    cost_s = work.load_s + work.num_shapes * _compile_s(work, trial) + comparing
    so_far = _ratio(beside)
    return Attempt((trial.config,), trial.ratio / so_far, cost_s, 1.0, so_far, is_known=True)


def _ratio(beside: ConfigTrial | None) -> float:
    """How many times as fast as plain sampling is what is used otherwise."""
    return 1.0 if beside is None else beside.ratio


def saving_s(sampling_s: float, ratio: float) -> float:
    """Seconds that a speed-up saves of a time with plain sampling."""
    return sampling_s * (1.0 - 1.0 / ratio)


def is_long_enough(num_steps: int) -> bool:
    """Whether a run has enough denoising steps in all to measure how long one takes."""
    return num_steps >= FEWEST_STEPS


def choose(work: ActorWork, trials: Trials) -> ConfigTrial | None:
    """The way that a run keeps; None for plain sampling.

    A way has compiled one shape in its trial, and not the others: its speed-up is that of the whole
    run, with the time that this will take.
    """
    overall = {
        config: replace(trial, ratio=_overall_ratio(work, trial))
        for config, trial in trials.items()
        if trial is not None and trial.is_faster
    }
    best = fastest(overall, LOWEST_DB)
    return None if best is None else trials[best.config]


def _overall_ratio(work: ActorWork, trial: ConfigTrial) -> float:
    compile_s = (work.num_shapes - 1) * _compile_s(work, trial)
    return work.sampling_s / (work.sampling_s / trial.ratio + compile_s)


def _compile_s(work: ActorWork, trial: ConfigTrial) -> float:
    """Seconds that one shape takes to compile, or to be loaded; 0 for a way that does neither."""
    return max(0.0, trial.warm_s - work.few_s) if trial.config.speed.compile else 0.0
