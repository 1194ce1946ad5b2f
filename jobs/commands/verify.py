"""`nightpress verify`."""

from dataclasses import asdict

import click
from rich.console import Console

from nightpress.jobs.commands.common import (
    RemakeOptions,
    image_target,
    json_option,
    repair_options,
    run_argument,
    sigterm_as_ctrl_c,
    storage_option,
    storage_options,
)
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.times import Night, night_options
from nightpress.jobs.commands.verify_export import or_an_export
from nightpress.jobs.errors import OK, SOME_FAILED
from nightpress.jobs.progress.lines import display_for
from nightpress.jobs.runs.verify import VerifyResult, verify
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.packing import packed_shard
from nightpress.pipelines.run_directory.thumbs import THUMBS_FOLDER

MAX_LISTED = 50
"""Findings that are printed; `--json` prints all of them."""


class Percentage(click.ParamType[float]):
    """`5%`, as the fraction 0.05."""

    name = "percentage"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse a percentage above 0% and up to 100%."""
        try:
            fraction = float(value.removesuffix("%")) / 100
        except ValueError:
            fraction = 0.0
        if not (value.endswith("%") and 0 < fraction <= 1):
            self.fail(
                f"{value!r} is not a percentage above 0% and up to 100%, such as 5%", param, ctx
            )
        return fraction


@click.command("verify")
@run_argument
@storage_option
@night_options
@click.option(
    "--sample",
    type=Percentage(),
    default="100%",
    metavar="N%",
    show_default=True,
    help="Share of the images to read.",
)
@click.option("--repair", is_flag=True, help="Make missing and damaged images again.")
@click.option(
    "--remove-orphans",
    "--sweep",
    "remove_orphans",
    is_flag=True,
    help="Delete images, packs and thumbnails that no commit names.",
)
@click.option(
    "--inputs",
    is_flag=True,
    help="Also check the pictures that images were made from; changed ones are never repaired.",
)
@click.option(
    "--spread",
    is_flag=True,
    help="Read the images on all nodes of the Ray cluster, and not only on this machine.",
)
@repair_options
@json_option
@click.pass_context
@or_an_export
def command(
    ctx: click.Context,
    run: str,
    storage_overrides: tuple[str, ...],
    night: Night,
    sample: float,
    repair: bool,
    remove_orphans: bool,
    inputs: bool,
    spread: bool,
    remake: RemakeOptions,
    as_json: bool,
) -> None:
    """Check every image of RUN against its metadata, and the metadata against the plan.

    RUN is the URL of a run directory, or its job file. Each image is read again: its bytes and
    sha256, its size and format, and its embedded metadata. An export is compared with its runs. The
    exit code is 3 if something is wrong and was not repaired.
    """
    target = image_target(run, storage_overrides, night)
    sigterm_as_ctrl_c()
    with display_for(Console(stderr=True)) as display:
        result = verify(
            target,
            display.show,
            sample=sample,
            repair=repair,
            remove_orphans=remove_orphans,
            inputs=inputs,
            spread=spread,
            **remake,
            storage=storage_options(storage_overrides),
        )
    _print(ctx, result, as_json)


def _print(ctx: click.Context, result: VerifyResult, as_json: bool) -> None:
    code = OK if result.is_sound else SOME_FAILED
    print_and_exit(ctx, code, as_values(result), as_text(result), as_json)


def as_text(result: VerifyResult) -> str:
    """The findings and the totals, for a person."""
    lines = [str(finding) for finding in result.findings[:MAX_LISTED]]
    if len(result.findings) > MAX_LISTED:
        lines.append(f"... and {len(result.findings) - MAX_LISTED:,} more")
    wrong = plural(len(result.findings), "finding") if result.findings else "all as recorded"
    lines.append(f"{plural(result.num_checked, 'image')} read: {wrong}")
    if result.signed_by is not None:
        lines.append(f"their credentials must be those of {result.signed_by}")
    if result.num_failed:
        failed = f"{plural(result.num_failed, 'row')} failed; nightpress retry tries them again"
        but = f", but for {result.num_rejected:,} that gates rejected"
        lines.append(failed + (but if result.num_rejected else ""))
    if result.num_uncommitted:
        lines.append(f"{plural(result.num_uncommitted, 'shard')} not committed yet")
    lines += _orphan_lines(result)
    lines += _input_lines(result)
    lines += [str(each) for each in result.selections]
    if result.repaired is not None:
        repaired = result.repaired
        lines.append(
            f"{plural(repaired.num_rows, 'row')} made again: {repaired.num_same:,} with the "
            f"recorded bytes, {repaired.num_different:,} with different bytes, "
            f"{repaired.num_failed:,} failed"
        )
    return "\n".join(lines)


def _input_lines(result: VerifyResult) -> list[str]:
    if result.inputs is None:
        return []
    checked = result.inputs
    findings = checked.findings
    lines = [str(finding) for finding in findings[:MAX_LISTED]]
    if len(findings) > MAX_LISTED:
        lines.append(f"... and {len(findings) - MAX_LISTED:,} more")
    num_images = len({finding.image_id for finding in findings})
    changed = (
        f"inputs of {plural(num_images, 'image')} have changed since, or cannot be read"
        if findings
        else "none has changed"
    )
    read = f"{plural(checked.num_inputs, 'input')} of {plural(checked.num_images, 'image')}"
    return [*lines, f"{read} read: {changed}"]


def _orphan_lines(result: VerifyResult) -> list[str]:
    orphans = result.deleted or result.orphans
    if not orphans:
        return []
    outcome = "deleted" if result.deleted else "kept; --remove-orphans deletes them"
    lines = [f"{path}: no commit names it" for path in orphans[:MAX_LISTED]]
    thumbs = sum(path.startswith(f"{THUMBS_FOLDER}/") for path in orphans)
    kind = "image" if packed_shard(orphans[0]) is None else "pack"
    found = [(len(orphans) - thumbs, kind), (thumbs, "thumbnail file")]
    counts = " and ".join(plural(number, of) for number, of in found if number)
    return [*lines, f"{counts} that no commit names, {outcome}"]


def as_values(result: VerifyResult) -> dict[str, object]:
    """The result as JSON-ready values."""
    return {
        "url": result.url,
        "num_checked": result.num_checked,
        "num_failed": result.num_failed,
        "num_rejected": result.num_rejected,
        "num_uncommitted": result.num_uncommitted,
        "findings": [asdict(finding) for finding in result.findings],
        "strays": result.orphans,
        "signed_by": result.signed_by,
        "inputs": None if result.inputs is None else asdict(result.inputs),
        "selections": [asdict(each) for each in result.selections],
        "repaired": None if result.repaired is None else asdict(result.repaired),
    }
