"""`nightpress score`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from nightpress.jobs.commands.common import (
    address_option,
    image_target,
    json_option,
    run_argument,
    sigterm_as_ctrl_c,
    storage_option,
    storage_options,
)
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.times import Night, night_options
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.jobs.progress.lines import display_for
from nightpress.jobs.runs.score import ScoreResult, score
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.reader import apply_overrides, read_yaml
from nightpress.pipelines.job.scores_section import beside
from nightpress.pipelines.job.spec import RunSpec

MAX_LISTED = 20
"""Images that are named; `--json` names all of them."""


@click.command("score")
@run_argument
@click.option(
    "--scores",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A YAML file with the key scores of a job. [default: the scorers of the job or run]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="A key of scores, such as --set scores.clip.scorer=clip. May be repeated.",
)
@storage_option
@night_options
@address_option
@click.option(
    "--allow-pickle",
    is_flag=True,
    help="Run a Python file that scores images although only the run itself names it.",
)
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    file: Path | None,
    overrides: tuple[str, ...],
    storage_overrides: tuple[str, ...],
    night: Night,
    address: str | None,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Score the images of RUN that lack a score; images and commits are not touched.

    RUN is the URL of a run directory, or its job file. Without --scores and --set the scorers are
    those of the job file, or of the run; images that an older version made are measured as well.
    The scores stand with the others in the metadata as it is read, and the same command goes on
    after an interruption. The exit code is 3 if an image has no score: a scorer failed on it, or it
    is missing or damaged.
    """
    target = image_target(run, storage_overrides, night)
    scores = scores_of(file, overrides)
    sigterm_as_ctrl_c()
    with display_for(Console(stderr=True)) as display:
        result = score(
            target,
            display.show,
            scores=scores,
            address=address,
            allow_pickle=allow_pickle,
            storage=storage_options(storage_overrides),
        )
    code = OK if result.is_complete else SOME_FAILED
    print_and_exit(ctx, code, asdict(result), summary(result), as_json)


def scores_of(file: Path | None, overrides: tuple[str, ...]) -> dict[str, Any] | None:
    """The scorers of a file, with overrides; None if there are neither.

    Raises:
        SpecError: the file or an override is not what it must be.
    """
    if file is None and not overrides:
        return None
    values = {} if file is None else read_yaml(file)
    if file is not None and not isinstance(values.get("scores"), dict):
        raise SpecError(f"{file}: scores: missing; it must be a mapping such as the one of a job")
    values = {"scores": values.get("scores", {})}
    apply_overrides(values, overrides)
    if others := sorted(set(values) - {"scores"}):
        raise SpecError(f"--set {others[0]}: only keys of scores can be set here")
    job = {"name": "run", "output": "none"}  # the rest of a job, which is not read
    spec = RunSpec.from_dict(job | values, where=str(file or "--set"))
    found = beside(spec.scores, file.parent) if file else spec.scores
    return {name: each.model_dump(mode="json") for name, each in found.items()}


def summary(result: ScoreResult) -> str:
    """What was scored, and which images have no score."""
    by = f" by {', '.join(result.scorers)}" if result.scorers else ""
    lines = [f"{result.num_scored:,} of {plural(result.num_images, 'image')} scored now{by}"]
    if result.num_uncommitted:
        left = plural(result.num_uncommitted, "shard")
        lines.append(f"{left} not committed yet: their images are scored by a later call")
    if result.num_missing:
        lines.append(f"{plural(result.num_missing, 'image')} without a score: a scorer failed")
    if result.unreadable:
        names = ", ".join(result.unreadable[:MAX_LISTED])
        more = ", ..." if len(result.unreadable) > MAX_LISTED else ""
        lines.append(
            f"{plural(len(result.unreadable), 'image')} missing or damaged, and their shards left "
            f"alone: {names}{more}; nightpress verify --repair makes them again"
        )
    return "\n".join(lines)
