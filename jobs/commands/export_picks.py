"""`nightpress export RUN`: copies of chosen images of a run."""

from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from nightpress.jobs.commands.common import (
    JOB_SUFFIXES,
    image_target,
    sigterm_as_ctrl_c,
    storage_options,
)
from nightpress.jobs.commands.copy_lines import already_there, what_is_missing
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.jobs.progress.lines import display_for
from nightpress.jobs.runs.export_picks import PickCopies, PicksExported, export_picks
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.client_copies import PixelSpec
from nightpress.pipelines.job.reader import read_yaml
from nightpress.pipelines.storage import is_url

OF_SETS = ("overrides", "address", "take_over")
"""Options that only the export of a set has."""

OF_BOTH = ("file", "as_json")

_options = (
    click.option("--to", metavar="URL", help="Folder or URL of the copies, or a file ending .zip."),
    click.option("--selection", metavar="NAME", help="Images of a selection of the run."),
    click.option(
        "--names",
        metavar="TEMPLATE",
        help="Names of the copies, such as {product}/{stars}-{image_id}. [default: {image_id}]",
    ),
    click.option(
        "--resize",
        type=click.IntRange(min=1),
        metavar="PX",
        help="Scale larger images down, so that the longer side has PX pixels.",
    ),
    click.option(
        "--format",
        "format_",
        type=click.Choice(["png", "jpeg", "webp"]),
        help="Format of the copies. [default: that of the images]",
    ),
    click.option(
        "--quality", type=click.IntRange(1, 100), help="Quality of JPEG, and of a lossy WebP."
    ),
    click.option("--contact-sheet", is_flag=True, help="Draw contact sheets, too, as PDF."),
    click.option(
        "--update",
        is_flag=True,
        help="Bring an earlier export in --to up to date; only its own files are removed.",
    ),
)


def pick_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of copies, which the command gets one by one."""
    for option in reversed(_options):
        command = option(command)
    return command


def names_a_run(argument: str) -> bool:
    """Whether the argument of `export` names a run, and not the file of a set.

    Raises:
        SpecError: it is a YAML file that cannot be read.
    """
    path = Path(argument)
    if is_url(argument) or path.is_dir() or path.suffix not in JOB_SUFFIXES:
        return is_url(argument) or path.is_dir() or not path.is_file()
    values = read_yaml(path)
    return "from" not in values and "manifest" in values


def or_of_a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command `export`, which makes copies where its argument is a run."""

    @wraps(command)
    def export_either(ctx: click.Context, /, **options: Any) -> Any:
        is_run = names_a_run(options["file"])
        _refuse_others(ctx, is_run)
        if is_run:
            return _export(ctx, **options)
        return command(ctx, **{name: options[name] for name in (*OF_BOTH, *OF_SETS)})

    return export_either


def _refuse_others(ctx: click.Context, is_run: bool) -> None:
    """Refuse options of the other form.

    Raises:
        UsageError: one was given.
    """
    for parameter in ctx.command.params:
        name = parameter.name or ""
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in OF_BOTH and (name in OF_SETS) == is_run:
            what = (
                "this is a run; the option is one of the export of a set, by its YAML file"
                if is_run
                else "this is the file of a set, which says itself what is exported; the option "
                "is one of the export of a run's images"
            )
            raise click.UsageError(f"{parameter.opts[0]}: {what}")


def _export(
    ctx: click.Context,
    *,
    file: str,
    to: str | None,
    chosen: Any,
    selection: str | None,
    names: str | None,
    resize: int | None,
    format_: Any,
    quality: int | None,
    contact_sheet: bool,
    update: bool,
    storage_overrides: tuple[str, ...],
    night: Any,
    as_json: bool,
    **others: Any,
) -> NoReturn:
    """Make copies of chosen images, and print what was made."""
    if to is None:
        raise SpecError("--to: name the folder, the URL or the zip file of the copies")
    _require_choice(selection, *chosen.values())
    copies = _copies(PixelSpec(resize, format_, quality), names, contact_sheet)
    target = image_target(file, storage_overrides, night)
    sigterm_as_ctrl_c()
    with display_for(Console(stderr=True)) as display:
        result = export_picks(
            target,
            to,
            display.show,
            **chosen,
            selection=selection,
            copies=copies,
            update=update,
            storage=storage_options(storage_overrides),
        )
    code = OK if result.is_complete else SOME_FAILED
    print_and_exit(ctx, code, asdict(result), as_text(result), as_json)


def _copies(pixels: PixelSpec, names: str | None, contact_sheet: bool) -> PickCopies:
    if names is None:
        return PickCopies(pixels=pixels, contact_sheet=contact_sheet)
    return PickCopies(names, pixels, contact_sheet)


def _require_choice(*choices: object) -> None:
    """Refuse to copy all images where no option chooses some.

    Raises:
        SpecError: names the options.
    """
    if all(each is None for each in choices):
        raise SpecError(
            "choose images by --picked, --rejected, --stars, --ids, --where or --selection"
        )


def as_text(result: PicksExported) -> str:
    """What was exported, and what could not be."""
    lines = what_is_missing(result)
    kept = already_there(result)
    if result.table is None:
        lines.append(
            f"not complete: {plural(result.num_findings, 'image')} cannot be copied; run the same "
            "command again when they are there"
        )
        return "\n".join(lines)
    lines.append(f"{plural(result.num_copies, 'image')} in {result.url}{kept}")
    if result.num_removed:
        lines.append(f"{plural(result.num_removed, 'file')} of the earlier export removed")
    lines += ["", f"table     {result.table}"]
    lines += [f"contacts  {name}" for name in result.contact_sheets]
    return "\n".join(lines)
