"""What `deliver` and `export RUN` say about the copies that they made."""

from nightpress.jobs.runs.deliver import Delivery
from nightpress.jobs.runs.export_picks import PicksExported
from nightpress.pipelines.formatting import plural

MAX_LISTED = 20
"""Findings that are listed; `--json` has as many as the result keeps."""


def what_is_missing(result: Delivery | PicksExported) -> list[str]:
    """The images that could not be copied, and those that the run does not have."""
    lines = list(result.findings[:MAX_LISTED])
    if result.num_findings > len(lines):
        lines.append(f"... and {result.num_findings - len(lines):,} more")
    if result.num_failed_rows:
        lines.append(f"{plural(result.num_failed_rows, 'chosen row')} failed and left no image")
    if result.num_uncommitted:
        left = plural(result.num_uncommitted, "image")
        lines.append(f"the run is not finished: {left} not committed yet")
    return lines


def already_there(result: Delivery | PicksExported) -> str:
    """How many copies an earlier start had made; empty if none."""
    there = result.num_copies - result.num_written
    return f", {there:,} of them there already" if there else ""
