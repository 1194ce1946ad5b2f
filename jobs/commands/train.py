"""`nightpress train`."""

from dataclasses import asdict

import click
from rich.console import Console

from nightpress.jobs.commands.common import (
    job_options,
    json_option,
    sigterm_as_ctrl_c,
    take_over_option,
    with_address,
)
from nightpress.jobs.commands.json_output import print_result
from nightpress.jobs.progress.training import display_for
from nightpress.jobs.training import TrainResult, train
from nightpress.pipelines.training.spec import read_train_spec


@click.command("train")
@job_options
@take_over_option
@json_option
def command(
    job: str,
    overrides: tuple[str, ...],
    address: str | None,
    take_over: bool,
    as_json: bool,
) -> None:
    """Train the autoencoder, denoiser, LoRA or ControlNet that the YAML file JOB describes.

    Checkpoints, metrics, samples and the final model are written to <output>/<name>. You can
    interrupt training at any time: run the same command again to resume from the last checkpoint,
    with the same data order and noise.
    """
    spec = with_address(read_train_spec(job, overrides), address)
    sigterm_as_ctrl_c()  # until the workers have started; from then on, `train` handles signals
    display = display_for(Console(stderr=True))
    with display:
        result = train(spec, display.show, take_over=take_over)
    if as_json:
        print_result(asdict(result))
    else:
        click.echo(summary(result))


def summary(result: TrainResult) -> str:
    """The final message: the last step and loss, and where the results are."""
    loss = "" if result.loss is None else f", loss {result.loss:.4f}"
    return "\n".join(
        [
            f"trained to step {result.step:,}{loss}",
            "",
            f"model    {result.model}",
            f"samples  {result.url}/samples/",
            f"metrics  {result.url}/metrics.parquet",
            f"curves   {result.url}/loss.png",
        ]
    )
