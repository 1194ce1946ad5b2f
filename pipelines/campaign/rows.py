"""The rows of a campaign that are left by rules about their text, and without duplicates."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.campaign.campaign import CHUNK_ROWS, Campaign
from nightpress.pipelines.campaign.permutation import Ints
from nightpress.pipelines.campaign.places import Places
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.hashing import GOLDEN, Hashes, hash64, mix64
from nightpress.pipelines.job.models_section import MODEL
from nightpress.pipelines.job.settings import is_setting

TRIES_A_ROW, MIN_TRIES = 50, 10_000
"""How many rows are drawn for one that is kept, where nothing else bounds them."""


@dataclass(frozen=True)
class RemainingRows:
    """What rules about texts and duplicates leave."""

    positions: Ints
    """(n,) in the drawing order."""
    num_without_text: int
    """Rows that a rule about their text left out."""
    num_repeated: int
    """Rows that were left out as duplicates."""


class CampaignRows:
    """The rows of a campaign, by number."""

    def __init__(self, campaign: Campaign, places: Places) -> None:
        self.campaign = campaign
        self.places = places

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self.campaign.num_rows if self.remaining is None else len(self.remaining.positions)

    def positions(self, first_row: int, num_rows: int) -> Ints:
        """The places of consecutive rows in the drawing order; (n,)."""
        stop = min(first_row + num_rows, self.num_rows)
        if self.remaining is None:
            return np.arange(first_row, stop)
        return self.remaining.positions[first_row:stop]

    def table(self, first_row: int, num_rows: int) -> pa.Table:
        """Consecutive rows, with the columns of a manifest."""
        return self.campaign.table(self.positions(first_row, num_rows))

    def marked(self, first_row: int, num_rows: int) -> pa.Table:
        """As `table`, with marks around what was drawn; see `Campaign.marked`."""
        return self.campaign.marked(self.positions(first_row, num_rows))

    @cached_property
    def remaining(self) -> RemainingRows | None:
        """The rows that are left; None if every row of the campaign is.

        Raises:
            ManifestError: fewer are left than the campaign asks for.
        """
        spec = self.campaign.spec
        has_text_rules = any(rule.forbid is None for rule in spec.rules)
        if not has_text_rules and spec.duplicates != "drop":
            return None
        wanted = self.campaign.num_rows
        is_drawn = spec.draw.rows != "all"
        found, num_seen, num_without, num_repeated = _Kept(), 0, 0, 0
        for positions, table in self._chunks(self._most_tries() if is_drawn else wanted):
            keep = self._has_text(table)
            num_without += int((~keep).sum())
            if spec.duplicates == "drop":
                fresh = found.are_new(self._contents(table), keep)
                num_repeated += int((keep & ~fresh).sum())
                keep = keep & fresh
            found.add(positions[keep])
            num_seen += len(positions)
            if is_drawn and found.num_rows >= wanted:
                break
        self._refuse_few(found.num_rows, wanted if is_drawn else 1, num_seen)
        remaining = RemainingRows(found.positions()[:wanted], num_without, num_repeated)
        self._refuse_uncovered(remaining)
        return remaining

    def refuse_repeated_ids(self) -> None:
        """Refuse rows of which two have the same id.

        Raises:
            ManifestError: names both rows' values.
        """
        hashes = np.empty(self.num_rows, np.uint64)
        for first in range(0, self.num_rows, CHUNK_ROWS):
            ids = self.campaign.ids(self.positions(first, CHUNK_ROWS))
            hashes[first : first + len(ids)] = hash64(ids, 0)
        repeat = _first_repeat(hashes)
        if repeat is None:
            return
        earlier, later = (int(self.positions(row, 1)[0]) for row in repeat)
        name = self.campaign.ids(np.array([later]))[0].as_py()
        values = " and ".join(self.campaign.combinations.described(p) for p in (earlier, later))
        if self.campaign.spec.id is None:
            message = f"the values of the axes, joined, are the id {name!r} twice: {values}; write "
            message += "an `id` that tells them apart, such as "
            message += "_".join(f"${{{axis.name}}}" for axis in self.campaign.axes)
            raise self.places.error(("axes",), message)
        message = f"the id {name!r} is there twice: {values}; add an axis that tells them apart"
        raise self.places.error(("id",), message)

    def refuse_duplicates(self) -> None:
        """Refuse rows that would make the same image, unless the campaign allows them.

        Raises:
            ManifestError: two rows have the same texts and settings.
        """
        if self.campaign.spec.duplicates != "refuse":
            return
        hashes = np.empty(self.num_rows, np.uint64)
        for first in range(0, self.num_rows, CHUNK_ROWS):
            table = self.table(first, CHUNK_ROWS)
            hashes[first : first + table.num_rows] = self._contents(table)
        repeat = _first_repeat(hashes)
        if repeat is None:
            return
        number = self.num_rows - len(np.unique(hashes))
        ids = [self.campaign.ids(self.positions(row, 1))[0].as_py() for row in repeat]
        message = (
            f"{plural(number, 'row')} repeat the prompt and the settings of another row, such as "
            f"{ids[1]!r} those of {ids[0]!r}; write `duplicates: drop` or `duplicates: keep`"
        )
        is_given = "duplicates" in self.campaign.spec.model_fields_set
        raise self.places.error(("duplicates",) if is_given else ("prompt",), message)

    def _refuse_uncovered(self, remaining: RemainingRows) -> None:
        """Refuse rows among which something that `cover` names no longer occurs."""
        lost = self.campaign.uncovered(remaining.positions)
        if lost is not None:
            rules = "rules about texts" if remaining.num_without_text else "`duplicates: drop`"
            message = f"no row with {lost} is left, because of {rules}; draw more rows, or leave "
            message += "out what cannot occur"
            raise self.places.error(("draw", "cover"), message)

    def _most_tries(self) -> int:
        combinations = self.campaign.combinations
        if combinations.factors:
            return combinations.size
        return TRIES_A_ROW * self.campaign.num_rows + MIN_TRIES

    def _chunks(self, stop: int) -> Iterator[tuple[Ints, pa.Table]]:
        for first in range(0, stop, CHUNK_ROWS):
            positions = np.arange(first, min(first + CHUNK_ROWS, stop))
            yield positions, self.campaign.table(positions)

    def _has_text(self, table: pa.Table) -> NDArray[np.bool_]:
        """Which rows the rules about texts leave; (n,)."""
        keep = np.ones(table.num_rows, np.bool_)
        for rule in self.campaign.spec.rules:
            text = rule.require_text or rule.forbid_text
            if text is not None:
                found = np.array(pc.match_substring(table["prompt"], text))
                keep &= found if rule.require_text is not None else ~found
        return keep

    def _contents(self, table: pa.Table) -> Hashes:
        """Hash what decides each row's images, but a seed that is derived from its id; (n,)."""
        counts = {name for name, given in self.campaign.spec.axes.items() if "count" in given}
        total = np.zeros(table.num_rows, np.uint64)
        for name in table.column_names:
            decides = is_setting(name) or name == MODEL
            if (decides and name not in ("id", "num_images")) or name in counts:
                texts = _as_texts(table[name].combine_chunks())
                total = mix64(total * GOLDEN + hash64(pc.fill_null(texts, ""), 0))
        return total

    def _refuse_few(self, number: int, wanted: int, num_seen: int) -> None:
        if number >= wanted:
            return
        rules = [n for n, rule in enumerate(self.campaign.spec.rules) if rule.forbid is None]
        key = ("rules", rules[0]) if rules else ("duplicates",)
        if not number:
            message = f"no row is left of {plural(num_seen, 'row')}"
        else:
            message = (
                f"only {number:,} of the {wanted:,} rows that draw.rows asks for are left, of "
                f"{num_seen:,} that were drawn; draw at most {number:,}"
            )
        raise self.places.error(key, message)


