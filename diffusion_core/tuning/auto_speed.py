"""The rules of `model.speed: auto`: whether a run tries faster ways, and which one it keeps.

Nothing is measured or loaded here.
"""

from collections.abc import Mapping
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

BATCHES_OF_A_TRIAL = 8
"""About how many batches are sampled to compare a way with plain sampling."""

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

    @property
    def expected_cost_s(self) -> float:
        """Seconds that trying and then compiling are expected to take."""
        return self.num_shapes * COMPILE_S + BATCHES_OF_A_TRIAL * self.batch_s

    @property
    def expected_saving_s(self) -> float:
        """Seconds that a faster way is expected to save."""
        return saving_s(self.sampling_s, EXPECTED_RATIO)

    @property
    def limit_s(self) -> float:
        """Seconds after which a trial is given up: it must not cost more than it may save."""
        return max(SHORTEST_LIMIT_S, self.expected_saving_s)

    @property
    def worthwhile_s(self) -> float:
        """Seconds of plain sampling from which trying pays."""
        return PAYBACK * self.expected_cost_s / saving_s(1.0, EXPECTED_RATIO)


def saving_s(sampling_s: float, ratio: float) -> float:
    """Seconds that a speed-up saves of a time with plain sampling."""
    return sampling_s * (1.0 - 1.0 / ratio)


def is_long_enough(num_steps: int) -> bool:
    """Whether a run has enough denoising steps in all to measure how long one takes."""
    return num_steps >= FEWEST_STEPS


def is_worth_trying(work: ActorWork) -> bool:
    """Whether faster ways are tried: what they may save pays for the trial and for compiling."""
    return work.num_shapes <= MAX_SHAPES and work.sampling_s >= work.worthwhile_s


def pays(work: ActorWork, trial: ConfigTrial) -> bool:
    """Whether a way saves more than it still costs: it has compiled one shape, and not the others.

    The trial itself is over, whatever is chosen.
    """
    compile_s = max(0.0, trial.warm_s - work.batch_s) if trial.config.speed.compile else 0.0
    return saving_s(work.sampling_s, trial.ratio) > (work.num_shapes - 1) * compile_s


def choose(
    work: ActorWork, trials: Mapping[TuningConfig, ConfigTrial | None]
) -> ConfigTrial | None:
    """The way that a run keeps; None for plain sampling."""
    paying = {
        config: trial for config, trial in trials.items() if trial is not None and pays(work, trial)
    }
    return fastest(paying, LOWEST_DB)
