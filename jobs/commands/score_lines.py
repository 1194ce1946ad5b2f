"""How the scores of a run are distributed, in a few lines: for `run` and `status`."""

from collections.abc import Iterator, Sequence

from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.scores_section import MEASURED
from nightpress.pipelines.reporting.scores import ScoreSummary, value_text

MAX_LISTED = 20
"""Scores that are listed; the report has more, and `--json` all."""


def score_lines(scores: Sequence[ScoreSummary], url: str, has_gates: bool = False) -> Iterator[str]:
    """One line for each score, and how to make those that are missing.

    Nothing for a run whose images are only measured, unless gates judge them, or that has no image.

    Args:
        scores: of the run.
        url: of the run.
        has_gates: whether the run has gates.
    """
    if not scores or (not has_gates and all(each.name in MEASURED for each in scores)):
        return
    shown = scores[:MAX_LISTED]
    width = max(len(each.name) for each in shown)
    yield "scores: median (5th to 95th percentile)"
    for each in shown:
        yield f"  {each.name:<{width}}  {_values(each)}"
    if len(scores) > len(shown):
        yield f"  and {len(scores) - len(shown):,} more, in the report"
    if any(each.num_missing for each in scores):
        yield f"  nightpress score {url} makes scores that are missing"


def _values(each: ScoreSummary) -> str:
    missing = f"{plural(each.num_missing, 'image')} without it"
    if not each.num_images:
        return missing
    low, median, high = map(value_text, (each.low, each.median, each.high))
    return f"{median} ({low} to {high})" + (f", {missing}" if each.num_missing else "")
