"""`nightpress preview`."""

from pathlib import Path

import click

from nightpress.jobs.commands.common import job_options, read_job, require_writable
from nightpress.jobs.commands.times import Night, night_options
from nightpress.jobs.progress.lines import event_line
from nightpress.jobs.runs.preview import preview


@click.command("preview")
@job_options
@night_options
@click.option(
    "-n",
    "num_images",
    type=click.IntRange(1, 400),
    default=16,
    show_default=True,
    help="Number of images.",
)
@click.option(
    "--by",
    metavar="COLUMN[,COLUMN]",
    help="Columns whose values the images are spread over. [default: the settings, and the other "
    "columns with few values]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PNG file to write. [default: <name>-preview.png]",
)
def command(
    job: str,
    overrides: tuple[str, ...],
    address: str | None,
    night: Night,
    num_images: int,
    by: str | None,
    output: Path | None,
) -> None:
    """Make a contact sheet of a few images of JOB before the long run.

    The images show as many values of the manifest's columns as possible, and are the same each
    time. They have the same pixels as in the run. No run is started, and only the sheet is written.
    """
    spec = read_job(job, overrides, address, night)
    path = output or Path(f"{spec.name}-preview.png")
    if path.suffix.lower() != ".png":
        raise click.UsageError(f"-o {path}: the sheet is a PNG file, so the name must end in .png")
    require_writable("-o", path)
    sheet = preview(
        spec,
        num_images,
        by=column_names(by),
        on_event=lambda event: click.echo(event_line(event), err=True),
    )
    try:
        sheet.save(path)
    except OSError as error:  # the disk is full, or has gone
        raise click.FileError(str(path), error.strerror or str(error)) from error
    click.echo(f"wrote {path}")


def column_names(text: str | None) -> list[str] | None:
    """The names in a list such as `scene,width`; None for None.

    Raises:
        UsageError: there is no name in it.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--by: name at least one column, such as --by scene,width")
    return names
