"""`nightpress status`."""

from collections.abc import Iterator
from dataclasses import asdict

import click

from nightpress.jobs.commands.common import (
    json_option,
    run_argument,
    run_target,
    storage_option,
    storage_options,
)
from nightpress.jobs.commands.holder_lines import holder_line, holder_values, not_in_manifest
from nightpress.jobs.commands.json_output import print_result
from nightpress.jobs.commands.score_lines import score_lines
from nightpress.jobs.commands.times import Night, night_options
from nightpress.jobs.runs.status import RunStatus, TrainingStatus, status
from nightpress.pipelines.formatting import duration, plural, size
from nightpress.pipelines.training.runs import Checkpoint, age_s


@click.command("status")
@run_argument
@storage_option
@night_options
@json_option
def command(
    run: str,
    storage_overrides: tuple[str, ...],
    night: Night,
    as_json: bool,
) -> None:
    """Show the progress of RUN, a run of images or a training run.

    RUN is the URL of a run directory, or its job file. Everything is read from the store; the
    machine that works on the run is not contacted.
    """
    target = run_target(run, storage_overrides, night)
    found = status(target, storage=storage_options(storage_overrides))
    if as_json:
        print_result(as_values(found))
    elif isinstance(found, TrainingStatus):
        click.echo(describe_training(found))
    else:
        click.echo(describe(found))


def as_values(found: RunStatus | TrainingStatus) -> dict[str, object]:
    """The status as JSON-ready values."""
    values: dict[str, object] = {
        "url": found.url,
        "created_at": found.created_at,
        "holder": None if found.holder is None else holder_values(found.holder),
    }
    if isinstance(found, TrainingStatus):
        return values | {
            "recipe": found.recipe,
            **asdict(found.progress),
            "job_steps": found.job_steps,
        }
    spent = {
        "num_starts": found.num_starts,
        "actor_s": found.actor_s,
        "gpu_s": found.gpu_s,
        "cost": None if found.cost is None else asdict(found.cost),
        "log_error": found.log_error,
        "num_editions": found.num_editions,
        "num_gone": found.num_gone,
        "scorers": dict(found.scorers),
        "scores": asdict(found.scores),
        "scores_error": found.scores_error,
        "has_gates": found.has_gates,
        "pick_rates": None if found.pick_rates is None else asdict(found.pick_rates),
        "pick_rates_error": found.pick_rates_error,
        "models": [asdict(each) for each in found.models],
    }
    return values | asdict(found.progress) | {"num_done": found.progress.num_done} | spent


def describe(found: RunStatus) -> str:
    """The status of a run of images, in a few lines."""
    progress = found.progress
    done = progress.num_done
    share = done / progress.num_images if progress.num_images else 1.0
    state = "complete" if progress.complete else "not complete"
    total, failed = progress.num_images, f"{progress.num_failed:,} failed"
    if progress.num_rejected:
        failed += f" ({progress.num_rejected:,} of them rejected by gates)"
    uncommitted = f"; {progress.num_stored:,} stored, not yet committed"
    lines = [
        f"{found.url}  {state}",
        f"images   {done:,} of {total:,} done ({share:.1%}), {failed}"
        f"{uncommitted if progress.num_stored else ''}",
        f"shards   {progress.num_committed_shards:,} of {progress.num_shards:,} committed",
        f"size     {size(progress.num_bytes)}",
        *model_lines(found),
        *([f"scorers  {scorers_line(found)}"] if found.scorers else []),
        f"started  {found.created_at}",
        *([f"extended {extended_line(found)}"] if found.num_editions else []),
        *([f"spent    {spent_line(found)}"] if found.num_starts or found.log_error else []),
    ]
    if progress.images_per_s:
        lines.append(f"rate     {progress.images_per_s:.2f} images/s of sampling time")
        if not progress.complete:
            left_s = (progress.num_images - done) / progress.images_per_s
            lines.append(f"left     {duration(left_s)} at that rate")
    lines += (
        [f"picked   {picked_line(found)}"] if found.pick_rates or found.pick_rates_error else []
    )
    if not progress.complete:
        left = progress.num_shards - progress.num_committed_shards
        lines.append(f"held by  {holder_line(found.holder)}")
        lines.append(f"to do    {plural(left, 'shard')}; run `nightpress run` on its job to resume")
    return "\n".join([*lines, *scores_lines(found)])


