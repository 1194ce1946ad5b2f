"""`nightpress gates`."""

from dataclasses import asdict
from typing import Any

import click

from nightpress.jobs.commands.common import (
    image_target,
    json_option,
    run_argument,
    storage_option,
    storage_options,
)
from nightpress.jobs.commands.json_output import print_and_exit
from nightpress.jobs.commands.times import Night, night_options
from nightpress.jobs.errors import OK
from nightpress.jobs.runs.try_gates import GateEffort, GatesResult, gates
from nightpress.pipelines.formatting import duration, plural
from nightpress.pipelines.run_directory.gate_trial import GateTrial, ScoreRange
from nightpress.pipelines.run_directory.stored_scores import HOW_TO_SCORE
from nightpress.pipelines.scoring.acceptance import QUANTILES, Share


@click.command("gates")
@run_argument
@click.option(
    "--require",
    multiple=True,
    metavar="CONDITION",
    help='Condition on a score, such as "sharpness > 40". May be repeated; all must be met.',
)
@click.option(
    "--best-of", type=int, metavar="N", help="Take the best of the first N draws that pass."
)
@click.option("--rank-by", metavar="SCORE", help="Score that says which is the best, such as clip.")
@click.option(
    "--max-draws", type=int, metavar="N", help="The most draws of an image. [default: 16]"
)
@storage_option
@night_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    require: tuple[str, ...],
    best_of: int | None,
    rank_by: str | None,
    max_draws: int | None,
    storage_overrides: tuple[str, ...],
    night: Night,
    as_json: bool,
) -> None:
    """Try gates on the stored scores of RUN; nothing is sampled or written.

    RUN is the URL of a run directory, or its job file. Gates make draws of an image, each with
    another seed, until one passes; an image made without gates is one draw. Shows how many would
    pass each condition and all of them, how many draws an image would take, what they cost, and
    of which values of the columns few pass. What is not given is that of the job's gates. Without
    any, it shows how the scores are spread.
    """
    result = gates(
        image_target(run, storage_overrides, night),
        require=require or None,
        best_of=best_of,
        rank_by=rank_by,
        max_draws=max_draws,
        storage=storage_options(storage_overrides),
    )
    print_and_exit(ctx, OK, as_values(result), as_text(result), as_json)


def as_values(result: GatesResult) -> dict[str, Any]:
    """The result as JSON-ready values."""
    trial = result.trial
    return {
        "url": result.url,
        "num_images": result.num_images,
        "gates": None if result.gates is None else result.gates.identity(),
        "num_judged": 0 if trial is None else trial.passed.of,
        "num_lost": 0 if trial is None else trial.num_lost,
        "passed": None if trial is None else _share(trial.passed),
        "conditions": [] if trial is None else _conditions(trial),
        "expected_draws": None if trial is None else trial.expected.draws,
        "plausible_draws": None if trial is None else list(trial.plausible),
        "exhausted": None if trial is None else trial.expected.exhausted,
        "correlation": None if trial is None else trial.correlation,
        "rank": None if trial is None or trial.rank is None else asdict(trial.rank),
        "so_far": None if result.so_far is None else asdict(result.so_far),
        "with_gates": None if result.with_gates is None else asdict(result.with_gates),
        "uncounted": list(result.uncounted),
        "low": [] if trial is None else _low(trial),
        "scores": [asdict(each) for each in result.scores],
    }


def _share(share: Share) -> dict[str, Any]:
    low, high = share.interval
    return {"num": share.num, "of": share.of, "share": share.value, "low": low, "high": high}


def _conditions(trial: GateTrial) -> list[dict[str, Any]]:
    return [
        {
            "condition": each.condition,
            "passed": _share(each.passed),
            "num_missing": each.num_missing,
            "num_only": each.num_only,
        }
        for each in trial.conditions
    ]


def _low(trial: GateTrial) -> list[dict[str, Any]]:
    return [
        {"column": each.column, "value": each.value, "passed": _share(each.passed)}
        for each in trial.low
    ]


def as_text(result: GatesResult) -> str:
    """The result for a person."""
    if result.trial is None or result.gates is None:
        return "\n".join(_range_lines(result))
    trial = result.trial
    lines = [
        f"{plural(trial.passed.of, 'draw')} of {result.url} judged by stored scores",
        *_condition_lines(trial),
        *_draw_lines(result, trial),
        *_rank_lines(result, trial),
        *_effort_lines(result),
        *_low_lines(trial),
    ]
    return "\n".join(lines)


