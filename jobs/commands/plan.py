"""`nightpress plan`."""

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.jobs.commands.common import job_argument, json_option, read_job, set_option
from nightpress.jobs.runs.plan import Plan, plan
from nightpress.pipelines.formatting import duration, plural, size
from nightpress.pipelines.job.spec import RunSpec


@click.command("plan")
@job_argument
@set_option
@json_option
def command(job: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show what JOB would make: images, shards, batches by setting, bytes and time.

    The whole manifest is checked, and nothing is written. Bytes and time are estimated from runs
    under the job's output that used the same weights with the same settings. Ray is not needed:
    batch.size auto is resolved as for a CPU unless cluster.gpus_per_actor is set, and only
    `nightpress run` checks whether the cluster supports model.speed.
    """
    spec = read_job(job, overrides)
    planned = plan(spec)
    if as_json:
        click.echo(json.dumps(as_values(planned)))
    else:
        show(Console(), spec, planned)


def as_values(planned: Plan) -> dict[str, object]:
    """The plan as JSON-ready values."""
    estimate = planned.estimate
    return {
        "run": planned.url,
        "num_rows": planned.num_rows,
        "num_images": planned.num_images,
        "num_shards": planned.num_shards,
        "shard_size": planned.shard_size,
        "batch_size": planned.batch_size,
        "model": planned.model.as_dict(),
        "batches": [
            {**asdict(each.settings), "num_images": each.num_images} for each in planned.batches
        ],
        "prompts": asdict(planned.prompts),
        "estimate": None if estimate is None else asdict(estimate),
    }


def show(console: Console, spec: RunSpec, planned: Plan) -> None:
    """Print the plan for a person."""
    model = planned.model
    lines = [
        f"run      {planned.url}",
        f"model    {model.source} {model.fingerprint[:12]} ({model.pipeline})",
        f"rows     {planned.num_rows:,}",
        f"images   {planned.num_images:,}",
        f"shards   {planned.num_shards:,} of up to {plural(planned.shard_size, 'image')}",
        estimate_line(spec, planned),
        *(f"warning: {text}" for text in planned.prompts.warnings()),
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    console.print(settings_table(planned))


def estimate_line(spec: RunSpec, planned: Plan) -> str:
    """Time and bytes, or why there is no estimate."""
    if planned.estimate is None:
        return "takes    unknown: no run here has used this model with these settings yet"
    actors = spec.cluster.actors if isinstance(spec.cluster.actors, int) else 1
    return (
        f"takes    about {duration(planned.estimate.actor_s / actors)} on "
        f"{plural(actors, 'actor')}, {size(planned.estimate.num_bytes)}"
    )


def settings_table(planned: Plan) -> Table:
    """One line for each combination of settings that can share batches."""
    table = Table("size", "sampler", "steps", "guidance", "images", "batches", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    with_loras = any(each.settings.lora is not None for each in planned.batches)
    if with_loras:
        table.add_column("LoRA")
    for each in planned.batches:
        settings = each.settings
        table.add_row(
            f"{settings.width} x {settings.height}",
            settings.scheduler,
            f"{settings.num_inference_steps}",
            f"{settings.guidance_scale:g}",
            f"{each.num_images:,}",
            f"{-(-each.num_images // planned.batch_size):,}",
            *([_lora(settings)] if with_loras else []),
        )
    return table


def _lora(settings: SamplingParams) -> str:
    return "" if settings.lora is None else f"{settings.lora} at {settings.lora_scale:g}"
