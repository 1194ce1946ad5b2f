"""The rules of `model.speed: auto`: whether a run tries faster ways, and which one it keeps.

Nothing is measured or loaded here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.search import ConfigTrial, fastest

LOWEST_DB = 70.0
"""The PSNR that each image must have at least: pixels differ by single rounding errors."""

FEWEST_STEPS = 2_000
"""A run with fewer denoising steps does not even measure how long its steps take."""

EXPECTED_RATIO = 1.15
"""The speed-up that is expected before anything was tried; compiling gives 1.1 to 1.5."""

COMPILE_S = 60.0
"""Seconds that compiling one shape is expected to take, before any was compiled."""

BATCHES_OF_A_WAY = 3
"""About how many batches it takes to time a way in turn with plain sampling."""

BATCHES_TO_CONFIRM = 2
"""Batches that compare the images of a way whose speed is known: one plain, and one its own."""

PAYBACK = 2.0
"""What is expected to be saved must be at least this many times what trying costs."""

SHORTEST_LIMIT_S = 60.0
"""Seconds that a trial may take at least before it is given up."""

MAX_SHAPES = 64
"""With more shapes nothing is tried: each would be compiled."""


@dataclass(frozen=True)
class ActorWork:
    """What one actor has to sample with one model."""

    sampling_s: float
    """Seconds that its share of the run takes with plain sampling."""
    batch_s: float
    """Seconds of one such batch, of the settings that are tried."""
    num_shapes: int
    """Different shapes of tensors among the run's batches; each is compiled."""


@dataclass(frozen=True)
class Attempt:
    """Ways that a run may try, with what that is expected to cost and to gain."""

    ways: tuple[TuningConfig, ...]
    ratio: float
    """The speed-up."""
    cost_s: float
    """Seconds of an actor until all shapes are ready."""
    payback: float
    """How many times its cost it must be expected to save."""

    @property
    def worthwhile_s(self) -> float:
        """Seconds of plain sampling from which trying pays."""
        return self.payback * self.cost_s / saving_s(1.0, self.ratio)

    def pays(self, work: ActorWork) -> bool:
        """Whether the run is long enough, and has few enough shapes."""
        return work.num_shapes <= MAX_SHAPES and work.sampling_s >= self.worthwhile_s

    def limit_s(self, work: ActorWork) -> float:
        """Seconds after which a trial is given up: it must not cost more than it may save."""
        return max(SHORTEST_LIMIT_S, saving_s(work.sampling_s, self.ratio))


def attempt_of_unknown(work: ActorWork, ways: Sequence[TuningConfig]) -> Attempt:
    """Trying ways that were not tried before with this model on this device."""
    compiling = work.num_shapes * COMPILE_S if any(each.speed.compile for each in ways) else 0.0
    timing = (len(ways) + 1) * BATCHES_OF_A_WAY * work.batch_s  # 1 for what is faster together
    return Attempt(tuple(ways), EXPECTED_RATIO, compiling + timing, PAYBACK)


def attempt_of_known(work: ActorWork, trial: ConfigTrial) -> Attempt:
    """Using the way that was the fastest in an earlier run, once its images are compared.

    Args:
        trial: as it would be made now, with the code of its shape compiled already.
    """
    cost_s = work.num_shapes * _compile_s(work, trial) + BATCHES_TO_CONFIRM * work.batch_s
    return Attempt((trial.config,), trial.ratio, cost_s, 1.0)


def saving_s(sampling_s: float, ratio: float) -> float:
    """Seconds that a speed-up saves of a time with plain sampling."""
    return sampling_s * (1.0 - 1.0 / ratio)


def is_long_enough(num_steps: int) -> bool:
    """Whether a run has enough denoising steps in all to measure how long one takes."""
    return num_steps >= FEWEST_STEPS


def pays(work: ActorWork, trial: ConfigTrial) -> bool:
    """Whether a way saves more than it still costs: it has compiled one shape, and not the others.

    The trial itself is over, whatever is chosen.
    """
    compile_s = (work.num_shapes - 1) * _compile_s(work, trial)
    return saving_s(work.sampling_s, trial.ratio) > compile_s


def _compile_s(work: ActorWork, trial: ConfigTrial) -> float:
    """Seconds that one shape takes to compile, or to be loaded; 0 for a way that does neither."""
    return max(0.0, trial.warm_s - work.batch_s) if trial.config.speed.compile else 0.0


def choose(
    work: ActorWork, trials: Mapping[TuningConfig, ConfigTrial | None]
) -> ConfigTrial | None:
    """The way that a run keeps; None for plain sampling."""
    paying = {
        config: trial for config, trial in trials.items() if trial is not None and pays(work, trial)
    }
    return fastest(paying, LOWEST_DB)
