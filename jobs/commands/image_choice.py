"""Options that choose images of a run: their ids in a file, or a condition on their metadata."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypedDict

import click

from nightpress.pipelines.errors import SpecError

where_option = click.option(
    "--where",
    metavar="CONDITION",
    help="Condition on the metadata, as in SQL: \"scores.sharpness > 40 and mood = 'calm'\".",
)

_ids_option = click.option(
    "--ids",
    "ids_file",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="File with the id of an image or of a row in each line; - is stdin.",
)


class ImageChoice(TypedDict):
    """Which images of a run; keyword arguments of `again` and `deliver`."""

    ids: list[str] | None
    """Ids of images or of rows."""
    where: str | None


def choice_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--ids and --where, which the command gets as `chosen`.

    Raises:
        SpecError: the file of --ids cannot be read.
    """

    @wraps(command)
    def with_options(*args: Any, ids_file: Path | None, where: str | None, **others: Any) -> Any:
        ids = None if ids_file is None else ids_in(ids_file)
        return command(*args, chosen=ImageChoice(ids=ids, where=where), **others)

    return _ids_option(where_option(with_options))


def ids_in(path: Path) -> list[str]:
    """The lines of a file, without empty ones and blanks around them; `-` is stdin.

    Raises:
        SpecError: the file cannot be read, or is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SpecError(f"--ids {path}: {reason}") from error
    return [line.strip() for line in lines if line.strip()]
