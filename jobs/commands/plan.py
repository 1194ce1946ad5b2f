"""`nightpress plan`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import tzinfo

import click
from rich.console import Console
from rich.table import Table

from nightpress.diffusion_core.conditioning.edits import samples_alone
from nightpress.diffusion_core.conditioning.spec import TEXT_ALONE
from nightpress.diffusion_core.sampling.request import SamplingParams
from nightpress.jobs.commands.common import (
    extend_options,
    job_argument,
    json_option,
    read_job,
    set_option,
)
from nightpress.jobs.commands.holder_lines import holder_line, holder_values, not_in_manifest
from nightpress.jobs.commands.json_output import print_result
from nightpress.jobs.commands.model_lines import (
    batch_values,
    model_lines,
    model_values,
    weight_values,
)
from nightpress.jobs.commands.times import (
    Night,
    PlannedDeadline,
    PlannedTimes,
    local_text,
    night_options,
    zone_of,
)
from nightpress.jobs.errors import BAD_INPUT, OK
from nightpress.jobs.errors import exit_code as code_of
from nightpress.jobs.runs.column_lines import carried_line, near_misses, settings_line
from nightpress.jobs.runs.existing_run import RunState, State
from nightpress.jobs.runs.extend_options import ExtendOptions
from nightpress.jobs.runs.extension import Extension
from nightpress.jobs.runs.forecast import (
    COUNTED,
    forecast_lines,
    forecast_values,
    planned_actors,
)
from nightpress.jobs.runs.gates import gate_lines
from nightpress.jobs.runs.mode_lines import conditions, makes_text_only, mode_counts, pictures_line
from nightpress.jobs.runs.plan import Plan, PlannedFile, plan
from nightpress.jobs.runs.scorers import scorer_lines
from nightpress.pipelines.errors import ChangedRunError, ManifestGrown
from nightpress.pipelines.formatting import duration, plural, size
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.planning import SettingsCount
from nightpress.pipelines.storage.urls import public

MAX_FILES = 10
"""How many of the manifest's files are listed for a person."""


@click.command("plan")
@job_argument
@set_option
@click.option(
    "--deadline",
    type=PlannedDeadline(),
    metavar="TIME",
    help="Say what will be made by this time, such as 06:30 or 2027-01-15T06:30, if the run starts "
    "now; of a window such as 22:00-06:30 that is not open, if it starts when it opens.",
)
@night_options
@extend_options(
    "Show what `nightpress run --extend` would make: the images that the manifest has gained since "
    "the run was planned. Nothing is written."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    job: str,
    overrides: tuple[str, ...],
    deadline: PlannedTimes | None,
    night: Night,
    growing: ExtendOptions,
    as_json: bool,
) -> None:
    """Show what JOB would make: images, shards, batches by setting, bytes and time.

    Says first how far the run is, if it was started before, and what each file and column of the
    manifest is read as. If `nightpress run` would refuse the job, because it has changed since the
    run was started or the output cannot be reached, the exit code is that of `nightpress run` with
    the same --extend and --changed.

    The whole manifest is checked, with the pictures that it names (see the key inputs.check), and
    nothing is written. Bytes and time are estimated from runs
    under the job's output that used the same weights with the same settings. Ray is not needed:
    batch.size auto is resolved as for a CPU unless cluster.gpus_per_actor is set, and only
    `nightpress run` checks whether the cluster supports model.speed.
    """
    spec = read_job(job, overrides, night=night)
    planned = plan(
        spec,
        extend=growing.extend,
        changed=growing.changed,
        deadline_at=None if deadline is None else deadline.ends_at,
        starts_at=None if deadline is None else deadline.starts_at,
    )
    if as_json:
        print_result(
            as_values(planned) | {"error": _refusal_values(planned)}, exit_code(planned.run_state)
        )
    else:
        show(Console(), spec, planned, zone_of(ctx))
        if refusal := refusal_line(planned):
            click.echo(f"error: {refusal}", err=True)
    ctx.exit(exit_code(planned.run_state))


def as_values(planned: Plan) -> dict[str, object]:
    """The plan as JSON-ready values."""
    estimate = planned.estimate
    state = planned.run_state
    return {
        "run": planned.url,
        "num_rows": planned.num_rows,
        "num_images": planned.num_images,
        "num_shards": planned.num_shards,
        "shard_size": planned.shard_size,
        "batch_size": planned.batch_size,
        "model": planned.model.as_dict(),
        "weights": weight_values(planned.weights),
        "models": model_values(planned),
        "batches": list(map(batch_values, planned.batches)),
        "prompts": planned.prompts.as_dict(),
        "modes": dict(planned.modes),
        "num_pictures": planned.num_pictures,
        "scorers": {name: asdict(info) for name, info in planned.scorers.items()},
        "draws": None if planned.draws is None else asdict(planned.draws),
        "estimate": None if estimate is None else asdict(estimate),
        "cost": None if planned.cost is None else asdict(planned.cost),
        "forecast": None if planned.forecast is None else forecast_values(planned.forecast),
        "auto_speed": list(planned.auto_speed),
        "unread_runs": list(planned.unread_runs),
        "run_state": {
            "state": state.state.value,
            "num_done": state.num_done,
            "num_failed": state.num_failed,
            "num_images": state.num_images,
            "holder": None if state.holder is None else holder_values(state.holder),
            "changes": [asdict(change) for change in state.changes],
            "growth": _growth_values(state),
            "num_gone": state.num_gone,
            "error": None if state.error is None else str(state.error),
        },
        "files": [asdict(file) for file in planned.files],
        "columns": [asdict(use) for use in planned.columns],
        "file_names": list(planned.file_names),
    }


