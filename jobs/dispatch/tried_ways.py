"""What trials of faster ways have found: in words for a person, and for the record of a run."""

from collections.abc import Sequence

from nightpress.diffusion_core.tuning.auto_speed import (
    LOWEST_DB,
    MAX_SHAPES,
    ActorWork,
    Attempt,
)
from nightpress.diffusion_core.tuning.candidates import TuningConfig
from nightpress.diffusion_core.tuning.kept_trials import LOST, KeptTrial
from nightpress.diffusion_core.tuning.search import ConfigTrial, Trials
from nightpress.pipelines.formatting import duration
from nightpress.pipelines.run_directory.auto_speed import TriedWay

NOT_COMPARED = "it is not faster, so its images were not compared"


def kind_of(attempt: Attempt) -> str:
    """Which ways are tried, in words."""
    return " and ".join(each.name for each in attempt.ways) if attempt.compiles else "faster ways"


def why_left(work: ActorWork, left: Sequence[Attempt]) -> str:
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
    what = f"trying {kind_of(soonest)}"
    if soonest.is_known:
        (way,) = soonest.ways
        ratio = soonest.ratio * soonest.beside
        what = f"{way.name}, known to be {ratio:.2f} times as fast,"
    return (
        f"an actor will sample for about {duration(work.sampling_s)}, and {what} pays from "
        f"about {duration(soonest.worthwhile_s)}"
    )


def tried_way(
    config: TuningConfig, found: ConfigTrial | str | None, known: KeptTrial | None
) -> TriedWay:
    """What a trial has found, for the record.

    Args:
        found: why the way cannot be used, if it is text; None if the actor was lost.
        known: the earlier trial that has timed it.
    """
    if not isinstance(found, ConfigTrial):
        return TriedWay(config.name, reason=found or LOST)
    measured_on = None if known is None else known.measured_on
    return TriedWay(
        config.name,
        round(found.ratio, 3),
        found.recorded_lowest_db,
        round(found.warm_s, 1),
        _reason(found.is_compared, found.fault),
        measured_on,
    )


def _reason(is_compared: bool, fault: str | None) -> str | None:
    """What is to be said of a way that was timed."""
    return fault if is_compared else NOT_COMPARED


def announcement(known: KeptTrial) -> str:
    """That the images of a known way are compared now."""
    return (
        f"{known.config.name} was {known.ratio:.2f} times as fast here on {known.measured_on}; "
        "comparing its images"
    )


def recalled_way(known: KeptTrial) -> TriedWay:
    """What an earlier run has found."""
    if known.is_given_up:
        reason = f"{known.failure}, in {known.failures} runs"
        return TriedWay(known.config.name, reason=reason, measured_on=known.measured_on)
    return TriedWay(
        known.config.name,
        round(known.ratio, 3),
        known.lowest_db,
        round(known.expected_loading_s, 1),
        _reason(known.is_compared, known.fault),
        known.measured_on,
    )


def line_of(way: TriedWay) -> str:
    """What a trial has found, for a person."""
    if way.ratio is None:
        return f"{way.name} cannot be used: {way.reason}"
    speed = f"{way.name} is {way.ratio:.2f} times as fast"
    if way.reason == NOT_COMPARED:
        return speed
    close = "the same pixels" if way.lowest_db is None else f"lowest PSNR {way.lowest_db:.1f} dB"
    faulty = "" if way.reason is None else f", {way.reason}"
    return f"{speed}, {close}{faulty}"


def praise(best: ConfigTrial) -> str:
    """The way that a run keeps, for a person."""
    return f"{best.config.name}; {best.ratio:.2f} times as fast as plain sampling"


def why_none(trials: Trials) -> str:
    """Why no way is used of those that were tried."""
    done = [trial for trial in trials.values() if trial is not None]
    if not done:
        return "no faster way can be used"
    compared = [trial for trial in done if trial.is_compared]
    if any(trial.is_faster and not trial.within(LOWEST_DB) for trial in compared):
        return f"what is faster changes more than the last bits (below {LOWEST_DB:.0f} dB)"
    if any(trial.is_faster for trial in done):
        return "compiling all shapes would take longer than it saves"
    return "nothing that was tried is faster"