def model_lines(found: RunStatus) -> Iterator[str]:
    """The model; of several, one line each with how far it is."""
    if not found.models:
        yield f"model    {found.model} {found.model_fingerprint[:12]}"
    for number, each in enumerate(found.models):
        yield (
            f"{'' if number else 'models':<8} {each.name}: {each.source} {each.fingerprint[:12]}, "
            f"{each.num_done:,} of {plural(each.num_images, 'image')} done"
        )


def scores_lines(found: RunStatus) -> Iterator[str]:
    """How the scores are distributed; which images that was found in, if not in all."""
    scores = found.scores
    if found.scores_error is not None:
        yield f"scores: unknown: {found.scores_error}"
    lines = list(score_lines(scores.scores, found.url, found.has_gates))
    if lines and scores.is_sample:
        images = plural(scores.num_images, "image")
        shards = f"{scores.num_shards:,} of {scores.num_committed_shards:,} committed shards"
        lines[0] += f", of {images} in {shards}"
    yield from lines


def picked_line(found: RunStatus) -> str:
    """`30 of 64 images (46.9%), 11 rejected, by the marks on 45; policy any`."""
    if found.pick_rates is None:
        return f"unknown: the marks cannot be read: {found.pick_rates_error}"
    if not found.pick_rates.rows:
        return "nothing yet"
    whole = found.pick_rates.rows[0]
    share = "" if whole.rate is None else f" ({whole.rate:.1%})"
    ignored = len(found.pick_rates.ignored)
    lost = f"; {plural(ignored, 'object')} with marks ignored" if ignored else ""
    return (
        f"{whole.num_picked:,} of {plural(whole.num_images, 'image')}{share}, "
        f"{whole.num_rejected:,} rejected, by the marks on {whole.num_marked:,}; "
        f"policy {found.pick_rates.policy}{lost}"
    )


def scorers_line(found: RunStatus) -> str:
    """`clip 3f2a90c1d7e4, nsfw 81b7aa02c6d1`."""
    return ", ".join(f"{name} {value[:12]}" for name, value in found.scorers.items())


def extended_line(found: RunStatus) -> str:
    """`2 times; 3 images are not in the manifest any more`."""
    times = plural(found.num_editions, "time")
    return times + (f"; {not_in_manifest(found.num_gone)}" if found.num_gone else "")


def spent_line(found: RunStatus) -> str:
    """`12.40 EUR, 0.0021 EUR an image; 4 h 58 min of GPU time in 2 starts`."""
    if found.log_error is not None:
        return f"unknown: the log cannot be read: {found.log_error}"
    kind, spent_s = ("GPU", found.gpu_s) if found.gpu_s else ("actor", found.actor_s)
    time = f"{duration(spent_s)} of {kind} time in {plural(found.num_starts, 'start')}"
    return time if found.cost is None else f"{found.cost}; {time}"


def describe_training(found: TrainingStatus) -> str:
    """The status of a training run, in a few lines."""
    progress = found.progress
    state = "complete" if progress.complete else "not complete"
    step, total = progress.step, progress.max_train_steps
    lines = [
        f"{found.url}  {state}",
        f"recipe      {found.recipe}, {plural(found.num_images, 'image')}",
        f"step        {step:,} of {total:,} ({min(1, step / total):.1%})",
    ]
    if progress.loss is not None:
        lines.append(f"loss        {progress.loss:.4g}")
    if progress.images_per_s:
        lines.append(f"rate        {progress.images_per_s:.1f} images/s")
    if progress.left_s and not progress.complete:
        lines.append(f"left        {duration(progress.left_s)} at that rate")
    if progress.checkpoint is not None:
        lines.append(f"checkpoint  {_checkpoint_line(progress.checkpoint)}")
    lines += [f"samples     {progress.samples}"] if progress.samples else []
    lines += [f"model       {progress.model}/"] if progress.model else []
    lines.append(f"started     {found.created_at}")
    if not progress.complete:
        lines.append(f"held by     {holder_line(found.holder)}")
        lines.append("to do       run `nightpress train` on its job to resume")
    if found.job_steps is not None:
        lines.append(
            f"job file    asks for {found.job_steps:,} steps, unlike the latest start, which was "
            f"asked for {total:,}"
        )
    return "\n".join(lines)


def _checkpoint_line(checkpoint: Checkpoint) -> str:
    age = "" if checkpoint.at is None else f", {duration(max(0.0, age_s(checkpoint.at)))} ago"
    return f"{checkpoint.path} ({size(checkpoint.num_bytes)}{age})"
