"""`nightpress verify` of an export."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from nightpress.jobs.commands.common import JOB_SUFFIXES, sigterm_as_ctrl_c, storage_options
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.jobs.progress.exporting import display_for
from nightpress.jobs.runs.verify_export import ExportVerified, is_export, verify_export
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.export.spec import ExportSpec
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.reader import read_yaml
from nightpress.pipelines.storage import Options, is_url

MAX_LISTED = 50
"""Findings that are printed; `--json` prints all of them."""

REFUSED = ("night", "remove_orphans", "inputs", "allow_pickle", "max_failures")
"""Options that mean nothing for an export."""

Target = tuple[str | ExportSpec, Options]


def export_target(run: str, storage_overrides: tuple[str, ...]) -> Target | None:
    """The export that RUN names by its URL or its file; None if it names something else."""
    options = storage_options(storage_overrides)
    path = Path(run)
    if not is_url(run) and path.is_file() and path.suffix in JOB_SUFFIXES:
        return (ExportSpec.from_file(path), options) if "from" in read_yaml(path) else None
    return (run, options) if is_export(run, options) else None


def or_an_export(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command `verify`, which checks an export where RUN is one."""

    @wraps(command)
    def verify_either(ctx: click.Context, **options: Any) -> Any:
        target = export_target(options["run"], options["storage_overrides"])
        if target is None:
            return command(ctx, **options)
        given = options | options["remake"] | {"night": options["night"].given}
        for name in REFUSED:
            if given[name]:
                option = f"--{name.replace('_', '-')}"
                raise SpecError(f"{option}: this is an export, which is checked without it")
        return _verify(ctx, target, given)

    return verify_either


def _verify(ctx: click.Context, target: Target, given: Mapping[str, Any]) -> NoReturn:
    """Check an export, print what is found, and end the command."""
    export, options = target
    sigterm_as_ctrl_c()
    with display_for(Console(file=sys.stderr)) as display:
        result = verify_export(
            export,
            display.show,
            sample=given["sample"],
            repair=given["repair"],
            spread=given["spread"],
            address=given["address"],
            take_over=given["take_over"],
            storage=options,
        )
    code = OK if result.is_sound else SOME_FAILED
    print_and_exit(ctx, code, asdict(result), as_text(result), given["as_json"])


def as_text(result: ExportVerified) -> str:
    """The findings and the totals, for a person."""
    lines = [str(finding) for finding in result.findings[:MAX_LISTED]]
    if len(result.findings) > MAX_LISTED:
        lines.append(f"... and {len(result.findings) - MAX_LISTED:,} more")
    lines += [f"{path}: no index names it" for path in result.orphans[:MAX_LISTED]]
    wrong = plural(len(result.findings), "finding") if result.findings else "all as in the runs"
    lines.append(f"{plural(result.num_checked, 'image')} of the export read: {wrong}")
    if result.orphans:
        lines.append(
            f"{plural(len(result.orphans), 'object')} that no index names; the next nightpress "
            "export that writes something deletes them"
        )
    if not result.is_finished:
        lines.append("this export is not finished; nightpress export goes on with it")
    if result.num_repaired:
        lines.append(f"{plural(result.num_repaired, 'shard')} exported again")
    return "\n".join(lines)
