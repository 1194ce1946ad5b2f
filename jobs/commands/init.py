"""`nightpress init`."""

from importlib.resources import files
from pathlib import Path

import click

RECIPES = ("autoencoder", "denoiser", "lora")


@click.command("init")
@click.argument("job", type=click.Path(dir_okay=False, path_type=Path), required=False)
@click.option(
    "--recipe", type=click.Choice(RECIPES), help="Write a training job of this recipe instead."
)
@click.option("--force", is_flag=True, help="Replace the files if they exist.")
def command(job: Path | None, recipe: str | None, force: bool) -> None:
    """Write a commented example of a job file to JOB.

    JOB is job.yaml unless given, and the prompts that it names are written beside it; the example
    runs as it is: `nightpress run job.yaml`. With --recipe, it is a training job, <recipe>.yaml
    unless given, and says where your pictures are expected.
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
        f"wrote {job}; next: name your pictures under data.source, then nightpress train {job}"
    )


def _example(name: str) -> str:
    return (files("nightpress.jobs") / "examples" / name).read_text(encoding="utf-8")


def _write(texts: dict[Path, str], force: bool) -> None:
    """Write all of the files, or none where one of them is there."""
    taken = [str(path) for path in texts if path.exists()]
    if taken and not force:
        raise click.UsageError(f"{' and '.join(taken)} exists already; --force replaces it")
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}") from error
