"""Pairs for preference training: the best and the worst image of each row, by a score."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.campaign.near_names import did_you_mean
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.export.columns import SCORES
from nightpress.pipelines.export.decisions import Decision
from nightpress.pipelines.export.index import Drop, ShardIndex
from nightpress.pipelines.hashing import Hashes, hash64
from nightpress.pipelines.manifest.types import one_chunk

LOWEST = "-"
"""Before the name of a score: the lowest is the best."""


def score_name(rank_by: str) -> str:
    """The score that `rank_by` names, whichever end of it is the best."""
    return rank_by.removeprefix(LOWEST)


def with_pairs(
    part: pa.Table, decisions: Sequence[Decision], rank_by: str
) -> tuple[list[Decision], list[tuple[int, int]]]:
    """Keep the best and the worst image of each row of the manifest, and drop the others.

    Equal scores are decided by the order of the rows. Only images of one shard are compared.

    Args:
        part: the rows of a commit.
        decisions: one for each of them.
        rank_by: the name of a score, with `-` before it if the lowest is the best.

    Returns:
        The decisions, and (best row, worst row) of each pair.
    """
    values = _scores(part, rank_by)
    groups: dict[tuple[str, str | None], list[int]] = {}
    decided = list(decisions)
    for row, id_ in enumerate(part.column("id").to_pylist()):
        if decided[row].split is None:
            continue
        if values[row] is None:
            decided[row] = Decision(None, Drop.NOT_COMPARED, f"no score {score_name(rank_by)}")
            continue
        groups.setdefault((id_, decided[row].split), []).append(row)
    pairs = []
    for rows in groups.values():
        ranked = sorted(rows, key=lambda row: (-(values[row] or 0.0), row))
        best, worst = ranked[0], ranked[-1]
        kept = {best, worst} if values[best] != values[worst] else set[int]()
        if kept:
            pairs.append((best, worst))
        for row in set(rows) - kept:
            decided[row] = Decision(None, Drop.NOT_COMPARED, _why(len(rows), bool(kept)))
    return decided, sorted(pairs)


ALONE = "the only image of its row in its shard"


def _why(num_images: int, has_pair: bool) -> str:
    if has_pair:
        return "neither the best nor the worst of its row"
    return ALONE if num_images == 1 else "no image of its row is better"


class RowsApart:
    """Counts the rows of a manifest that give no pair because their images are in several shards.

    It has a hash in memory for each image that is alone in its shard, and for each pair.
    """

    def __init__(self) -> None:
        self._alone: list[Hashes] = []
        self._paired: list[Hashes] = []

    def add(self, index: ShardIndex) -> None:
        """Add what is exported of a shard."""
        rows = index.rows
        is_alone = pc.fill_null(pc.equal(rows.column("detail"), ALONE), False)
        self._alone.append(_row_hashes(rows.filter(is_alone), index.source))
        is_paired = pc.is_valid(rows.column("split"))
        self._paired.append(np.unique(_row_hashes(rows.filter(is_paired), index.source)))

    @property
    def number(self) -> int:
        """Rows with an image in each of several shards, and with a pair in none of them."""
        alone, counts = np.unique(np.concatenate(self._alone), return_counts=True)
        return int((~np.isin(alone[counts > 1], np.concatenate(self._paired))).sum())


def _row_hashes(images: pa.Table, source: int) -> Hashes:
    """A hash of the id of each image's row, which differs from run to run."""
    ids = pc.replace_substring_regex(images.column("image_id"), r"_[0-9]+$", "")
    return hash64(one_chunk(ids), source)


def _scores(part: pa.Table, rank_by: str) -> list[float | None]:
    """The scores of each row, the largest for the best."""
    name = score_name(rank_by)
    if SCORES not in part.column_names:
        return [None] * len(part)
    found: list[float | None] = pc.map_lookup(
        one_chunk(part.column(SCORES)), name, "first"
    ).to_pylist()
    sign = -1.0 if rank_by.startswith(LOWEST) else 1.0
    return [None if value is None or value != value else sign * value for value in found]


def require_score(rank_by: str, scores: Sequence[str], url: str) -> None:
    """Check that the images of a run have the score that pairs are made by.

    Raises:
        SpecError: they have none of that name.
    """
    if score_name(rank_by) not in scores:
        hint = did_you_mean(score_name(rank_by), scores, "scores")
        raise SpecError(f"rank_by: {url}: no image has a score {score_name(rank_by)!r}; {hint}")
