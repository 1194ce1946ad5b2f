"""`nightpress schema`."""

import json

import click

from nightpress.pipelines.job.schema import json_schema
from nightpress.pipelines.training import spec as training_spec


@click.command("schema")
@click.option("--train", is_flag=True, help="Print the schema of a training job instead.")
def command(train: bool) -> None:
    """Print the JSON Schema of a job file, so that editors can complete and check it.

    For VS Code and other editors with the YAML language server, save it as nightpress.schema.json
    next to the job file, and start the job file with the line
    `# yaml-language-server: $schema=nightpress.schema.json`.
    """
    schema = training_spec.json_schema() if train else json_schema()
    click.echo(json.dumps(schema, indent=2))
