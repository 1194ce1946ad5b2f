"""What a person sees of a tuning: a line a way, a table, a page with pairs of pictures, or JSON.

Owns the words. How lines are shown `jobs.progress.displays` knows, and how the page looks
`pipelines.reporting.tuning_page`.
"""

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from nightpress.diffusion_core.tuning.search import Trial
from nightpress.jobs.progress.displays import Display, display
from nightpress.jobs.tuning.tune import Begun, Refused, Subject, Tried, Trying, TuneEvent, Tuning
from nightpress.pipelines.formatting import duration, plural
from nightpress.pipelines.job.edit import on_one_line
from nightpress.pipelines.reporting.tuning_page import Page, Row, ShownPair

COLUMNS = ("way", "images/s", "ratio", "PSNR dB", "lowest", "warm-up", "")
"""PSNR is the mean over the pictures that differ, and then the lowest of all."""

REASON_LETTERS = 200


def display_for(console: Console) -> Display[TuneEvent]:
    """A live display where the console is a terminal, plain lines where it is not."""
    return display(console, TuneTeller())


class TuneTeller:
    """The words for a tuning's events."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._now = ""

    def add(self, event: TuneEvent) -> str | None:
        """Take an event into account; what is news comes back as text."""
        match event:
            case Begun():
                self._total = event.num_ways + 1
                self._now = "the reference"
                return what_is_sampled(event.subject)
            case Trying():
                self._now = event.way.name
                return None
            case Tried():
                self._done, self._now = self._done + 1, ""
                return trial_line(event.trial)
            case Refused():
                self._done, self._now = self._done + 1, ""
                return refusal_line([event.way.name], event.reason)

    def line(self) -> str:
        """Such as `trying channels_last, 3 of 14`."""
        if not self._now:
            return ""
        place = f", {self._done + 1} of {self._total}" if self._done < self._total else ""
        return f"trying {self._now}{place}"

    def share(self) -> tuple[int, int]:
        """Ways tried, of those that are tried by themselves."""
        return min(self._done, self._total), self._total


def what_is_sampled(subject: Subject) -> str:
    """`16 images, 4 at once, 128 x 128, 20 steps of ddim, guidance 3; compared with ...`."""
    work = subject.work
    params = work.params
    own = "the model's own sampler"
    sampler = own if params.scheduler == "default" else params.scheduler
    lora = "" if params.lora is None else f", LoRA {params.lora} at {params.lora_scale:g}"
    return (
        f"{plural(work.num_images, 'image')}, {work.batch_size} at once, "
        f"{params.width} x {params.height}, {plural(params.num_inference_steps, 'step')} of "
        f"{sampler}, guidance {params.guidance_scale:g}{lora}; compared with "
        f"{subject.reference.dtype} on {subject.device}, nothing chosen"
    )


def decibels(value: float) -> str:
    """`38.1`, or `same` where no pixel differs."""
    return "same" if math.isinf(value) else f"{value:.1f}"


def rate(images_per_s: float) -> str:
    """`3.14`, `0.0271`."""
    return f"{images_per_s:.3g}" if images_per_s < 1 else f"{images_per_s:.2f}"


def trial_line(trial: Trial) -> str:
    """`channels_last: 3.14 images/s, 1.02 x, lowest PSNR 88.1 dB, warm after 2.1 s`."""
    told = f"{rate(trial.images_per_s)} images/s"
    warm = f"warm after {duration(trial.warm_s)}"
    if not trial.way.fields:
        return f"reference: {told}, {warm}"
    near = trial.fault or (
        "the same pixels"
        if math.isinf(trial.lowest_db)
        else f"lowest PSNR {trial.lowest_db:.1f} dB"
    )
    return f"{trial.way.name}: {told}, {trial.ratio:.2f} x, {near}, {warm}"


def refusal_line(names: Sequence[str], reason: str) -> str:
    """`cannot be had: taylorseer_cache (...)`, the reason cut where it is long."""
    short = reason if len(reason) <= REASON_LETTERS else f"{reason[:REASON_LETTERS]}…"
    return f"cannot be had: {'; '.join(names)} ({short})"


def refusals(tuning: Tuning) -> list[str]:
    """A line for each reason, with the ways that it stands against."""
    names: dict[str, list[str]] = {}
    for refused in tuning.refused:
        names.setdefault(refused.reason, []).append(refused.way.name)
    return [refusal_line(ways, reason) for reason, ways in names.items()]


def verdict(tuning: Tuning, trial: Trial) -> str:
    """What became of a way, in a few words; nothing where it was merely not the fastest."""
    if trial is tuning.reference:
        return "reference"
    if tuning.best is not None and trial.way == tuning.best.way:
        return "fastest"
    if trial.fault is not None:
        return trial.fault
    limit = tuning.options.tolerance_db
    if not trial.within(limit):
        return "pixels differ" if math.isinf(limit) else f"below {limit:g} dB"
    return "" if trial.pays else "no gain"


def cells(tuning: Tuning, trial: Trial) -> tuple[str, ...]:
    """A row of the table."""
    is_reference = trial is tuning.reference
    return (
        name_of(tuning, trial),
        rate(trial.images_per_s),
        f"{trial.ratio:.2f} x",
        "" if is_reference else decibels(trial.mean_db),
        "" if is_reference else decibels(trial.lowest_db),
        duration(trial.warm_s),
        verdict(tuning, trial),
    )


def name_of(tuning: Tuning, trial: Trial) -> str:
    """The way's name, in a table."""
    if trial is tuning.reference:
        return f"{tuning.subject.reference.dtype}, nothing chosen"
    own = " (the job's own)" if trial.way == tuning.subject.own_way else ""
    return f"{trial.way.name}{own}"


