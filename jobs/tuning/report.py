"""The output of `nightpress tune`: progress lines, a table, an HTML page and JSON."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nightpress.diffusion_core.tuning.search import ConfigTrial
from nightpress.jobs.progress.displays import Display, display
from nightpress.jobs.tuning.job_file import JobUpdate
from nightpress.jobs.tuning.tune import (
    ConfigMeasured,
    ConfigRefused,
    ConfigStarted,
    TuneEvent,
    Tuning,
    TuningSetup,
    TuningStarted,
)
from nightpress.pipelines.formatting import duration, plural
from nightpress.pipelines.job.edit import on_one_line
from nightpress.pipelines.reporting.tuning_page import Page, PairView, Row, render

COLUMNS = ("configuration", "images/s", "ratio", "PSNR dB", "lowest", "warm-up", "")
"""`PSNR dB` is the mean over the images that differ, `lowest` the smallest of them."""

MAX_REASON_LENGTH = 200

NO_RESUME = (
    "a run that this job has already started cannot resume with these settings: let it finish "
    "first, or give this job another name"
)


def display_for(console: Console) -> Display[TuneEvent]:
    """A live display on a terminal, plain lines elsewhere."""
    return display(console, TuneProgress())


class TuneProgress:
    """Turns the events of a tuning into text."""

    def __init__(self) -> None:
        self._done = self._total = 0
        self._now = ""

    def add(self, event: TuneEvent) -> str | None:
        """Record an event; returns a line to print, if there is one."""
        match event:
            case TuningStarted():
                self._total = event.num_configs + 1
                self._now = "the reference"
                return describe_setup(event.setup)
            case ConfigStarted():
                self._now = event.config.name
                return None
            case ConfigMeasured():
                self._done, self._now = self._done + 1, ""
                return trial_line(event.trial)
            case ConfigRefused():
                self._done, self._now = self._done + 1, ""
                return refusal_line([event.config.name], event.reason)

    def line(self) -> str:
        """`trying channels_last, 3 of 14`; empty between configurations."""
        if not self._now:
            return ""
        place = f", {self._done + 1} of {self._total}" if self._done < self._total else ""
        return f"trying {self._now}{place}"

    def share(self) -> tuple[int, int]:
        """Configurations done and their total, combinations not counted."""
        return min(self._done, self._total), self._total


def describe_setup(setup: TuningSetup) -> str:
    """`16 images, 4 at once, 128 x 128, 20 steps of ddim, guidance 3; compared with ...`."""
    workload = setup.workload
    params = workload.params
    own = "the model's own sampler"
    sampler = own if params.scheduler == "default" else params.scheduler
    larger = " to {} x {}".format(*params.final_size) if params.passes else ""
    lora = "" if params.lora is None else f", LoRA {params.lora} at {params.lora_scale:g}"
    return (
        f"{plural(workload.num_images, 'image')}, {workload.batch_size} at once, "
        f"{params.width} x {params.height}{larger}, "
        f"{plural(params.num_inference_steps, 'step')} of {sampler}, "
        f"guidance {params.guidance_scale:g}{lora}; compared with "
        f"{setup.reference.dtype} on {setup.device} without speed settings"
    )


def format_psnr(value_db: float) -> str:
    """`38.1`, or `same` if no pixel differs."""
    return "same" if math.isinf(value_db) else f"{value_db:.1f}"


def format_rate(images_per_s: float) -> str:
    """`3.14`, `0.0271`."""
    return f"{images_per_s:.3g}" if images_per_s < 1 else f"{images_per_s:.2f}"


def trial_line(trial: ConfigTrial) -> str:
    """`channels_last: 3.14 images/s, 1.02 x, lowest PSNR 88.1 dB, warm after 2.1 s`."""
    rate = f"{format_rate(trial.images_per_s)} images/s"
    warm = f"warm after {duration(trial.warm_s)}"
    if not trial.config.fields:
        return f"reference: {rate}, {warm}"
    quality = trial.fault or (
        "the same pixels"
        if math.isinf(trial.lowest_db)
        else f"lowest PSNR {trial.lowest_db:.1f} dB"
    )
    return f"{trial.config.name}: {rate}, {trial.ratio:.2f} x, {quality}, {warm}"


def refusal_line(names: Sequence[str], reason: str) -> str:
    """`not available: taylorseer_cache (...)`, with the reason cut if it is long."""
    short = reason if len(reason) <= MAX_REASON_LENGTH else f"{reason[:MAX_REASON_LENGTH]}…"
    return f"not available: {'; '.join(names)} ({short})"


def refusals(tuning: Tuning) -> list[str]:
    """One line for each reason, with all configurations that it rules out."""
    names: dict[str, list[str]] = {}
    for refused in tuning.refused:
        names.setdefault(refused.reason, []).append(refused.config.name)
    return [refusal_line(configs, reason) for reason, configs in names.items()]


def verdict(tuning: Tuning, trial: ConfigTrial) -> str:
    """Why a configuration was chosen or rejected; empty if it merely was not the fastest."""
    if trial is tuning.reference:
        return "reference"
    if tuning.best is not None and trial.config == tuning.best.config:
        return "fastest"
    if trial.fault is not None:
        return trial.fault
    limit = tuning.options.tolerance_db
    if not trial.within(limit):
        return "pixels differ" if math.isinf(limit) else f"below {limit:g} dB"
    return "" if trial.is_faster else "no gain"


def cells(tuning: Tuning, trial: ConfigTrial) -> tuple[str, ...]:
    """A trial's row of the table."""
    is_reference = trial is tuning.reference
    return (
        display_name(tuning, trial),
        format_rate(trial.images_per_s),
        f"{trial.ratio:.2f} x",
        "" if is_reference else format_psnr(trial.mean_db),
        "" if is_reference else format_psnr(trial.lowest_db),
        duration(trial.warm_s),
        verdict(tuning, trial),
    )


