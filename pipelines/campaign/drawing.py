"""Draw the texts of a template for many rows at once.

Alternatives that are plain text are one `take`; others are drawn one alternative after the other,
for the rows that got it. What was drawn can be marked, to show it to a person.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.campaign.compiled import Alternatives, AxisValue, Compiled
from nightpress.pipelines.campaign.permutation import Ints
from nightpress.pipelines.campaign.quotas import DrawnRows, Quotas, row_hashes, scaled
from nightpress.pipelines.hashing import GOLDEN

MARK_START, MARK_END = "\ue000", "\ue001"
"""Private-use characters around what was drawn, in texts for a person."""

MAX_ATTEMPTS = 64
"""How often a further alternative is drawn at random before the next free one is taken."""


@dataclass(frozen=True)
class Drawer:
    """Draws templates for the same rows."""

    values: Mapping[str, pa.StringArray]
    """What `${name}` is in each of the rows; (n,) each."""
    quotas: Quotas
    is_marked: bool = False
    """Whether what is drawn stands between `MARK_START` and `MARK_END`."""

    def texts(self, compiled: Compiled, rows: DrawnRows) -> pa.StringArray:
        """The text of each row; (n,) string."""
        parts = [self._part(part, rows) for part in compiled]
        if len(parts) == 1 and not isinstance(parts[0], str):
            return parts[0]
        if all(isinstance(part, str) for part in parts):
            return pa.repeat("".join(parts), len(rows))
        return pc.binary_join_element_wise(*parts, "")

    def _part(self, part: str | AxisValue | Alternatives, rows: DrawnRows) -> str | pa.StringArray:
        match part:
            case str():
                return part
            case AxisValue(name):
                return pc.take(self.values[name], pa.array(rows.indices))
            case Alternatives():
                drawn = self._one(part, rows) if part.most == 1 == part.least else None
                texts = self._several(part, rows) if drawn is None else drawn
                return _marked(texts) if self.is_marked else texts

    def _one(self, part: Alternatives, rows: DrawnRows) -> pa.StringArray:
        picks = self.quotas.pick(part.path, part.key, part.weights, rows)
        return self._options(part, picks.options, rows.at(picks.positions))

    def _options(self, part: Alternatives, options: Ints, rows: DrawnRows) -> pa.StringArray:
        """The text of the alternative that each row got."""
        texts = pc.take(part.texts, pa.array(options))
        if not part.any_templated:
            return texts
        pieces, order = [texts], np.arange(len(rows))
        for option, chosen in _groups(options, part):
            own = rows.take(chosen)
            order[chosen] = sum(map(len, pieces)) + np.arange(len(chosen))
            pieces.append(Drawer(self.values, self.quotas).texts(part.options[option], own))
        return pc.take(pa.concat_arrays(pieces), pa.array(order))

    def _several(self, part: Alternatives, rows: DrawnRows) -> pa.StringArray:
        """Different alternatives, in the order in which they were drawn, joined."""
        span = part.most - part.least + 1
        numbers = part.least + scaled(row_hashes(rows.hashes, _other_key(part.key, 0)), span)
        joined = pa.repeat("", len(rows))
        drawn: list[Ints] = []
        for turn in range(part.most):
            if turn == 0:
                picks = self.quotas.pick(part.path, part.key, part.weights, rows)
                options, placed = picks.options, rows.at(picks.positions)
            else:
                options, placed = _another(part, rows, drawn), rows
            drawn.append(options)
            texts = self._options(part, options, placed)
            if turn:
                texts = pc.binary_join_element_wise(joined, texts, part.separator)
            joined = pc.if_else(pa.array(numbers > turn), texts, joined)
        return joined


def fit(compiled: Compiled, rows: DrawnRows, quotas: Quotas) -> None:
    """Make every pick of a template, without its texts."""
    for part in compiled:
        if isinstance(part, Alternatives):
            picks = quotas.pick(part.path, part.key, part.weights, rows)
            for option, chosen in _groups(picks.options, part):
                fit(part.options[option], rows.at(picks.positions).take(chosen), quotas)


def _groups(options: Ints, part: Alternatives) -> Iterator[tuple[int, Ints]]:
    """The rows of each templated alternative that any row got."""
    rows = np.flatnonzero(part.is_templated[options])
    rows = rows[np.argsort(options[rows], kind="stable")]
    distinct, counts = np.unique(options[rows], return_counts=True)
    ends = np.cumsum(counts).tolist()
    for option, count, end in zip(distinct.tolist(), counts.tolist(), ends, strict=True):
        yield option, rows[end - count : end]


def _another(part: Alternatives, rows: DrawnRows, drawn: Sequence[Ints]) -> Ints:
    """An alternative that was not drawn yet, for each row; by weight, by the row's hash."""
    found = np.zeros(len(rows), np.int64)
    left = np.arange(len(rows))
    for attempt in range(1, MAX_ATTEMPTS + 1):
        key = _other_key(part.key, len(drawn) * (MAX_ATTEMPTS + 1) + attempt)
        slots = scaled(row_hashes(rows.hashes[left], key), part.weights.total)
        found[left] = np.searchsorted(part.weights.starts, slots, "right") - 1
        left = left[_is_taken(part, found, drawn, left)]
        if not len(left):
            return found
    while len(left):
        found[left] = (found[left] + 1) % len(part.weights)
        left = left[_is_taken(part, found, drawn, left)]
    return found


def _is_taken(
    part: Alternatives, found: Ints, drawn: Sequence[Ints], rows: Ints
) -> NDArray[np.bool_]:
    taken: NDArray[np.bool_] = part.weights.values[found[rows]] == 0
    for earlier in drawn:
        taken |= earlier[rows] == found[rows]
    return taken


def _other_key(key: int, number: int) -> int:
    """A key for a further question about the same choice."""
    return (key + (number + 1) * int(GOLDEN)) % 2**64


def _marked(texts: pa.StringArray) -> pa.StringArray:
    return pc.binary_join_element_wise(MARK_START, texts, MARK_END, "")
