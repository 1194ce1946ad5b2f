"""A campaign: its rows, any range of which can be made by itself, by any worker."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.campaign.axes import Axis
from nightpress.pipelines.campaign.combining import Combination, Combinations, Factor
from nightpress.pipelines.campaign.compiled import Alternatives, AxisValue, Compiled
from nightpress.pipelines.campaign.drawing import Drawer, fit
from nightpress.pipelines.campaign.permutation import Ints
from nightpress.pipelines.campaign.quotas import (
    Counted,
    DrawnRows,
    Fixed,
    Independent,
    Quotas,
    Ranked,
)
from nightpress.pipelines.campaign.spec import CampaignSpec
from nightpress.pipelines.hashing import GOLDEN, Hashes, hash64, mix64
from nightpress.pipelines.records import DRAW_KEY

CHUNK_ROWS = 65_536
"""How many rows are made at once where all are looked at."""

ID_DIGITS, KEY_DIGITS = 8, 16

SEED_BITS = 53


@dataclass(frozen=True)
class Templates:
    """What the columns of a campaign are made from."""

    id: Compiled | None
    """None if the values of the axes, joined, are the id."""
    texts: Mapping[str, Compiled]
    """Column -> template; `prompt` is one of them."""
    constants: Mapping[str, pa.Scalar]
    """Column -> the same value in every row."""
    notes: tuple[str, ...]
    """What may not be what was meant."""
    used_lists: frozenset[str]
    """The lists that any template, or an axis, can reach."""
    digest: int
    """Hash of all templates, all constants, and every list that a template can reach."""

    @cached_property
    def draws(self) -> bool:
        """Whether any row has something drawn in it."""
        return any(isinstance(part, Alternatives) for each in self.texts.values() for part in each)

    @cached_property
    def names(self) -> frozenset[str]:
        """The `${names}` that any template looks up, at any depth."""
        wanted = [*self.texts.values(), *([self.id] if self.id is not None else [])]
        return frozenset(name for each in wanted for name in names_in(each))


def names_in(compiled: Compiled) -> Iterator[str]:
    """The `${names}` that a template looks up, at any depth."""
    for part in compiled:
        if isinstance(part, AxisValue):
            yield part.name
        elif isinstance(part, Alternatives):
            for option in part.options.values():
                yield from names_in(option)


class Campaign:
    """The rows that a campaign stands for, before rules about their text."""

    def __init__(
        self,
        spec: CampaignSpec,
        axes: Sequence[Axis],
        combinations: Combinations,
        templates: Templates,
    ) -> None:
        self.spec = spec
        self.axes = tuple(axes)
        self.combinations = combinations
        self.templates = templates

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return self.combinations.num_rows

    def ids(self, positions: Ints) -> pa.StringArray:
        """The ids of some rows; (n,) string."""
        return self._ids(positions, self.combinations.at(positions))

    def table(self, positions: Ints) -> pa.Table:
        """The rows at some positions, with the columns of a manifest."""
        return self._made(positions, is_marked=False)

    def marked(self, positions: Ints) -> pa.Table:
        """As `table`, with `MARK_START` and `MARK_END` around what was drawn in its texts."""
        return self._made(positions, is_marked=True)

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of `table`."""
        return self.table(np.zeros(1, np.int64)).schema

    def covered_with_weights(self) -> Iterator[str]:
        """The choices that are combined like axes, so that their weights do not count."""
        combined = {factor.path for factor in self.combinations.factors}
        for part in self.templates.texts["prompt"]:
            if isinstance(part, Alternatives) and part.path in combined:
                weights = part.weights.values[part.weights.values > 0]
                if (weights != weights[0]).any():
                    yield part.source.text

    def uncovered(self, positions: Ints) -> str | None:
        """What `cover` names and none of some rows has; None if all of it occurs."""
        lost = self.combinations.uncovered(positions)
        cover = self.spec.draw.covered
        if lost is not None or cover is None:
            return lost
        combination = self.combinations.at(positions)
        hashes = self._hashes(self._ids(positions, combination))
        rows = DrawnRows(np.arange(len(positions)), hashes, positions)
        for part in self.templates.texts["prompt"]:
            if isinstance(part, Alternatives) and part.source.text in (cover.axes or ()):
                quotas = self._quotas_for(combination)
                picks = quotas.pick(part.path, part.key, part.weights, rows)
                never = np.setdiff1d(np.flatnonzero(part.weights.values), picks.options)
                if len(never):
                    return f"alternative {never[0] + 1} of {part.source.text}"
        return None

    def _made(self, positions: Ints, is_marked: bool) -> pa.Table:
        combination = self.combinations.at(positions)
        ids = self._ids(positions, combination)
        rows = DrawnRows(np.arange(len(positions)), self._hashes(ids), positions)
        values = self._looked_up(combination, self.templates.names)
        drawer = Drawer(values, self._quotas_for(combination), is_marked)
        columns: dict[str, pa.Array] = {"id": ids}
        for name, compiled in self.templates.texts.items():
            columns[name] = pc.utf8_trim_whitespace(drawer.texts(compiled, rows))
        for name, constant in self.templates.constants.items():
            columns[name] = pa.repeat(constant, len(positions))
        for number, axis in enumerate(self.axes):
            chosen = pa.array(combination.axes[number])
            for name, column in {**axis.settings, **axis.carried}.items():
                columns[name] = pc.take(column, chosen)
        if self.spec.seed_by is not None:
            columns["seed"] = pa.array(self._seeds(combination))
        if self.templates.draws:
            columns[DRAW_KEY] = self._draw_keys(combination, len(positions))
        return pa.table(columns)

    def _looked_up(
        self, combination: Combination, names: "frozenset[str] | Sequence[str]"
    ) -> dict[str, pa.StringArray]:
        """What some `${names}` are in each row."""
        return {
            name: pc.take(axis.texts[name], pa.array(combination.axes[number]))
            for number, axis in enumerate(self.axes)
            for name in axis.texts
            if name in names
        }

    def _ids(self, positions: Ints, combination: Combination) -> pa.StringArray:
        if self.templates.id is not None:
            values = self._looked_up(combination, frozenset(names_in(self.templates.id)))
            rows = DrawnRows(np.arange(len(positions)), np.zeros(0, np.uint64), positions)
            return Drawer(values, Independent()).texts(self.templates.id, rows)
        parts = [self._label(factor, combination) for factor in self.combinations.factors]
        if parts:
            return parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "-")
        texts = pc.cast(pa.array(positions), pa.string())
        return pc.utf8_lpad(texts, ID_DIGITS, "0")

    def _label(self, factor: Factor, combination: Combination) -> pa.StringArray:
        """What a factor adds to an id that nobody has chosen."""
        if factor.path is not None:
            numbers = pa.array(combination.options[factor.path] + 1)
            return pc.cast(numbers, pa.string())
        first = factor.axes[0]
        return pc.take(self.axes[first].labels, pa.array(combination.axes[first]))

    def _hashes(self, ids: pa.StringArray) -> Hashes:
        return hash64(ids, self.spec.draw.seed)

    def _quotas_for(self, combination: Combination) -> Quotas:
        return Fixed(combination.options, self._quotas) if combination.options else self._quotas

    @cached_property
    def _quotas(self) -> Quotas:
        if self.spec.draw.weights == "independent":
            return Independent()
        if self.spec.draw.rows != "all":
            return Counted()
        ranked = Ranked()
        if self.templates.draws:
            self._rank(ranked)
        return ranked

    def _rank(self, ranked: Ranked) -> None:
        """Show all rows to the quotas once."""
        hashes = np.empty(self.num_rows, np.uint64)
        for first in range(0, self.num_rows, CHUNK_ROWS):
            positions = np.arange(first, min(first + CHUNK_ROWS, self.num_rows))
            hashes[first : first + CHUNK_ROWS] = self._hashes(self.ids(positions))
        every = np.arange(self.num_rows)
        rows = DrawnRows(every, hashes, every)
        for compiled in self.templates.texts.values():
            fit(compiled, rows, ranked.fit())

    def _seeds(self, combination: Combination) -> Ints:
        """One seed for all rows with the same values of the axes in `seed_by`; (n,)."""
        hashes = self._combined(combination, self.spec.seed_by or (), "seed")
        return (hashes >> np.uint64(64 - SEED_BITS)).astype(np.int64)

    def _combined(self, combination: Combination, names: Sequence[str], what: str) -> Hashes:
        """Hash the values of some axes of each row, whatever their order; (n,)."""
        total = hash64(pa.array([what], pa.string()), self.spec.draw.seed)
        for name, values in sorted(self._looked_up(combination, list(names)).items()):
            own = hash64(pc.binary_join_element_wise(name, values, "\0"), self.spec.draw.seed)
            total = mix64(total * GOLDEN + own)
        return total

    def _draw_keys(self, combination: Combination, num_rows: int) -> pa.StringArray:
        """What was there before anything was drawn: templates, lists, and values; 16 hex digits."""
        total = np.full(num_rows, np.uint64(self.templates.digest))
        for number in sorted(combination.axes, key=lambda n: self.axes[n].name):
            total = mix64(total * GOLDEN + self._value_hashes[number][combination.axes[number]])
        digits = total.astype(">u8").tobytes().hex().encode()
        offsets = np.arange(0, (num_rows + 1) * KEY_DIGITS, KEY_DIGITS, dtype=np.int32)
        return pa.StringArray.from_buffers(num_rows, pa.py_buffer(offsets), pa.py_buffer(digits))

    @cached_property
    def _value_hashes(self) -> list[Hashes]:
        """Axis -> (k,) a hash of each value with all its columns."""
        found = []
        for axis in self.axes:
            total = hash64(axis.labels, 0)
            for name in sorted(axis.texts):
                named = pc.binary_join_element_wise(name, axis.texts[name], "\0")
                total = mix64(total * GOLDEN + hash64(pc.fill_null(named, ""), 0))
            found.append(total)
        return found