def display_name(tuning: Tuning, trial: ConfigTrial) -> str:
    """The name of a trial's configuration in the table."""
    if trial is tuning.reference:
        return f"{tuning.setup.reference.dtype}, no speed settings"
    own = " (the job's own)" if trial.config == tuning.setup.job_config else ""
    return f"{trial.config.name}{own}"


def ranked(tuning: Tuning) -> list[ConfigTrial]:
    """The reference, then the other trials, fastest first."""
    return [tuning.reference, *sorted(tuning.trials, key=lambda trial: -trial.ratio)]


def terminal_table(tuning: Tuning) -> Table:
    """All trials as a table for the terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(COLUMNS):
        right = 0 < number < len(COLUMNS) - 1
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for trial in ranked(tuning):
        table.add_row(*cells(tuning, trial))
    return table


def outcome(tuning: Tuning) -> str:
    """Which configuration is the fastest, in a sentence."""
    limit_db = tuning.options.tolerance_db
    limit = f"with every image at {limit_db:g} dB or more"
    if math.isinf(limit_db):
        limit = "with every pixel unchanged"
    if tuning.best is None:
        return f"no configuration is faster {limit}"
    best = tuning.best
    quality = "" if math.isinf(best.lowest_db) else f", lowest PSNR {best.lowest_db:.1f} dB"
    return f"fastest {limit}: {best.config.name}, {best.ratio:.2f} x{quality}"


def update_lines(tuning: Tuning, job: str, update: JobUpdate, dry_run: bool) -> list[str]:
    """What happened to the job file, in lines."""
    if not update.changes:
        state = "already uses it" if tuning.best is not None else "is unchanged"
        return [f"{job} {state}"]
    settings = model_lines(update.changes)
    if update.written:
        return [f"wrote to {job}:", settings, NO_RESUME]
    if dry_run:
        return [f"dry run, would write to {job}:", settings]
    return [
        f"{job} is unchanged: it was edited in the meantime or cannot be edited safely; set in it:",
        settings,
    ]


def model_lines(changes: dict[str, Any]) -> str:
    """The changes as the `model` section of a job file."""
    lines = [f"  {key}: {on_one_line(value)}" for key, value in changes.items()]
    return "\n".join(["model:", *lines])


def as_values(tuning: Tuning) -> dict[str, Any]:
    """The whole tuning as JSON-ready values; a PSNR is null if no pixel differs."""
    setup, workload = tuning.setup, tuning.setup.workload
    limit = tuning.options.tolerance_db
    return {
        "model": setup.info.source,
        "model_fingerprint": setup.info.fingerprint,
        "device": setup.device,
        "num_images": workload.num_images,
        "batch_size": workload.batch_size,
        "tolerance_db": None if math.isinf(limit) else limit,
        "reference": {"dtype": setup.reference.dtype, **trial_values(tuning.reference)},
        "trials": [trial_values(trial) for trial in tuning.trials],
        "refused": [
            {"way": refused.config.values, "reason": refused.reason} for refused in tuning.refused
        ],
        "best": None if tuning.best is None else trial_values(tuning.best),
    }


def trial_values(trial: ConfigTrial) -> dict[str, Any]:
    """A trial as JSON-ready values."""
    return {
        "way": trial.config.values,
        "images_per_s": round(trial.images_per_s, 4),
        "ratio": round(trial.ratio, 4),
        "psnr_db": [None if math.isinf(value) else round(value, 2) for value in trial.psnr_db],
        "warm_s": round(trial.warm_s, 3),
        "fault": trial.fault,
    }


def write_page(tuning: Tuning, path: Path) -> None:
    """Write the HTML page.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_text(render(page_of(tuning)), encoding="utf-8")


def page_of(tuning: Tuning) -> Page:
    """The contents of the HTML page."""
    requests = [request for batch in tuning.setup.workload.batches for request in batch]
    return Page(
        title=tuning.setup.spec.name,
        subtitle=f"{tuning.setup.info.source} · {describe_setup(tuning.setup)}",
        outcome=outcome(tuning),
        columns=COLUMNS,
        rows=tuple(_row(tuning, trial) for trial in ranked(tuning)),
        refused=tuple(refusals(tuning)),
        prompts=tuple(request.prompt for request in requests),
        references=tuning.reference_pixels,
    )


def _row(tuning: Tuning, trial: ConfigTrial) -> Row:
    limit, verdict_ = tuning.options.tolerance_db, verdict(tuning, trial)
    outside = trial is not tuning.reference and not trial.within(limit)
    tone = "good" if verdict_ == "fastest" else "bad" if outside else ""
    pairs = tuple(
        PairView(pair.index, f"{pair.psnr_db:.1f} dB", pair.pixels)
        for pair in tuning.pairs[trial.config]
    )
    return Row(cells(tuning, trial), tone, pairs)
