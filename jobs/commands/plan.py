"""`nightpress plan`."""

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from nightpress.diffusion_core.models.loading import ModelInfo, describe
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.jobs.commands.common import job_argument, json_option, read_job, set_option
from nightpress.jobs.dispatch.batch_size import resolve_batch_size
from nightpress.pipelines.formatting import duration, plural, size
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.models.location import locate
from nightpress.pipelines.models.loras import locate_loras
from nightpress.pipelines.planning import PlanLayout, check
from nightpress.pipelines.run_directory.estimate import Estimate, estimate, measured_rates
from nightpress.pipelines.storage import find


@click.command("plan")
@job_argument
@set_option
@json_option
def command(job: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say what JOB would make: images, shards, batches by setting, bytes and time.

    The whole manifest is validated, and nothing is written. Bytes and time are estimated from
    the runs under the job's output that used the same weights at the same settings. The cluster
    is not asked: `batch.size: auto` counts as on a CPU unless `cluster.gpus_per_actor` is set, and
    as where it is not measured; and whether its machines have what `model.speed` needs, `run` finds
    out.
    """
    spec = read_job(job, overrides)
    find(spec.manifests, spec.storage)
    model = describe(
        locate(spec.model, spec.storage),
        spec.model,
        locate_loras(spec.model, spec.storage),
        elsewhere=True,
    )
    batch_size = planned_batch_size(spec)
    layout = check(spec, model, batch_size)
    guess = estimate(layout.batches, measured_rates(spec, model.fingerprint))
    if as_json:
        click.echo(json.dumps(as_values(spec, model, layout, batch_size, guess)))
    else:
        show(Console(), spec, model, layout, batch_size, guess)


def planned_batch_size(spec: RunSpec) -> int:
    """`batch.size`, with `auto` resolved as far as it can be without the cluster."""
    return resolve_batch_size(spec, "cpu" if spec.cluster.gpus_per_actor in ("auto", 0) else "cuda")


def as_values(
    spec: RunSpec, model: ModelInfo, layout: PlanLayout, batch_size: int, guess: Estimate | None
) -> dict[str, object]:
    """The plan as JSON-ready values."""
    return {
        "run": spec.url,
        "num_rows": layout.num_rows,
        "num_images": layout.num_images,
        "num_shards": layout.num_shards,
        "shard_size": layout.shard_size,
        "batch_size": batch_size,
        "model": model.as_dict(),
        "batches": [
            {**asdict(each.settings), "num_images": each.num_images} for each in layout.batches
        ],
        "estimate": None if guess is None else asdict(guess),
    }


def show(
    console: Console,
    spec: RunSpec,
    model: ModelInfo,
    layout: PlanLayout,
    batch_size: int,
    guess: Estimate | None,
) -> None:
    """The plan as a person reads it."""
    lines = [
        f"run      {spec.url}",
        f"model    {model.source} {model.fingerprint[:12]} ({model.pipeline})",
        f"rows     {layout.num_rows:,}",
        f"images   {layout.num_images:,}",
        f"shards   {layout.num_shards:,} of up to {plural(layout.shard_size, 'image')}",
        estimate_line(spec, guess),
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    console.print(settings_table(layout, batch_size))


def estimate_line(spec: RunSpec, guess: Estimate | None) -> str:
    """Bytes and time, or why there is no estimate."""
    if guess is None:
        return "takes    unknown: no run here has used this model at these settings yet"
    actors = spec.cluster.actors if isinstance(spec.cluster.actors, int) else 1
    return (
        f"takes    about {duration(guess.actor_s / actors)} on {plural(actors, 'actor')}, "
        f"{size(guess.num_bytes)}"
    )


def settings_table(layout: PlanLayout, batch_size: int) -> Table:
    """A line for each setting that shares batches."""
    table = Table("size", "sampler", "steps", "guidance", "images", "batches", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    with_loras = any(each.settings.lora is not None for each in layout.batches)
    if with_loras:
        table.add_column("LoRA")
    for each in layout.batches:
        settings = each.settings
        table.add_row(
            f"{settings.width} x {settings.height}",
            settings.scheduler,
            f"{settings.num_inference_steps}",
            f"{settings.guidance_scale:g}",
            f"{each.num_images:,}",
            f"{-(-each.num_images // batch_size):,}",
            *([_lora(settings)] if with_loras else []),
        )
    return table


def _lora(settings: SamplingParams) -> str:
    return "" if settings.lora is None else f"{settings.lora} at {settings.lora_scale:g}"
