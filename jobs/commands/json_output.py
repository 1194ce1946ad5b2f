"""Results and errors as the JSON that `--json` prints."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NoReturn

import click

from nightpress.jobs.commands.exit_codes import code_of_process
from nightpress.jobs.errors import OK
from nightpress.pipelines.errors import ChangedRunError, ManifestError


def print_result(values: Mapping[str, Any], code: int = OK) -> None:
    """Print a result on stdout as one JSON object, with the exit code.

    Args:
        values: JSON-ready values; numbers that JSON does not have become null. `error` is null
            unless it is among them.
        code: the exit code that follows.
    """
    others = {key: value for key, value in values.items() if key != "error"}
    result = {**others, "exit_code": code, "error": values.get("error")}
    click.echo(json.dumps(_finite(result)))


def print_and_exit(
    ctx: click.Context, code: int, values: dict[str, Any], text: str, as_json: bool
) -> NoReturn:
    """End a command: print its result, as JSON or as text for a person, and exit with `code`."""
    if as_json:
        print_result(values | process_values(ctx, code), code)
    else:
        click.echo(text)
    ctx.exit(code)


def print_error(
    error: Exception, message: str, code: int, ctx: click.Context | None = None
) -> None:
    """Print what went wrong on stdout as one JSON object, with the exit code."""
    other = {} if ctx is None else process_values(ctx, code)
    values = {**other, "exit_code": code, "error": error_values(error, message)}
    click.echo(json.dumps(_finite(values), default=str))


def process_values(ctx: click.Context, code: int) -> dict[str, int]:
    """The code that the process ends with, where --ok-codes makes it another one."""
    ends_with = code_of_process(ctx, code)
    return {} if ends_with == code else {"process_exit_code": ends_with}


def error_values(error: Exception, message: str) -> dict[str, Any]:
    """An error as JSON-ready values: its type, its message, and the parts that some have.

    A `ManifestError` has `problems`, each with file, row and column, and `num_problems`, which also
    counts those that are not listed. A `ChangedRunError` has `changes`.
    """
    values: dict[str, Any] = {"type": type(error).__name__, "message": message}
    match error:
        case ManifestError():
            problems = [asdict(problem) for problem in error.problems]
            return values | {"problems": problems, "num_problems": error.total}
        case ChangedRunError():
            changes = [asdict(change) for change in error.changes]
            return values | {"run": error.run, "changes": changes}
        case _:
            return values


def _finite(value: Any) -> Any:
    """The value with null for every number in it that JSON does not have."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case _:
            return value
