"""`nightpress review`."""

import getpass
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console

from nightpress.jobs.commands.common import (
    image_target,
    json_option,
    run_argument,
    sigterm_as_ctrl_c,
    storage_option,
    storage_options,
)
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.times import Night, night_options
from nightpress.jobs.errors import OK
from nightpress.jobs.progress.events import Message
from nightpress.jobs.progress.lines import display_for
from nightpress.jobs.reviews.imports import MarksImported, import_marks
from nightpress.jobs.reviews.options import ReviewOptions, ServerOptions
from nightpress.jobs.reviews.review import ReviewResult, review
from nightpress.jobs.reviews.reviewed_run import Decided
from nightpress.jobs.reviews.static import StaticPage, write_static_page
from nightpress.jobs.runs.pick_rates import write_rates
from nightpress.jobs.runs.shared import OnEvent
from nightpress.jobs.runs.targets import ImageTarget
from nightpress.pipelines.errors import MarksError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.reporting.pick_rates import ALL, PICK_RATES_FILE, PickRates
from nightpress.pipelines.reporting.picks import PickRow
from nightpress.pipelines.run_directory.marks import checked_reviewer
from nightpress.pipelines.run_directory.marks_merge import POLICIES
from nightpress.pipelines.storage import Options


@click.command("review")
@run_argument
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen at; 0 is any that is free. [default: one that the run and the reviewer "
    "decide]",
)
@click.option("--no-open", is_flag=True, help="Only print the address; open no browser.")
@click.option("--read-only", is_flag=True, help="Show the images, and write nothing.")
@click.option(
    "--listen",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at, such as 0.0.0.0 for other machines of a network that you trust.",
)
@click.option(
    "--reviewer",
    metavar="NAME",
    help="Name under which the marks that are made on the page are stored. [default: the name of "
    "the user]",
)
@click.option(
    "--policy",
    type=click.Choice(POLICIES),
    default="any",
    show_default=True,
    help="Whose picks count: the page and what is said at the end go by it.",
)
@click.option("--lead", metavar="NAME", help="With --policy lead, the reviewer who decides.")
@click.option("--blind", is_flag=True, help="Hide the marks of other reviewers from this one.")
@click.option(
    "--group-by",
    metavar="COLUMN",
    help="Column by which images are stacked, such as id. [default: review.group_by of the job]",
)
@click.option("--no-thumbs", is_flag=True, help="Do not make the thumbnails that are missing.")
@click.option(
    "--static",
    is_flag=True,
    help="Write the page as one file, review.html, into the run, and serve nothing.",
)
@click.option(
    "--images-at",
    metavar="URL",
    help="With --static, where browsers find the run directory. [default: beside the page]",
)
@click.option(
    "--import",
    "import_file",
    metavar="FILE",
    help="Store the marks that a page without a server has saved, and show nothing.",
)
@click.option(
    "--rates",
    is_flag=True,
    help="Show how many images are picked, by setting and column, and write that into the report.",
)
@storage_option
@night_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    run: str,
    import_file: str | None,
    static: bool,
    rates: bool,
    storage_overrides: tuple[str, ...],
    night: Night,
    as_json: bool,
    **others: Any,
) -> None:
    """Show the images of RUN in a browser, to pick, reject, rate and comment on them.

    RUN is the URL of a run directory, or its job file; it may be in progress. The page is served on
    this machine until Ctrl-C. Its address has a token that opens it once. Marks are stored in
    review/marks/ of the run as they are made, and no image is changed. --json goes with --rates,
    --import and --static.
    """
    _refuse_json(as_json and not (rates or static or import_file is not None))
    target = image_target(run, storage_overrides, night)
    storage = storage_options(storage_overrides)
    sigterm_as_ctrl_c()
    with display_for(Console(stderr=True)) as display:
        if import_file is not None:
            _refuse_others(ctx, "--import", WITH_IMPORT)
            imported = import_marks(target, import_file, display.show, storage=storage)
            found = asdict(imported), as_text(imported)
        elif rates:
            _refuse_others(ctx, "--rates", WITH_RATES)
            counted = write_rates(target, others["policy"], others["lead"], storage=storage)
            found = asdict(counted), rates_as_text(counted)
        elif static:
            _refuse_others(ctx, "--static", WITH_STATIC)
            page = write_static_page(target, _options(**others), display.show, storage=storage)
            found = asdict(page), page_as_text(page)
        else:
            _serve(target, display.show, storage, **others)
            return
    print_and_exit(ctx, OK, *found, as_json)


def _refuse_json(refused: bool) -> None:
    if refused:
        raise click.UsageError("--json goes with --rates, --import or --static")


