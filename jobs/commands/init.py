"""`nightpress init`."""

from importlib.resources import files
from pathlib import Path

import click

RECIPES = ("autoencoder", "denoiser", "lora", "controlnet")


@click.command("init")
@click.argument("job", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option(
    "--recipe", type=click.Choice(RECIPES), help="Write a training job with this recipe instead."
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
def command(job: Path | None, recipe: str | None, force: bool) -> None:
    """Write a commented example job file to JOB.

    JOB defaults to job.yaml, and its prompts are written next to it. The example runs as it is:
    `nightpress run job.yaml`. With --recipe, JOB is a training job and defaults to <recipe>.yaml;
    set data.source in it to where your images are.
    """
    if recipe is not None:
        _init_training(job or Path(f"{recipe}.yaml"), recipe, force)
    else:
        _init_run(job or Path("job.yaml"), force)


def _init_run(job: Path, force: bool) -> None:
    prompts = job.parent / "prompts.txt"
    text = _example("commented.yaml").replace(
        "manifest: prompts.txt", f"manifest: {prompts.as_posix()}"
    )
    _write({job: text, prompts: _example("prompts.txt")}, force)
    click.echo(f"wrote {job} and {prompts}; next: nightpress run {job}")


def _init_training(job: Path, recipe: str, force: bool) -> None:
    text = _example(f"train-{recipe}.yaml").replace(
        f"nightpress train {recipe}.yaml", f"nightpress train {job.as_posix()}"
    )
    _write({job: text}, force)
    click.echo(
        f"wrote {job}; next: set data.source to your images, then run nightpress train {job}"
    )


def _example(name: str) -> str:
    return (files("nightpress.jobs") / "examples" / name).read_text(encoding="utf-8")


def _write(texts: dict[Path, str], force: bool) -> None:
    """Write all of the files, or none if one of them exists."""
    existing = [str(path) for path in texts if path.exists()]
    if existing and not force:
        raise click.UsageError(f"already there: {' and '.join(existing)}; use --force to overwrite")
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from error
