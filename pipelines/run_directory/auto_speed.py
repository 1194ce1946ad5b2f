"""What `model.speed: auto` has come to in a run: recorded once, and used by all that follow.

A run records the ways that it uses as if the job had set them; what is here says that it had not,
and why they were chosen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from nightpress.diffusion_core.acceleration.spec import SpeedSpec
from nightpress.diffusion_core.models.spec import ModelSpec
from nightpress.pipelines.job.spec import RunSpec


@dataclass(frozen=True)
class TriedWay:
    """One way to sample faster, as it was tried when a run began."""

    name: str
    """Such as `compile full`."""
    ratio: float | None = None
    """How many times as fast as plain sampling it was; None if it could not be used."""
    lowest_db: float | None = None
    """PSNR of the image that differed most; None if no pixel did, or if nothing was compared."""
    warm_s: float | None = None
    """Seconds to compile or load its code and to sample a few steps of a batch."""
    reason: str | None = None
    """Why it could not be used, or why its images were not compared."""
    measured_on: str | None = None
    """Date, as YYYY-MM-DD in UTC, of the earlier run that has timed it; None if this run has."""


@dataclass(frozen=True)
class AutoSpeed:
    """The decision for one model of a run."""

    model: str | None
    """Its name, if the run has several."""
    speed: SpeedSpec
    reason: str
    """Why, in words."""
    tried: tuple[TriedWay, ...] = ()

    @property
    def text(self) -> str:
        """A line for a person: `model.speed auto: exact; ...`."""
        key = "model.speed" if self.model is None else f"models.{self.model}: speed"
        return f"{key} auto: {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON."""
        return {
            "model": self.model,
            "speed": self.speed.chosen(),
            "reason": self.reason,
            "tried": [asdict(each) for each in self.tried],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`."""
        return cls(
            model=values["model"],
            speed=SpeedSpec.model_validate(values["speed"]),
            reason=values["reason"],
            tried=tuple(TriedWay(**each) for each in values["tried"]),
        )


def decided_spec(spec: RunSpec, decisions: Sequence[AutoSpeed]) -> RunSpec:
    """A job with what was decided in place of `auto`, and no ways in place of `exact`."""
    speeds = {each.model: each.speed for each in decisions}
    return _with_speeds(spec, lambda name, model: speeds.get(name, model.ways))


def undecided_spec(spec: RunSpec, decisions: Sequence[AutoSpeed]) -> RunSpec:
    """The recorded job with `auto` in place of what was decided."""
    names = {each.model for each in decisions}
    return _with_speeds(spec, lambda name, model: "auto" if name in names else model.speed)


def resumed_spec(spec: RunSpec, recorded: RunSpec, decisions: Sequence[AutoSpeed]) -> RunSpec:
    """A job that is to resume a run, with the run's ways in place of `auto`.

    Ways that the run's own job had set by hand are left out, so that they count as a change.

    Args:
        recorded: the job as the run has recorded it.
        decisions: what the run has decided; none in runs of older versions.
    """
    names = {each.model for each in decisions}
    found = dict(zip(recorded.model_names, recorded.every_model, strict=True))

    def speed(name: str | None, model: ModelSpec) -> Any:
        if model.speed != "auto":
            return model.speed
        return found[name].ways if name in names and name in found else SpeedSpec()

    return _with_speeds(spec, speed)


def _with_speeds(spec: RunSpec, speed: Callable[[str | None, ModelSpec], Any]) -> RunSpec:
    """The job with another `speed` of each of its models."""
    if not spec.models:
        model = spec.model.model_copy(update={"speed": speed(None, spec.model)})
        return spec.model_copy(update={"model": model})
    models = tuple(
        each.model_copy(update={"speed": speed(each.name, each)}) for each in spec.models
    )
    return spec.model_copy(update={"models": models})
