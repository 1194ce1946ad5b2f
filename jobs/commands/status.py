"""`nightpress status`."""

import json
import math
from dataclasses import asdict

import click

from nightpress.jobs.commands.common import (
    json_option,
    open_run_argument,
    run_argument,
    storage_option,
)
from nightpress.pipelines.formatting import duration, plural, size
from nightpress.pipelines.run_directory.lease import Holder, last_holder
from nightpress.pipelines.run_directory.reader import Run, RunProgress
from nightpress.pipelines.training.runs import Checkpoint, TrainingProgress, TrainingRun, age_s


@click.command("status")
@run_argument
@storage_option
@json_option
def command(run: str, storage: tuple[str, ...], as_json: bool) -> None:
    """Say how far RUN is, of images or of training: the URL of a run directory, or its job file.

    Everything is read from the store; the machine that makes the run is not asked.
    """
    opened = open_run_argument(run, storage)
    values: dict[str, object] = {"url": opened.url, "created_at": opened.record.created_at}
    claim = last_holder(opened.store)
    values["holder"] = None if claim is None or claim.is_dead else holder_values(claim)
    if isinstance(opened, TrainingRun):
        training = opened.progress()
        values |= {"recipe": opened.recipe, **finite(asdict(training))}
        text = describe_training(opened, training, claim)
    else:
        progress = opened.progress()
        values |= asdict(progress)
        text = describe(opened, progress, claim)
    click.echo(json.dumps(values) if as_json else text)


def holder_values(claim: Holder) -> dict[str, object]:
    """Who may be working on it, for programs."""
    return {name: getattr(claim, name) for name in ("host", "user", "pid", "since", "beats")}


def holder_line(claim: Holder | None) -> str:
    """Who may be working on it, by the last heartbeat in the store."""
    if claim is None or claim.is_dead:
        return "nobody"
    return f"{claim}, heartbeat {claim.beats:,}"


def finite(values: dict[str, object]) -> dict[str, object]:
    """The values with null in place of numbers that JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def describe(run: Run, progress: RunProgress, claim: Holder | None) -> str:
    """The status in a few lines."""
    done = progress.num_ok + progress.num_failed
    share = done / progress.num_images if progress.num_images else 1.0
    state = "complete" if progress.complete else "not complete"
    total, failed = progress.num_images, progress.num_failed
    lines = [
        f"{run.url}  {state}",
        f"images   {done:,} of {total:,} ({share:.1%}), {failed:,} failed",
        f"shards   {progress.num_committed_shards:,} of {progress.num_shards:,} committed",
        f"stored   {size(progress.num_bytes)}",
        f"model    {run.record.model.source} {run.record.model.fingerprint[:12]}",
        f"begun    {run.record.created_at}",
    ]
    if progress.images_per_s:
        lines.append(f"rate     {progress.images_per_s:.2f} images/s of sampling time")
        if not progress.complete:
            left_s = (progress.num_images - done) / progress.images_per_s
            lines.append(f"left     {duration(left_s)} at that rate")
    if not progress.complete:
        left = progress.num_shards - progress.num_committed_shards
        lines.append(f"held by  {holder_line(claim)}")
        lines.append(f"to do    {plural(left, 'shard')}; `nightpress run` of its job goes on")
    return "\n".join(lines)


def describe_training(run: TrainingRun, progress: TrainingProgress, claim: Holder | None) -> str:
    """The status of a training in a few lines."""
    state = "complete" if progress.complete else "not complete"
    step, total = progress.step, progress.max_train_steps
    lines = [
        f"{run.url}  {state}",
        f"recipe      {run.recipe}, {plural(run.record.num_images, 'picture')}",
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
    lines.append(f"begun       {run.record.created_at}")
    if not progress.complete:
        lines.append(f"held by     {holder_line(claim)}")
        lines.append("to do       `nightpress train` of its job goes on")
    return "\n".join(lines)


def _checkpoint_line(checkpoint: Checkpoint) -> str:
    age = "" if checkpoint.at is None else f", {duration(max(0.0, age_s(checkpoint.at)))} ago"
    return f"{checkpoint.path} ({size(checkpoint.num_bytes)}{age})"