def _condition_lines(trial: GateTrial) -> list[str]:
    rows = [
        (each.condition, _text(each.passed), f"{each.num_only:,} by it alone")
        for each in trial.conditions
    ]
    rows.append(("all of them", _text(trial.passed), ""))
    first, second = (max(len(row[place]) for row in rows) for place in range(2))
    lines = [f"  {a:<{first}}  {b:<{second}}  {c}".rstrip() for a, b, c in rows]
    header = f"  {'':<{first}}  {'pass':<{second}}  rejected"
    missing = [
        f"  {plural(each.num_missing, 'draw')} without the score of {each.condition}; "
        f"{HOW_TO_SCORE}"
        for each in trial.conditions
        if each.num_missing
    ]
    return [header, *lines, *missing]


def _text(share: Share) -> str:
    """`2,980 (74.5%)`."""
    return f"{share.num:,} ({share.value:.1%})"


def _draw_lines(result: GatesResult, trial: GateTrial) -> list[str]:
    assert result.gates is not None  # noqa: S101 - a trial has gates
    best = "" if result.gates.best_of == 1 else f" for the best of {result.gates.best_of}"
    low, high = trial.passed.interval
    lines = [
        f"draws of an image{best}: {trial.expected.draws:.2f} on average, of at most "
        f"{result.gates.max_draws}",
        f"none passes: {trial.expected.exhausted:.2%} of the images",
    ]
    if trial.correlation is None:
        lines.append("both only if all rows have the same chance: no row has two draws to tell")
    else:
        lines.append(f"draws of one row are alike by {trial.correlation:.2f}, which is counted in")
    if trial.passed.of < 1000:
        least, most = trial.plausible
        lines.append(
            f"so few draws say that {low:.1%} to {high:.1%} pass, and {least:.2f} to {most:.2f} "
            "draws an image"
        )
    if trial.num_lost:
        lines.append(f"{plural(trial.num_lost, 'draw')} of them lost to the gates of the run")
    return lines


def _rank_lines(result: GatesResult, trial: GateTrial) -> list[str]:
    if trial.rank is None or result.gates is None:
        return []
    rank = trial.rank
    return [
        f"{rank.rank_by}: {rank.mean:.4g} on average of draws that pass, {rank.best:.4g} of the "
        f"best of {result.gates.best_of}"
    ]


def _effort_lines(result: GatesResult) -> list[str]:
    so_far, then = result.so_far, result.with_gates
    if so_far is None or then is None:
        return []
    images = plural(result.num_images, "image")
    took = _effort(so_far, plural(round(so_far.num_draws), "draw"))
    takes = _effort(then, plural(round(then.num_draws), "draw"))
    lines = [f"so far: {took}", f"{images} with these gates: {takes}"]
    if result.uncounted:
        late = ", ".join(result.uncounted)
        lines.append(f"these times do not count the scoring of {late}, which came after the run")
    return lines


def _effort(effort: GateEffort, draws: str) -> str:
    """`5,368 draws, 12 h 20 min at the pace of the run, 24 h 40 min of actors, 31.00 EUR`."""
    parts = [draws]
    if effort.elapsed_s is not None:
        parts.append(f"{duration(effort.elapsed_s)} of sampling")
    if effort.actor_s is not None:
        parts.append(f"{duration(effort.actor_s)} of actors")
    if effort.cost is not None:
        parts.append(str(effort.cost))
    return ", ".join(parts)


def _low_lines(trial: GateTrial) -> list[str]:
    if not trial.low:
        return []
    width = max(len(f"{each.column} = {each.value}") for each in trial.low)
    rows = [
        f"  {f'{each.column} = {each.value}':<{width}}  {each.passed.num:,} of "
        f"{each.passed.of:,} ({each.passed.value:.1%})"
        for each in trial.low
    ]
    return ["of these clearly fewer pass:", *rows]


def _range_lines(result: GatesResult) -> list[str]:
    if not result.scores:
        return [f"no image of {result.url} has a score; {HOW_TO_SCORE}"]
    titles = ("score", "draws", "least", "5%", "25%", "median", "75%", "95%", "greatest")
    rows = [titles, *(_range_cells(each) for each in result.scores)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(titles))]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return [*lines, 'try some with --require, such as --require "sharpness > 40"']


def _range_cells(each: ScoreRange) -> tuple[str, ...]:
    values = [f"{value:.4g}" for value in each.quantiles] or ["-"] * len(QUANTILES)
    return (each.score, f"{each.num_draws:,}", *values)