def ranked(tuning: Tuning) -> list[Trial]:
    """The reference, then the others from the fastest on."""
    return [tuning.reference, *sorted(tuning.trials, key=lambda trial: -trial.ratio)]


def terminal_table(tuning: Tuning) -> Table:
    """The figures of all ways."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(COLUMNS):
        right = 0 < number < len(COLUMNS) - 1
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for trial in ranked(tuning):
        table.add_row(*cells(tuning, trial))
    return table


def outcome(tuning: Tuning) -> str:
    """Which way is the fastest, in a sentence."""
    db = tuning.options.tolerance_db
    limit = f"with no picture below {db:g} dB"
    if math.isinf(db):
        limit = "without a pixel that differs"
    if tuning.best is None:
        return f"nothing is faster {limit}"
    best = tuning.best
    near = "" if math.isinf(best.lowest_db) else f", lowest PSNR {best.lowest_db:.1f} dB"
    return f"fastest {limit}: {best.way.name}, {best.ratio:.2f} x{near}"


def lines_for(changes: dict[str, Any]) -> str:
    """What a job file says of its model after these changes."""
    lines = [f"  {key}: {on_one_line(value)}" for key, value in changes.items()]
    return "\n".join(["model:", *lines])


def as_values(tuning: Tuning) -> dict[str, Any]:
    """All of it as JSON-ready values; a PSNR is null where no pixel differs."""
    subject, work = tuning.subject, tuning.subject.work
    limit = tuning.options.tolerance_db
    return {
        "model": subject.info.source,
        "model_fingerprint": subject.info.fingerprint,
        "device": subject.device,
        "num_images": work.num_images,
        "batch_size": work.batch_size,
        "tolerance_db": None if math.isinf(limit) else limit,
        "reference": {"dtype": subject.reference.dtype, **trial_values(tuning.reference)},
        "trials": [trial_values(trial) for trial in tuning.trials],
        "refused": [
            {"way": refused.way.values, "reason": refused.reason} for refused in tuning.refused
        ],
        "best": None if tuning.best is None else trial_values(tuning.best),
    }


def trial_values(trial: Trial) -> dict[str, Any]:
    """A trial as JSON-ready values."""
    return {
        "way": trial.way.values,
        "images_per_s": round(trial.images_per_s, 4),
        "ratio": round(trial.ratio, 4),
        "psnr_db": [None if math.isinf(value) else round(value, 2) for value in trial.psnr_db],
        "warm_s": round(trial.warm_s, 3),
        "fault": trial.fault,
    }


def page_of(tuning: Tuning) -> Page:
    """What the page shows."""
    requests = [request for batch in tuning.subject.work.batches for request in batch]
    return Page(
        title=tuning.subject.spec.name,
        subtitle=f"{tuning.subject.info.source} · {what_is_sampled(tuning.subject)}",
        outcome=outcome(tuning),
        columns=COLUMNS,
        rows=tuple(_row(tuning, trial) for trial in ranked(tuning)),
        refused=tuple(refusals(tuning)),
        prompts=tuple(request.prompt for request in requests),
        references=tuning.pictures,
    )


def _row(tuning: Tuning, trial: Trial) -> Row:
    limit, verdict_ = tuning.options.tolerance_db, verdict(tuning, trial)
    outside = trial is not tuning.reference and not trial.within(limit)
    tone = "good" if verdict_ == "fastest" else "bad" if outside else ""
    pairs = tuple(
        ShownPair(pair.place, f"{pair.psnr_db:.1f} dB", pair.pixels)
        for pair in tuning.pairs[trial.way]
    )
    return Row(cells(tuning, trial), tone, pairs)