class _Kept:
    """The rows that were kept so far, and the hashes of their contents."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._positions: list[Ints] = []
        self._seen: set[int] = set()

    def add(self, positions: Ints) -> None:
        self._positions.append(positions)
        self.num_rows += len(positions)

    def positions(self) -> Ints:
        return np.concatenate(self._positions) if self._positions else np.zeros(0, np.int64)

    def are_new(self, hashes: Hashes, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the rows to keep have contents that no earlier row has; (n,)."""
        new = np.zeros(len(hashes), np.bool_)
        for row in np.flatnonzero(keep).tolist():
            content = int(hashes[row])
            new[row] = content not in self._seen
            self._seen.add(content)
        return new


def _first_repeat(hashes: Hashes) -> tuple[int, int] | None:
    """The first row whose hash an earlier row has, behind that row; None if all differ."""
    _, firsts = np.unique(hashes, return_index=True)
    if len(firsts) == len(hashes):
        return None
    is_first = np.zeros(len(hashes), np.bool_)
    is_first[firsts] = True
    later = int(np.flatnonzero(~is_first)[0])
    return int(np.flatnonzero(hashes == hashes[later])[0]), later


def _as_texts(column: pa.Array) -> pa.StringArray:
    if pa.types.is_list(column.type):
        return pa.array([str(value) for value in column.to_pylist()], pa.string())
    return column if pa.types.is_string(column.type) else pc.cast(column, pa.string())