def _serve(target: ImageTarget, show: OnEvent, storage: Options | None, **others: Any) -> None:
    """Serve the page until it is stopped, and say what it came to."""
    _refuse_images_at(others["images_at"])
    server = ServerOptions(others["listen"], others["port"], not others["no_open"])
    result = review(
        target, _options(**others), show, server=server, on_address=click.echo, storage=storage
    )
    show(Message(result_as_text(result, others["policy"])))


def _options(
    reviewer: str | None,
    read_only: bool,
    policy: str,
    lead: str | None,
    blind: bool,
    group_by: str | None,
    no_thumbs: bool,
    images_at: str | None,
    **others: Any,
) -> ReviewOptions:
    """How the run is reviewed, by the command line."""
    name = _user() if reviewer is None else reviewer
    thumbs = not no_thumbs
    return ReviewOptions(name, read_only, policy, lead, blind, group_by, thumbs, images_at)


WITH_IMPORT = ("run", "as_json", "import_file", "storage_overrides", "night")
WITH_RATES = ("run", "as_json", "rates", "policy", "lead", "storage_overrides", "night")
WITH_STATIC = (
    *("run", "as_json", "static", "reviewer", "policy", "lead", "group_by", "no_thumbs"),
    *("images_at", "storage_overrides", "night"),
)


def _refuse_others(ctx: click.Context, option: str, allowed: Collection[str]) -> None:
    """Refuse options that say how a page is served, beside one with which none is."""
    for parameter in ctx.command.params:
        name = parameter.name or ""
        source = ctx.get_parameter_source(name)
        if name not in allowed and source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} does not go with {option}; leave one out")


def _refuse_images_at(url: str | None) -> None:
    if url is not None:
        raise click.UsageError("--images-at is for --static: a served page has the images")


def _user() -> str:
    """The name of the user, if a reviewer can have it.

    Raises:
        MarksError: there is none, or no reviewer can have it.
    """
    try:
        return checked_reviewer(getpass.getuser())
    except (OSError, KeyError, ImportError, MarksError) as error:
        raise MarksError(f"name the reviewer with --reviewer: {error}") from error


def as_text(imported: MarksImported) -> str:
    """How many marks were stored, and what became of the others."""
    marks = plural(imported.num_marks, "mark")
    lines = [f"{marks} of {imported.reviewer}: {imported.num_stored:,} stored in {imported.url}"]
    if known := imported.num_marks - imported.num_stored:
        lines.append(f"{plural(known, 'mark')} known already, or replaced since")
    if imported.num_changed:
        changed = plural(imported.num_changed, "mark")
        lines.append(f"{changed} on images that were made again since: they are not current")
    return "\n".join(lines)


def rates_as_text(rates: PickRates) -> str:
    """A table of the rates, and where they were written."""
    rows = [["column", "value", "images", "marked", "picked", "rate", "95% interval", "cost each"]]
    for each in rates.rows:
        row = PickRow.of(each)
        rows.append(
            [
                *(each.column, row.value if each.column != ALL else "", row.num_images),
                *(row.num_marked, row.num_picked, row.rate, row.interval, row.cost),
            ]
        )
    lines = in_columns(rows, left=2)
    if rates.left_out:
        lines.append(f"too many values to compare: {', '.join(rates.left_out)}")
    lines += [f"ignored: {each}" for each in rates.ignored]
    return "\n".join(
        [
            *lines,
            "",
            f"policy    {rates.policy}",
            "written   report.html",
            f"          {PICK_RATES_FILE}",
        ]
    )


def in_columns(rows: list[list[str]], left: int) -> list[str]:
    """Rows as lines, the first `left` columns aligned to the left and the others to the right."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if n < left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def page_as_text(page: StaticPage) -> str:
    """Where the page is, and what it holds."""
    thumbs = "thumbnails in it" if page.embeds_thumbs else "thumbnails and images beside it"
    return f"{page.url}: {plural(page.num_images, 'image')}, {page.num_bytes:,} bytes, {thumbs}"


def result_as_text(result: ReviewResult, policy: str) -> str:
    """How many marks were stored, and what all marks of the run come to."""
    marks, decided = plural(result.num_marks, "mark"), result.decided
    lines = [f"stopped; {marks} of {result.reviewer} stored in {result.url}"]
    if decided != Decided():
        counts = f"{decided.num_picked:,} picked, {decided.num_rejected:,} rejected"
        lines.append(f"by the policy {policy}: {counts}, {decided.num_disagreeing:,} disputed")
    return "\n".join(lines)
