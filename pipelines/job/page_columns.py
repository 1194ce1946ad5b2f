"""The columns of the review page: which of the metadata's it has, and by which it stacks images."""

from collections.abc import Collection
from difflib import get_close_matches

from nightpress.pipelines.records import METADATA_SCHEMA

NOT_SHOWN = frozenset(
    [
        *("member", "num_bytes", "member_offset", "file", "sha256", "attempts", "perceptual_hash"),
        *("model_fingerprint", "batch_size", "worker", "started_at", "sampling_s", "seed"),
        *("image_id", "prompt", "width", "height", "status", "error", "error_type", "canvas"),
        *("prompt_cut", "negative_prompt_cut", "inputs", "frames_sha256", "first_frame"),
        *("prompt_reading", "textual_inversions"),
    ]
)
"""Metadata columns that are no facets of the page: most are in the facts of an image."""

DERIVED = frozenset({"id", "prompt", "size"})
"""Columns that the page derives itself, where they are not among the others."""

SCORE_PREFIX = "score."
"""What the page puts before the name of a score, which is a column of its own there."""


def group_problem(group_by: str, carried: Collection[str]) -> str | None:
    """Why the page cannot stack images by a column; None if it can.

    Args:
        group_by: the column.
        carried: the columns that the run's manifest carries into the metadata.
    """
    settings = set(METADATA_SCHEMA.names) - NOT_SHOWN - {"scores"} | DERIVED
    if group_by in carried or group_by in settings or group_by.startswith(SCORE_PREFIX):
        return None
    near = get_close_matches(group_by, [*carried, *settings], 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    columns = ", ".join(sorted(carried)) or "none"
    return (
        f"{group_by!r} is no column of the images{hint}; it may be one that the manifest carries "
        f"({columns}), or one of {', '.join(sorted(settings))}"
    )
