"""`nightpress verify`."""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass

import click
from rich.console import Console

from nightpress.jobs.commands.common import (
    json_option,
    open_images_argument,
    remaking_options,
    run_argument,
    stop_politely,
    storage_option,
    working_spec,
)
from nightpress.jobs.commands.exit_codes import SOME_FAILED
from nightpress.jobs.progress.lines import display_for
from nightpress.jobs.runs.repair import RepairResult, mend_plans, remake, remove_orphans
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.packing import packed_shard
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.verify import (
    Damage,
    Finding,
    orphan_images,
    rows_in_same_packs,
    verify,
)
from nightpress.pipelines.shards.work import Amendment

SHOWN = 50
"""Findings that are listed; `--json` has them all."""


class Share(click.ParamType[float]):
    """`5%`, as a share."""

    name = "share"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Of `5%`, 0.05."""
        try:
            share = float(value.removesuffix("%")) / 100
        except ValueError:
            share = 0.0
        if not (value.endswith("%") and 0 < share <= 1):
            self.fail(f"{value!r} is not a share such as 5%", param, ctx)
        return share


@dataclass(frozen=True)
class Verdict:
    """What was found."""

    url: str
    num_checked: int
    num_failed: int
    num_uncommitted: int
    findings: tuple[Finding, ...]
    strays: tuple[str, ...]
    """Images, or packs, that no commit names."""

    @property
    def damaged_plan(self) -> list[int]:
        """Shards whose part of the plan cannot be read."""
        return [each.shard for each in self.findings if each.damage is Damage.PLAN]


@click.command("verify")
@run_argument
@storage_option
@click.option("--sample", type=Share(), default="100%", metavar="N%", help="Read so many images.")
@click.option("--repair", is_flag=True, help="Make what is missing or damaged again.")
@click.option("--sweep", is_flag=True, help="Delete images and packs that no commit names.")
@remaking_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    storage: tuple[str, ...],
    sample: float,
    repair: bool,
    sweep: bool,
    address: str | None,
    max_failures: str | None,
    take_over: bool,
    as_json: bool,
) -> None:
    """Hold every image of RUN against its metadata, and that against the plan.

    RUN is the URL of a run directory, or its job file. Each image is read again: its bytes and
    sha256, its size and format, and what it says of itself. Exit code 3 when something is wrong
    and was not repaired.
    """
    opened = open_images_argument(run, storage)
    stop_politely()
    spec = working_spec(opened, run, address, max_failures)
    verdict = verdict_on(opened, sample)
    if sweep:
        require_finished(verdict)
    repaired, swept = None, []
    with display_for(Console(stderr=True)) as display:
        if repair and verdict.damaged_plan:
            mend_plans(opened, verdict.damaged_plan, display.show, take_over)
            verdict = verdict_on(opened, sample)
        if repair and verdict.findings:
            amendments = remedies(verdict.findings, opened)
            repaired = remake(opened, spec, amendments, display.show, take_over=take_over)
        if sweep:
            swept = remove_orphans(opened, display.show, take_over)
    click.echo(as_values(verdict, repaired) if as_json else as_text(verdict, repaired, swept))
    if verdict.findings and (repaired is None or repaired.num_failed):
        ctx.exit(SOME_FAILED)


def verdict_on(run: Run, sample: float) -> Verdict:
    """Look at everything."""
    findings: list[Finding] = []
    num_checked = num_failed = num_shards = 0
    for shard in verify(run, sample):
        num_shards += 1
        num_checked += shard.num_checked
        num_failed += shard.num_failed
        findings += shard.findings
    return Verdict(
        url=run.url,
        num_checked=num_checked,
        num_failed=num_failed,
        num_uncommitted=run.record.layout.num_shards - num_shards,
        findings=tuple(findings),
        strays=() if nobody_knows(findings) else tuple(orphan_images(run)),
    )


def nobody_knows(findings: list[Finding]) -> bool:
    """Whether a commit is damaged, so that nobody knows which images it names."""
    return any(finding.row is None for finding in findings)


def remedies(findings: tuple[Finding, ...], run: Run) -> dict[int, Amendment]:
    """Rows to make again by shard: all of those whose commit is damaged.

    A pack is made again as a whole; what is sound in it is not sampled again.
    """
    rows: defaultdict[int, list[int]] = defaultdict(list)
    damaged = {finding.shard for finding in findings if finding.row is None}
    for finding in findings:
        if finding.row is not None:
            rows[finding.shard].append(finding.row)
    amendments = {
        shard: Amendment(rows_in_same_packs(run, shard, each), replaces=True)
        for shard, each in rows.items()
        if shard not in damaged
    }
    for shard in damaged:
        every = range(run.record.layout.shard_images(shard))
        amendments[shard] = Amendment(tuple(every), recommits=True)
    return amendments


def require_finished(verdict: Verdict) -> None:
    """Refuse to sweep a run that goes on: some of what no commit names may be its own.

    Raises:
        click.UsageError: it does.
    """
    if verdict.num_uncommitted:
        raise click.UsageError(
            f"--sweep: {plural(verdict.num_uncommitted, 'shard')} of this run have no commit yet, "
            "and images may be theirs; finish it with nightpress run"
        )


def as_text(verdict: Verdict, repaired: RepairResult | None, swept: list[str]) -> str:
    """In lines."""
    lines = [str(finding) for finding in verdict.findings[:SHOWN]]
    if len(verdict.findings) > SHOWN:
        lines.append(f"... and {len(verdict.findings) - SHOWN:,} more")
    wrong = plural(len(verdict.findings), "finding") if verdict.findings else "all as recorded"
    lines.append(f"{plural(verdict.num_checked, 'image')} read: {wrong}")
    if verdict.num_failed:
        lines.append(f"{plural(verdict.num_failed, 'row')} failed; nightpress retry tries them")
    if verdict.num_uncommitted:
        lines.append(f"{plural(verdict.num_uncommitted, 'shard')} not committed yet")
    strays = swept or verdict.strays
    if strays:
        done = "deleted" if swept else "kept; --sweep deletes them"
        lines += [f"{path}: no commit names it" for path in strays[:SHOWN]]
        kind = "image" if packed_shard(strays[0]) is None else "pack"
        lines.append(f"{plural(len(strays), kind)} that no commit names, {done}")
    if repaired is not None:
        lines.append(
            f"{plural(repaired.num_rows, 'row')} made again: {repaired.num_same:,} with the bytes "
            f"that were recorded, {repaired.num_different:,} with others, "
            f"{repaired.num_failed:,} failed"
        )
    return "\n".join(lines)


def as_values(verdict: Verdict, repaired: RepairResult | None) -> str:
    """As JSON."""
    values = asdict(verdict) | {"repaired": asdict(repaired) if repaired else None}
    return json.dumps(values)
