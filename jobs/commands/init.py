"""`nightpress init`."""

from importlib.resources import files
from pathlib import Path

import click


@click.command("init")
@click.argument("job", type=click.Path(dir_okay=False, path_type=Path), default="job.yaml")
@click.option("--force", is_flag=True, help="Replace the files if they exist.")
def command(job: Path, force: bool) -> None:
    """Write a commented example of a job file to JOB, and the prompts it names beside it.

    The example runs as it is: `nightpress run job.yaml`.
    """
    prompts = job.parent / "prompts.txt"
    taken = [str(path) for path in (job, prompts) if path.exists()]
    if taken and not force:
        raise click.UsageError(f"{' and '.join(taken)} exists already; --force replaces it")
    try:
        _write(job, prompts)
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from error
    click.echo(f"wrote {job} and {prompts}; next: nightpress run {job}")


def _write(job: Path, prompts: Path) -> None:
    examples = files("jobs") / "examples"
    text = (examples / "commented.yaml").read_text(encoding="utf-8")
    job.parent.mkdir(parents=True, exist_ok=True)
    job.write_text(
        text.replace("manifest: prompts.txt", f"manifest: {prompts.as_posix()}"), encoding="utf-8"
    )
    prompts.write_text((examples / "prompts.txt").read_text(encoding="utf-8"), encoding="utf-8")
