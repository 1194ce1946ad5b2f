"""`nightpress status`."""

import json
from dataclasses import asdict

import click

from jobs.commands.common import json_option, open_run_argument, run_argument, storage_option
from pipelines.runs import Run, RunProgress
from pipelines.wording import duration, plural, size


@click.command("status")
@run_argument
@storage_option
@json_option
def command(run: str, storage: tuple[str, ...], as_json: bool) -> None:
    """Say how far RUN is: the URL of a run directory, or its job file.

    Everything is read from the store; the machine that makes the run is not asked.
    """
    opened = open_run_argument(run, storage)
    progress = opened.progress()
    click.echo(json.dumps(as_values(opened, progress)) if as_json else describe(opened, progress))


def as_values(run: Run, progress: RunProgress) -> dict[str, object]:
    """The status as JSON-ready values."""
    return {"url": run.url, "created_at": run.record.created_at, **asdict(progress)}


def describe(run: Run, progress: RunProgress) -> str:
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
        lines.append(f"rate     {progress.images_per_s:.2f} images/s")
        if not progress.complete:
            left_s = (progress.num_images - done) / progress.images_per_s
            lines.append(f"left     {duration(left_s)} at that rate")
    if not progress.complete:
        left = progress.num_shards - progress.num_committed_shards
        lines.append(f"to do    {plural(left, 'shard')}; `nightpress run` of its job goes on")
    return "\n".join(lines)
