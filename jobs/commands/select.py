"""`nightpress select`."""

from dataclasses import asdict

import click
from rich.console import Console

from nightpress.jobs.commands.common import (
    image_target,
    json_option,
    run_argument,
    storage_option,
    storage_options,
)
from nightpress.jobs.commands.image_choice import where_option
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.times import Night, night_options
from nightpress.jobs.errors import OK
from nightpress.jobs.progress.lines import display_for
from nightpress.jobs.runs.select import select
from nightpress.jobs.runs.targets import open_images
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.run_directory.selections.candidates import NO_HASH, no_score
from nightpress.pipelines.run_directory.selections.files import Drop, Selection, selection_path
from nightpress.pipelines.run_directory.selections.vectors import no_embedding
from nightpress.pipelines.run_directory.stored_scores import HOW_TO_SCORE
from nightpress.pipelines.scoring.near_embeddings import DEFAULT_SIMILARITY


@click.command("select")
@run_argument
@click.option("--name", required=True, metavar="NAME", help="Name of the selection.")
@where_option
@click.option(
    "--by",
    metavar="SCORE",
    help="Score that ranks the images, such as clip; -clip puts the lowest first.",
)
@click.option(
    "--dedup",
    type=click.Choice(["exact", "near", "embeddings"]),
    help="Leave out duplicates of images that rank before them: the same bytes or pixels; also "
    "those that look alike; also those whose embeddings are alike.",
)
@click.option(
    "--embeddings",
    metavar="NAME",
    help="Scorer whose embeddings are compared. [default: the only one of the run]",
)
@click.option(
    "--similarity",
    type=float,
    metavar="COSINE",
    help=f"Cosine of two embeddings from which images are duplicates. [default: "
    f"{DEFAULT_SIMILARITY}]",
)
@click.option(
    "--top", type=click.IntRange(min=1), metavar="N", help="Keep only the first N images by rank."
)
@click.option(
    "--per", metavar="COLUMN", help="Keep the first N of each value of a column, such as id."
)
@click.option(
    "--balance",
    metavar="COLUMN",
    help="Keep equally many images of each value of a column, as many as the rarest one has.",
)
@storage_option
@night_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    name: str,
    where: str | None,
    by: str | None,
    dedup: str | None,
    embeddings: str | None,
    similarity: float | None,
    top: int | None,
    per: str | None,
    balance: str | None,
    storage_overrides: tuple[str, ...],
    night: Night,
    as_json: bool,
) -> None:
    """Choose images of RUN, and keep the choice in it as selections/NAME.parquet.

    RUN is the URL of a run directory, or its job file. What is asked for applies in the order
    --where, --dedup, --top, --balance. Every image that is not chosen is counted with its reason.
    No image is deleted or changed, and a selection is never overwritten.
    """
    target = image_target(run, storage_overrides, night)
    opened = open_images(target, storage_options(storage_overrides))
    with display_for(Console(stderr=True)) as display:
        selection = select(
            opened,
            name,
            display.show,
            where=where,
            by=by,
            dedup=dedup,
            embeddings=embeddings,
            similarity=similarity,
            top=top,
            per=per,
            balance=balance,
        )
    text = as_text(selection, opened.url)
    print_and_exit(ctx, OK, as_values(selection, opened.url), text, as_json)


def as_values(selection: Selection, url: str) -> dict[str, object]:
    """The selection as JSON-ready values, without its images."""
    return {
        "url": url,
        "file": f"{url}/{selection_path(selection.name)}",
        "name": selection.name,
        "created_at": selection.created_at,
        "request": selection.request.as_dict(),
        "num_images": selection.num_images,
        "num_committed": selection.num_committed,
        "num_chosen": selection.num_chosen,
        "drops": [asdict(drop) for drop in selection.drops],
        "duplicates": None if selection.duplicates is None else f"{url}/{selection.duplicates}",
    }


def as_text(selection: Selection, url: str) -> str:
    """How many images were chosen, why the others were not, and where the selection lies."""
    of = f"{selection.num_chosen:,} of {plural(selection.num_committed, 'image')}"
    lines = [f"{selection.name}: {of} chosen, in {url}/{selection_path(selection.name)}"]
    if selection.drops:
        lines.append("not chosen:")
        width = max(len(f"{drop.num_images:,}") for drop in selection.drops)
        lines += [f"  {drop.num_images:>{width},}  {_reason(drop)}" for drop in selection.drops]
    if selection.duplicates is not None:
        lines.append(f"what each duplicate is one of: {url}/{selection.duplicates}")
    if missing := _without_scores(selection):
        lines.append(f"{plural(missing, 'image')} could not be judged; {HOW_TO_SCORE}")
    left = selection.num_images - selection.num_committed
    if left:
        lines.append(f"the run is not finished: {plural(left, 'image')} not committed yet")
    return "\n".join(lines)


def _reason(drop: Drop) -> str:
    """`no score clip (0_00, 0_01, 0_02, ...)`."""
    more = ", ..." if drop.num_images > len(drop.examples) else ""
    return f"{drop.reason} ({', '.join(drop.examples)}{more})"


def _without_scores(selection: Selection) -> int:
    """Images that lack a score, a hash or an embedding that was needed."""
    is_missing = (NO_HASH, no_score(""), no_embedding(""))
    return sum(d.num_images for d in selection.drops if d.reason.startswith(is_missing))
