"""`nightpress schema`."""

import json

import click

from nightpress.pipelines.job import spec
from nightpress.pipelines.training import spec as training_spec


@click.command("schema")
@click.option("--train", is_flag=True, help="Of a training job, as `nightpress train` reads it.")
def command(train: bool) -> None:
    """Print the JSON Schema of a job file, so that editors can complete and check it.

    In VS Code and other editors with the YAML language server, save it beside the job and begin
    the job file with `# yaml-language-server: $schema=nightpress.schema.json`.
    """
    schema = training_spec.json_schema() if train else spec.json_schema()
    click.echo(json.dumps(schema, indent=2))
