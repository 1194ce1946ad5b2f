"""Options that choose images of a run: by ids in a file, by their metadata, or by their marks."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypedDict

import click

from nightpress.jobs.runs.marked_images import MarkChoice
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.run_directory.marks import MAX_STARS
from nightpress.pipelines.run_directory.marks_merge import POLICIES, PolicyName

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
    """Which images of a run; keyword arguments of `again`, `deliver` and `export_picks`."""

    ids: list[str] | None
    """Ids of images or of rows."""
    where: str | None
    marks: MarkChoice | None


_mark_options = (
    click.option("--picked", is_flag=True, help="Images that reviewers have picked."),
    click.option("--rejected", is_flag=True, help="Images that reviewers have rejected."),
    click.option(
        "--stars",
        type=click.IntRange(1, MAX_STARS),
        metavar="N",
        help="Images with at least N stars.",
    ),
    click.option(
        "--policy",
        type=click.Choice(POLICIES),
        help="How the marks of several reviewers become one. [default: any]",
    ),
    click.option("--lead", metavar="NAME", help="With --policy lead, the reviewer who decides."),
    click.option(
        "--include-changed",
        is_flag=True,
        help="Take images, too, that were made again since they were marked.",
    ),
)

MARK_OPTIONS = ("picked", "rejected", "stars", "policy", "lead", "include_changed")
"""What click calls the values of these options."""


def choice_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--ids, --where and those of marks, which the command gets as `chosen`.

    Raises:
        SpecError: the file of --ids cannot be read, or the options of marks do not fit.
    """

    @wraps(command)
    def with_options(*args: Any, ids_file: Path | None, where: str | None, **others: Any) -> Any:
        ids = None if ids_file is None else ids_in(ids_file)
        marks = mark_choice(**{name: others.pop(name) for name in MARK_OPTIONS})
        return command(*args, chosen=ImageChoice(ids=ids, where=where, marks=marks), **others)

    decorated = with_options
    for option in reversed(_mark_options):
        decorated = option(decorated)
    return _ids_option(where_option(decorated))


def mark_choice(
    picked: bool,
    rejected: bool,
    stars: int | None,
    policy: PolicyName | None,
    lead: str | None,
    include_changed: bool,
) -> MarkChoice | None:
    """The choice that options of marks make; None without any of them.

    Raises:
        SpecError: they do not fit together.
        MarksError: the policy and the lead do not.
    """
    if picked and rejected:
        raise SpecError("--picked and --rejected: give one of them")
    if not (picked or rejected or stars):
        for name, given in (
            *(("--policy", policy), ("--lead", lead)),
            ("--include-changed", include_changed),
        ):
            if given:
                raise SpecError(f"{name} goes with --picked, --rejected or --stars")
        return None
    flag: Literal["pick", "reject"] | None = "pick" if picked else "reject" if rejected else None
    choice = MarkChoice(flag, stars, policy or "any", lead, include_changed)
    choice.check()
    return choice


def ids_in(path: Path) -> list[str]:
    """The lines of a file, without empty ones and blanks around them; `-` is stdin.

    Raises:
        SpecError: the file cannot be read, is not UTF-8, or has no id.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SpecError(f"--ids {path}: {reason}") from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise SpecError(f"--ids {path}: no id in it; one id of an image or row in each line")
    return ids


def require_choice(chosen: ImageChoice) -> None:
    """Refuse to choose all images, or to choose by ids and by something else.

    Raises:
        SpecError: names the options.
    """
    by_others = chosen["where"] is not None or chosen["marks"] is not None
    if chosen["ids"] is None and not by_others:
        raise SpecError("choose images by --ids, --where, --picked, --rejected or --stars")
    if chosen["ids"] is not None and by_others:
        raise SpecError(
            "choose images by --ids alone, or by --where, --picked, --rejected and --stars"
        )