def _growth_values(state: RunState) -> dict[str, object] | None:
    """What extending the run would add, if only the rows of the manifest have changed."""
    if state.growth is None:
        return None
    images = state.growth.growth.summary.as_dict()
    return {"num_images": state.growth.num_images, "images": images}


def show(console: Console, spec: RunSpec, planned: Plan, zone: tzinfo) -> None:
    """Print the plan for a person, whose clock is that of `zone`."""
    lines = [
        f"run      {planned.url}",
        *state_lines(planned.run_state),
        *file_lines(planned.files),
        *(f"note     {note}" for file in planned.files for note in file.notes),
        f"reads    {settings_line(planned.columns)}",
        *[f"carries  {line}" for line in [carried_line(planned.columns)] if line],
        *[f"warning  {line}" for line in near_misses(planned.columns)],
        *model_lines(spec, planned),
        *(f"speed    {line}" for line in planned.auto_speed),
        f"rows     {planned.num_rows:,}",
        f"images   {planned.num_images:,}{_by_mode(planned)}",
        *picture_lines(spec, planned),
        *(f"scores   {line}" for line in scorer_lines(spec.scores, planned.scorers)),
        *(f"gates    {line}" for line in gate_lines(spec.gates, planned.draws)),
        f"names    {', '.join(planned.file_names)}",
        f"shards   {planned.num_shards:,} of up to {plural(planned.shard_size, 'image')}",
        estimate_line(spec, planned),
        *cost_lines(planned),
        *deadline_lines(planned, zone),
        *(f"warning  left out of the estimate: {reason}" for reason in planned.unread_runs),
        *(f"warning  {text}" for text in planned.prompts.warnings()),
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    console.print(settings_table(planned))


def _by_mode(planned: Plan) -> str:
    return "" if makes_text_only(planned.modes) else f": {mode_counts(planned.modes)}"


def picture_lines(spec: RunSpec, planned: Plan) -> list[str]:
    """The pictures that condition images, and what was checked about them."""
    if makes_text_only(planned.modes):
        return []
    if planned.run_state.state in (State.NEW, State.UNREADABLE):
        return [f"inputs   {pictures_line(planned.num_pictures, spec.inputs.check)}"]
    return ["inputs   not checked again, as the run has begun"]


def state_lines(state: RunState) -> list[str]:
    """How far the run is, and whether `nightpress run` would refuse the job."""
    done = f"{state.num_done:,} of {state.num_images:,} images are done"
    done += f", {state.num_failed:,} of them failed" if state.num_failed else ""
    done += f"; {not_in_manifest(state.num_gone)}" if state.num_gone else ""
    match state.state:
        case State.NEW:
            return []
        case State.UNREADABLE:
            return [f"state    unknown: {state.error}"]
        case State.GROWS if state.growth is not None:
            return [
                f"state    its manifest has changed since it was planned; {done}",
                *(f"         {line}" for line in state.growth.lines()),
            ]
        case State.CHANGED if state.refusal is not None:
            return [
                f"state    its manifest has changed since it was planned; {done}",
                *(f"         {line}" for line in state.refusal.lines),
                *([f"         {would_add(state.growth)}"] if state.growth is not None else []),
            ]
        case State.CHANGED:
            return [
                f"state    changed since it was started, so `nightpress run` refuses it; {done}",
                *(f"         {change}" for change in state.changes),
            ]
        case State.HELD:
            return [f"state    held by {holder_line(state.holder)}; {done}"]
        case _:
            return [f"state    {state.state}: {done}"]


def would_add(growth: Extension) -> str:
    """`would add 10 images; run with --extend`, or what else `run` would do."""
    if growth.growth.summary.changed.number:
        return "would refuse the changed images, or make them again with --changed new-variant"
    if not growth.num_images:
        return "would make nothing, and record the manifest; run with --extend"
    return f"would add {plural(growth.num_images, 'image')}; run with --extend"


def file_lines(files: Sequence[PlannedFile]) -> list[str]:
    """The manifest's files, each with its format and rows; the first few if there are many."""
    lines = [
        f"{public(file.url)} ({format_name(file)}, {plural(file.num_rows, 'row')})"
        for file in files[:MAX_FILES]
    ]
    if len(files) > 1:
        counts = Counter(map(format_name, files))
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in counts.items())
        lines.insert(0, f"{plural(len(files), 'file')}: {kinds}")
    if len(files) > MAX_FILES:
        lines.append(f"... and {len(files) - MAX_FILES:,} more")
    return [f"{'' if number else 'manifest':<8} {line}" for number, line in enumerate(lines)]


