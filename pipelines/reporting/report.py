"""report.html: one page about a run. It is static, self-contained, and safe for any prompt."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nightpress.diffusion_core.conditioning.passes import PassSpec
from nightpress.diffusion_core.conditioning.spec import TEXT
from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.formatting import duration, plural, size
from nightpress.pipelines.job.cost_section import Cost, money
from nightpress.pipelines.reporting.collect import CUT_COLUMNS, Collected, Limits, collect
from nightpress.pipelines.reporting.editions import edition_line
from nightpress.pipelines.reporting.failures import failure_counts
from nightpress.pipelines.reporting.gallery import (
    EMPTY_GIF,
    MAX_CAPTION,
    Fact,
    GalleryImage,
    gallery,
    text,
)
from nightpress.pipelines.reporting.pick_rates import PickRates, write_pick_rates
from nightpress.pipelines.reporting.picks import NO_PICKS, Picks
from nightpress.pipelines.reporting.scores import RunScores, ScoreRow
from nightpress.pipelines.run_directory.log import Start, cost_of, read_starts
from nightpress.pipelines.run_directory.reader import Run, RunProgress
from nightpress.pipelines.run_directory.record import RunRecord
from nightpress.pipelines.run_directory.summary import Summary
from nightpress.pipelines.run_directory.summary_index import write_summary_index
from nightpress.pipelines.storage import Store

REPORT_FILE = "report.html"

REVIEW_PAGE = "review.html"
"""What `nightpress review --static` writes."""

LIMITS = Limits(images=200, failures=100)
MAX_SETTINGS = 100
MAX_SCORES = 40
UNKNOWN = "\N{EM DASH}"


@dataclass(frozen=True)
class Total:
    """A number at the top of the page."""

    name: str
    value: str
    tone: str = ""
    """`good`, `bad` or empty."""


@dataclass(frozen=True)
class Failure:
    """A row of the table of failed images."""

    image_id: str
    prompt: str
    error_type: str
    error: str
    attempts: int


@dataclass(frozen=True)
class CutPrompt:
    """A row of the table of images whose prompts were cut."""

    image_id: str
    prompt_cut: str
    negative_prompt_cut: str


@dataclass(frozen=True)
class SettingsRow:
    """A row of the table of settings: images with the same settings."""

    width: int
    height: int
    scheduler: str
    num_inference_steps: int
    guidance_scale: str
    mode: str
    """`text`, `inpaint+control` ..."""
    strength: str
    """Empty if there is none."""
    loras: str
    """`brand at 0.8, ink at 1`, or empty."""
    controlnets: str
    references: str
    num_images: str
    num_failed: str
    sampling_s: str


def write_report(run: Run, store: Store, rates: PickRates | None = None) -> RunScores:
    """Write the report of a run, finished or not, the index of its commits, and its pick rates.

    Args:
        run: the run.
        store: its directory.
        rates: the pick rates to show; by default those under the policy `any`, if there are marks.
    """
    found = collect(run, LIMITS)
    write_summary_index(store, found.totals)
    picks = Picks.of(run, rates)
    if picks.rates is not None:
        write_pick_rates(store, picks.rates)
    store.put(REPORT_FILE, render(run, found, picks).encode())
    return found.run_scores


def render(run: Run, found: Collected, picks: Picks = NO_PICKS) -> str:
    """The report as HTML, given what was collected from the metadata, and what was picked."""
    import jinja2  # a run needs it at its end, not before its first image

    total = Summary.total(each.summary for each in found.totals.values())
    starts, starts_facts = _starts(run.store)
    progress = run.progress_of(total, found.totals)
    images = gallery(run, found.images)
    shown_settings = [settings_row(row) for row in found.settings[:MAX_SETTINGS]]
    loader = jinja2.PackageLoader("nightpress.pipelines.reporting")
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("report.html.j2")
    return template.render(
        title=run.spec.name,
        where=f"{run.url} · started {moment(run.record.created_at)}",
        totals=[
            *totals(progress, found.num_cut, found.num_draws),
            *cost_totals(cost_of(starts, progress.num_done)),
            *(Total(name, value) for name, value in picks.totals),
        ],
        picks=picks,
        review_command=f"nightpress review {run.url}",
        has_review_page=run.store.size(REVIEW_PAGE) is not None,
        images=images,
        images_note=_images_note(images, progress.num_ok),
        failures=[failure(row) for row in found.failures],
        failure_counts=failure_counts(found.failure_counts),
        failures_note=_count(len(found.failures), progress.num_failed, "the first"),
        cut=[cut_prompt(row) for row in found.cut],
        cut_note=_count(len(found.cut), found.num_cut, "the first"),
        scores=[ScoreRow.of(each) for each in found.scores[:MAX_SCORES]],
        scores_note=_count(min(len(found.scores), MAX_SCORES), len(found.scores), "the first"),
        settings=shown_settings,
        show=columns_to_show(shown_settings),
        settings_note=_count(len(shown_settings), len(found.settings), "the most frequent"),
        job=[*job_facts(run), *starts_facts],
        model=model_facts(run),
        spec=json.dumps(run.spec.as_dict(), indent=2, ensure_ascii=False),
    )


def totals(progress: RunProgress, num_cut: int = 0, num_draws: int = 0) -> list[Total]:
    """The numbers at the top of the page."""
    num_rejected = progress.num_rejected
    rate, num_stored = progress.images_per_s, progress.num_stored
    return [
        Total("images ok", f"{progress.num_ok:,}", "good" if progress.num_ok else ""),
        Total("failed", f"{progress.num_failed:,}", "bad" if progress.num_failed else ""),
        *([Total("of them rejected by gates", f"{num_rejected:,}")] if num_rejected else []),
        *([Total("stored, not yet committed", f"{num_stored:,}")] if num_stored else []),
        *([Total("draws", f"{num_draws:,}")] if num_draws else []),
        *([Total("with a prompt that was cut", f"{num_cut:,}", "bad")] if num_cut else []),
        Total(
            "of all images done",
            f"{progress.num_done / progress.num_images:.0%}" if progress.num_images else UNKNOWN,
        ),
        Total("sampling time", duration(progress.active_s)),
        Total("images/s of sampling time", UNKNOWN if rate is None else f"{rate:.2f}"),
        Total("stored", size(progress.num_bytes)),
        Total("shards", f"{progress.num_committed_shards:,} / {progress.num_shards:,}"),
    ]


def cost_totals(cost: Cost | None) -> list[Total]:
    """The numbers at the top of the page about money."""
    if cost is None:
        return []
    each = UNKNOWN if cost.per_image is None else money(cost.per_image, cost.currency)
    return [Total("cost", money(cost.amount, cost.currency)), Total("an image", each)]


def _starts(store: Store) -> tuple[list[Start], list[Fact]]:
    """The starts of the run, and what the page lists about them; no log is worth a report."""
    try:
        starts = read_starts(store)
    except StoreError as error:
        return [], [Fact("starts", text(f"unknown: the log cannot be read: {error}"))]
    return starts, start_facts(starts)


def start_facts(starts: Sequence[Start]) -> list[Fact]:
    """What the page lists about the starts of the run."""
    if not starts:
        return []
    facts = [Fact("starts", f"{len(starts):,}")]
    if gpu_s := sum(each.gpu_s for each in starts):
        facts.append(Fact("GPU time", duration(gpu_s)))
    retries = sum(each.num_retries for each in starts)
    return [*facts, Fact("shards tried again", f"{retries:,}")] if retries else facts


def settings_row(row: dict[str, Any]) -> SettingsRow:
    """A row of the table of settings."""
    sampled = row["num_sampled"]
    return SettingsRow(
        width=row["width"],
        height=row["height"],
        scheduler=row["scheduler"],
        num_inference_steps=row["num_inference_steps"],
        guidance_scale=f"{row['guidance_scale']:g}",
        mode=row["mode"],
        strength="" if row["strength"] is None else f"{row['strength']:g}",
        loras=text(row["with_loras"], MAX_CAPTION),
        controlnets=text(row["with_controlnets"], MAX_CAPTION),
        references=text(row["with_references"], MAX_CAPTION),
        num_images=f"{row['num_images']:,}",
        num_failed=f"{row['num_failed']:,}",
        sampling_s=f"{row['sampling_s'] / sampled:.3g}" if sampled else UNKNOWN,
    )


def columns_to_show(settings: Sequence[SettingsRow]) -> dict[str, bool]:
    """The columns of the table of settings that some runs leave out, and whether this one does."""
    optional = ("strength", "loras", "controlnets", "references")
    shown = {name: any(getattr(row, name) for row in settings) for name in optional}
    return shown | {"mode": any(row.mode != TEXT for row in settings)}


def failure(row: dict[str, Any]) -> Failure:
    """A row of the table of failed images."""
    return Failure(
        image_id=text(row["image_id"]),
        prompt=text(row["prompt"], MAX_CAPTION),
        error_type=text(row["error_type"]),
        error=text(row["error"]),
        attempts=row["attempts"],
    )


def cut_prompt(row: dict[str, Any]) -> CutPrompt:
    """A row of the table of images whose prompts were cut."""
    return CutPrompt(*(text(row[name], MAX_CAPTION) for name in CUT_COLUMNS))


def job_facts(run: Run) -> list[Fact]:
    """What the page lists about the job."""
    spec, record = run.spec, run.record
    return [
        Fact("manifest", text("\n".join(spec.manifests)), mono=True),
        *(
            [Fact("editions", "\n".join(map(edition_line, record.editions)))]
            if record.editions
            else []
        ),
        Fact("rows", f"{record.layout.num_rows:,}"),
        Fact("images planned", f"{record.layout.num_images:,}"),
        *(
            [Fact("not in the manifest any more", f"{record.num_gone:,}")]
            if record.num_gone
            else []
        ),
        Fact("seed", str(spec.seed)),
        *([Fact("passes", "\n".join(map(pass_text, spec.passes)))] if spec.passes else []),
        Fact("format", spec.images.format),
        Fact("file names", text(spec.images.template), mono=True),
        *([Fact("packing", spec.images.packing)] if spec.images.is_packed else []),
        Fact("fingerprint", record.fingerprint, mono=True),
    ]


def pass_text(each: PassSpec) -> str:
    """`1.5 times larger, 20 steps at strength 0.35`."""
    steps = plural(each.num_inference_steps, "step")
    return f"{each.scale:g} times larger, {steps} at strength {each.strength:g}"


def model_facts(run: Run) -> list[Fact]:
    """What the page lists about the model and the software."""
    versions = (f"{name} {version}" for name, version in run.record.versions.items())
    facts = [fact for record in run.record.each_model for fact in _facts_of_model(record)]
    return [*facts, Fact("versions", text(", ".join(versions)))]


def _facts_of_model(record: RunRecord) -> list[Fact]:
    name = "model" if record.model_name is None else f"model {record.model_name}"
    return [
        Fact(name, text(record.model.source)),
        Fact("pipeline", text(record.model.pipeline)),
        Fact("precision", f"{record.dtype} on {record.device}"),
        Fact("batch size", record.batch_sizes.text),
        Fact("fingerprint", record.model.fingerprint, mono=True),
    ]


def moment(iso: str) -> str:
    """`2026-11-21 02:10 UTC`."""
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _images_note(images: Sequence[GalleryImage], num_ok: int) -> str:
    """How many images are shown, and how many of them cannot be read."""
    note = _count(len(images), num_ok, "an even sample")
    blank = sum(each.thumb == EMPTY_GIF for each in images)
    return f"{note}; {blank:,} of them cannot be read" if blank else note


def _count(shown: int, total: int, which: str) -> str:
    """`1,632`, or `an even sample: 200 of 1,632` if not all are shown."""
    return f"{total:,}" if shown == total else f"{which}: {shown:,} of {total:,}"
