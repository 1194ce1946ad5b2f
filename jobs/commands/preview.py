"""`nightpress preview`."""

from pathlib import Path

import click

from nightpress.jobs.commands.common import job_options, read_job, require_writable
from nightpress.jobs.runs.preview import preview


@click.command("preview")
@job_options
@click.option("-n", "num_images", type=click.IntRange(1, 400), default=16, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The PNG to write. [default: <name>-preview.png]",
)
def command(
    job: str,
    overrides: tuple[str, ...],
    address: str | None,
    num_images: int,
    output: Path | None,
) -> None:
    """Make a contact sheet of a spread of JOB's rows before the long run.

    The rows are evenly spread over the whole job, and their pixels are those that the run makes.
    """
    spec = read_job(job, overrides, address)
    path = output or Path(f"{spec.name}-preview.png")
    if path.suffix.lower() != ".png":
        raise click.UsageError(f"-o {path}: the sheet is a PNG; let its name end in .png")
    require_writable("-o", path)
    preview(spec, num_images).save(path)
    click.echo(f"wrote {path}")