def format_name(file: PlannedFile) -> str:
    """`csv`, or `csv in gzip`."""
    return file.format if file.compression is None else f"{file.format} in {file.compression}"


def refusal_line(planned: Plan) -> str | None:
    """Why `nightpress run` would refuse the job; None if it would not."""
    match planned.run_state.state:
        case State.CHANGED if planned.run_state.refusal is not None:
            return planned.run_state.refusal.brief
        case State.CHANGED:
            return (
                f"{planned.url} was started with a different job; restore the old values, or give "
                "this job another name"
            )
        case State.UNREADABLE:
            return str(planned.run_state.error)
        case _:
            return None


def _refusal_values(planned: Plan) -> dict[str, str] | None:
    """The refusal as an error in JSON; None if `nightpress run` would not refuse the job."""
    message, error = refusal_line(planned), planned.run_state.error
    if message is None:
        return None
    grew = ManifestGrown if planned.run_state.refusal is not None else ChangedRunError
    kind = grew if error is None else type(error)
    return {"type": kind.__name__, "message": message}


def exit_code(state: RunState) -> int:
    """The exit code with which `nightpress run` would refuse the job; 0 if it would not."""
    if state.error is not None:
        return code_of(state.error)
    return BAD_INPUT if state.state is State.CHANGED else OK


def estimate_line(spec: RunSpec, planned: Plan) -> str:
    """Time and bytes, or why there is no estimate."""
    growth = planned.run_state.growth
    if growth is not None and not growth.num_images:
        return "takes    nothing: there are no new images to make"
    if planned.estimate is None:
        if planned.run_state.state is State.UNREADABLE:
            return "takes    unknown: earlier runs cannot be read"
        return "takes    unknown: no run here has used this model with these settings yet"
    actors = planned_actors(spec)
    what = "" if growth is None else f" for the {plural(growth.num_images, 'image')} to add"
    if planned.draws is not None and planned.draws.expected is None:
        what += f", if {plural(spec.gates.best_of if spec.gates else 1, 'draw')} of each will do"
    scoring = planned.estimate.scoring
    what += "" if scoring == "none" else f", for {COUNTED[scoring]}"
    return (
        f"takes    about {duration(planned.estimate.actor_s / actors)} on "
        f"{plural(actors, 'actor')}, {size(planned.estimate.num_bytes)}{what}"
    )


def cost_lines(planned: Plan) -> list[str]:
    """What the images would cost; loading models and waiting come on top."""
    if planned.cost is None or planned.estimate is None:
        return []
    counted, _, _ = COUNTED[planned.estimate.scoring].partition(";")
    return [f"costs    about {planned.cost}, for {counted}"]


def deadline_lines(planned: Plan, zone: tzinfo) -> list[str]:
    """How far the run gets by the deadline; nothing without one."""
    if planned.forecast is None:
        return []
    first, *rest = forecast_lines(planned.forecast)
    clock = local_text(planned.forecast.deadline_at, zone)
    return [f"deadline by {clock}: {first}", *(f"         {line}" for line in rest)]


def settings_table(planned: Plan) -> Table:
    """One line for each combination of settings that can share batches."""
    table = Table("size", "sampler", "steps", "guidance", "images", "batches", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    with_loras = any(each.settings.lora is not None for each in planned.batches)
    with_pictures = any(each.settings.conditioning != TEXT_ALONE for each in planned.batches)
    if with_loras and not with_pictures:
        table.add_column("LoRA")
    if with_pictures:
        table.add_column("mode", overflow="fold")
    by_model = any(each.model is not None for each in planned.batches)
    if by_model:
        table.add_column("model")
    for each in planned.batches:
        settings = each.settings
        table.add_row(
            _sizes(settings),
            settings.scheduler,
            f"{settings.num_inference_steps}",
            f"{settings.guidance_scale:g}",
            f"{each.num_images:,}",
            f"{_num_batches(planned, each):,}",
            *([_lora(settings)] if with_loras and not with_pictures else []),
            *([conditions(settings)] if with_pictures else []),
            *([each.model or ""] if by_model else []),
        )
    return table


def _num_batches(planned: Plan, each: SettingsCount) -> int:
    info = next(model.info for model in planned.models if model.name == each.model)
    alone = samples_alone(info.pipeline, each.settings.conditioning)
    return -(-each.num_images // (1 if alone else planned.batch_size))


def _sizes(settings: SamplingParams) -> str:
    """`64 x 64`, or `64 x 64 to 96 x 96` with passes."""
    first = f"{settings.width} x {settings.height}"
    return f"{first} to {' x '.join(map(str, settings.final_size))}" if settings.passes else first


def _lora(settings: SamplingParams) -> str:
    return "" if settings.lora is None else f"{settings.lora} at {settings.lora_scale:g}"
