"""`nightpress preview`."""

from pathlib import Path

import click

from nightpress.jobs.commands.common import job_options, read_job, require_writable
from nightpress.jobs.runs.preview import preview


@click.command("preview")
@job_options
@click.option(
    "-n",
    "num_images",
    type=click.IntRange(1, 400),
    default=16,
    show_default=True,
    help="Number of images.",
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
    num_images: int,
    output: Path | None,
) -> None:
    """Make a contact sheet of evenly spread rows of JOB before the long run.

    The images have the same pixels as in the run. No run is started, and only the sheet is written.
    """
    spec = read_job(job, overrides, address)
    path = output or Path(f"{spec.name}-preview.png")
    if path.suffix.lower() != ".png":
        raise click.UsageError(f"-o {path}: the sheet is a PNG file, so the name must end in .png")
    require_writable("-o", path)
    preview(spec, num_images).save(path)
    click.echo(f"wrote {path}")
