"""`nightpress schema`."""

import json

import click

from pipelines.spec import json_schema


@click.command("schema")
def command() -> None:
    """Print the JSON Schema of a job file, so that editors can complete and check it.

    In VS Code and other editors with the YAML language server, save it beside the job and begin
    the job file with `# yaml-language-server: $schema=nightpress.schema.json`.
    """
    click.echo(json.dumps(json_schema(), indent=2))
