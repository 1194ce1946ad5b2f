"""Which values of the axes each row of a campaign has: rules, covering and drawing order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.campaign.axes import Axis, text_of, zipped
from nightpress.pipelines.campaign.compiled import Alternatives, key_of
from nightpress.pipelines.campaign.covering import TooManyTuples, covering_rows
from nightpress.pipelines.campaign.near_names import did_you_mean
from nightpress.pipelines.campaign.orders import AsWritten, Order, Shuffled
from nightpress.pipelines.campaign.permutation import MAX_SIZE, Ints
from nightpress.pipelines.campaign.places import Key, Places
from nightpress.pipelines.campaign.product import Forbidden, Product, TooManyRules
from nightpress.pipelines.campaign.spec import CampaignSpec, Cover
from nightpress.pipelines.formatting import plural

MAX_ROWS = 100_000_000
"""The most rows of one campaign."""

ZIPPED = "\x1f"
"""Between the labels of axes in step."""


@dataclass(frozen=True)
class Factor:
    """What varies by itself: some axes in step, or a choice that is covered."""

    name: str
    labels: pa.StringArray
    """(k,) what tells its values apart, whatever their order."""
    axes: tuple[int, ...] = ()
    """The axes, by number."""
    path: str | None = None
    """The choice."""
    options: Ints | None = None
    """(k,) the alternatives of the choice, by number."""

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def in_order(self) -> Ints:
        """The values sorted by label, so that drawing does not depend on how they are listed."""
        return np.array(pc.array_sort_indices(self.labels)).astype(np.int64)


@dataclass(frozen=True)
class Combination:
    """The values of n rows."""

    axes: Mapping[int, Ints]
    """Axis -> (n,) the value of each row, by number."""
    options: Mapping[str, Ints]
    """Path of a covered choice -> (n,) the alternative of each row."""


class Combinations:
    """The rows of a campaign, as combinations of the values of its axes."""

    def __init__(
        self,
        spec: CampaignSpec,
        axes: Sequence[Axis],
        covered: Sequence[Alternatives],
        places: Places,
    ) -> None:
        """Find the combinations, without enumerating them.

        Args:
            spec: the campaign.
            axes: its axes.
            covered: the choices that `cover` names with a strength above 1.
            places: where the keys of the campaign stand.

        Raises:
            ManifestError: rules or `cover` cannot be met.
        """
        self._spec, self._axes, self._places = spec, axes, places
        groups = zipped(spec, axes, places)
        self.factors = [*(_of_axes(axes, group) for group in groups), *map(_of_choice, covered)]
        self._is_drawn = spec.draw.rows != "all"
        self._order_of_factors = (
            sorted(range(len(self.factors)), key=lambda n: self.factors[n].name)
            if self._is_drawn
            else list(range(len(self.factors)))
        )
        self._product = self._allowed()
        self._covered_places: list[int] = []
        self._num_covering = 0
        self._order = self._ordered()

    @property
    def size(self) -> int:
        """How many combinations the rules leave."""
        return self._product.size

    @property
    def num_combinations(self) -> int:
        """How many there would be without rules."""
        total = 1
        for factor in self.factors:
            total *= len(factor)
        return total

    def at(self, positions: Ints) -> Combination:
        """The combinations at some positions of the drawing order."""
        if not self.factors:
            return Combination({}, {})
        values = self._values(positions)
        axes: dict[int, Ints] = {}
        options: dict[str, Ints] = {}
        for place, number in enumerate(self._order_of_factors):
            factor = self.factors[number]
            chosen = self._listed(factor)[values[:, place]]
            axes |= dict.fromkeys(factor.axes, chosen)
            if factor.path is not None and factor.options is not None:
                options[factor.path] = factor.options[chosen]
        return Combination(axes, options)

    def allows(self, chosen: Mapping[int, int]) -> bool:
        """Whether any row may have these values.

        Args:
            chosen: axis -> value, both by number.
        """
        values: dict[int, int] = {}
        for place, number in enumerate(self._order_of_factors):
            factor = self.factors[number]
            wanted = {chosen[axis] for axis in factor.axes if axis in chosen}
            if len(wanted) > 1:  # axes in step have the same value
                return False
            listed = self._listed(factor)
            if wanted:
                values[place] = int(np.flatnonzero(listed == wanted.pop())[0])
        return self._product.completions(values) > 0

    def uncovered(self, positions: Ints) -> str | None:
        """Values that `cover` wants together and that none of some rows has; None if all occur.

        Args:
            positions: (n,) the rows, by their positions in the drawing order.
        """
        cover = self._spec.draw.covered
        if cover is None or not self._num_covering:
            return None
        first = self._values(np.arange(self._num_covering))
        given = self._values(positions)
        places = self._covered_places
        for group in combinations(places, min(cover.strength, len(places))):
            sizes = [self._product.sizes[place] for place in group]
            wanted, found = (
                np.ravel_multi_index(tuple(values[:, place] for place in group), sizes)
                for values in (first, given)
            )
            lost = np.setdiff1d(wanted, found)
            if len(lost):
                pairs = zip(group, np.unravel_index(lost[0], sizes), strict=True)
                return " and ".join(self._in_words(place, int(value)) for place, value in pairs)
        return None

    def described(self, position: int) -> str:
        """`product = boots, surface = oak`: the values at a position of the drawing order."""
        values = self._values(np.array([position]))[0].tolist()
        words = {
            number: self._in_words(place, values[place])
            for place, number in enumerate(self._order_of_factors)
        }
        return ", ".join(words[number] for number in sorted(words))

    def _in_words(self, place: int, value: int) -> str:
        """`product = boots`, for a value of a factor."""
        factor = self.factors[self._order_of_factors[place]]
        number = int(self._listed(factor)[value])
        if factor.options is not None:
            return f"alternative {factor.options[number] + 1} of {factor.name}"
        return f"{factor.name} = {factor.labels[number].as_py().replace(ZIPPED, '/')}"

    def _values(self, positions: Ints) -> Ints:
        """The value of each factor at some positions, in the order of the product."""
        return self._product.combinations(self._order.numbers(positions))

    def _listed(self, factor: Factor) -> Ints:
        """The values of a factor in the order of the product."""
        return factor.in_order if self._is_drawn else np.arange(len(factor))

    def _allowed(self) -> Product:
        sizes = [len(self.factors[number]) for number in self._order_of_factors]
        rules = [
            self._forbidden(number, rule.forbid)
            for number, rule in enumerate(self._spec.rules)
            if rule.forbid is not None
        ]
        try:
            product = Product(sizes, rules)
        except TooManyRules as error:
            raise self._places.error(("rules",), str(error)) from error
        if not product.size:
            raise self._places.error(("rules",), "the rules leave no combination of the axes")
        if product.size > MAX_SIZE and self._is_drawn:
            message = f"{product.size:,} combinations are more than the 2^62 that can be drawn from"
            raise self._places.error(("axes",), message)
        return product

    def _forbidden(self, number: int, forbid: Mapping[str, object]) -> Forbidden:
        """A rule as masks over the values of the product."""
        masks: dict[int, NDArray[np.bool_]] = {}
        for name, value in forbid.items():
            key: Key = ("rules", number, "forbid", name)
            axis = self._axis_of(name, key)
            wanted = [text_of(each) for each in (value if isinstance(value, list) else [value])]
            texts = self._axes[axis].texts[name]
            known = texts.to_pylist()
            for each in wanted:
                if each not in known:
                    hint = did_you_mean(each, {t for t in known if t is not None}, "values")
                    raise self._places.error(key, f"no value of {name} is {each!r}; {hint}")
            meant = np.array(pc.fill_null(pc.is_in(texts, pa.array(wanted)), False))
            place = next(
                place
                for place, factor in enumerate(self._order_of_factors)
                if axis in self.factors[factor].axes
            )
            meant = meant[self._listed(self.factors[self._order_of_factors[place]])]
            masks[place] = masks[place] & meant if place in masks else meant
        return Forbidden(masks)

    def _axis_of(self, name: str, key: Key) -> int:
        for number, axis in enumerate(self._axes):
            if name in axis.texts:
                return number
        names = [each for axis in self._axes for each in axis.texts]
        hint = did_you_mean(name, names, "names")
        raise self._places.error(key, f"{name}: no such axis; {hint}")

    def _ordered(self) -> Order:
        cover = self._spec.draw.covered
        wanted = [] if cover is None else self._covered_factors(cover)
        if not self._is_drawn or not self.factors:
            return AsWritten(self._product.size)
        key = key_of("order", self._spec.draw.seed)
        first = np.zeros(0, np.int64)
        if cover is not None and wanted:
            first = self._covering(cover, wanted)
        return Shuffled(self._product.size, key, first)

    def _covering(self, cover: Cover, wanted: Sequence[int]) -> Ints:
        """The combinations that come first, so that what is to be covered occurs."""
        places = sorted(self._order_of_factors.index(number) for number in wanted)
        key = key_of("cover", self._spec.draw.seed)
        try:
            rows = covering_rows(self._product, places, cover.strength, key)
        except TooManyTuples as error:
            raise self._places.error(("draw", "cover"), str(error)) from error
        rows_wanted = self._spec.draw.rows
        if isinstance(rows_wanted, int) and len(rows) > rows_wanted:
            what = {1: "every value", 2: "every pair", 3: "every triple"}[cover.strength]
            message = (
                f"{plural(rows_wanted, 'row')} cannot cover {what}; draw at least {len(rows):,}"
            )
            raise self._places.error(("draw", "rows"), message)
        self._covered_places, self._num_covering = places, len(rows)
        return self._product.numbers(rows)

    def _covered_factors(self, cover: Cover) -> list[int]:
        """The factors that a `cover` names; choices with strength 1 are covered by their shares."""
        if cover.axes is None:
            return list(range(len(self.factors)))
        found = []
        for place, name in enumerate(cover.axes):
            of_axis = [
                number
                for number, factor in enumerate(self.factors)
                if name in (factor.name, *(self._axes[axis].name for axis in factor.axes))
            ]
            if not of_axis and not name.startswith(("__", "{")):
                hint = did_you_mean(name, [axis.name for axis in self._axes], "axes")
                key: Key = ("draw", "cover", place)
                raise self._places.error(key, f"{name}: no such axis; {hint}")
            found += of_axis
        return list(dict.fromkeys(found))

    @cached_property
    def num_rows(self) -> int:
        """How many rows are drawn.

        Raises:
            ManifestError: more than there can be.
        """
        rows = self._spec.draw.rows
        if rows == "all":
            if self._product.size > MAX_ROWS:
                message = (
                    f"{self._product.size:,} combinations are more than {MAX_ROWS:,} rows; draw "
                    "some of them with `draw: {rows: 5000}`"
                )
                raise self._places.error(("axes",), message)
            return self._product.size
        if rows > MAX_ROWS:
            message = f"{rows:,} rows are more than the {MAX_ROWS:,} of one campaign"
            raise self._places.error(("draw", "rows"), message)
        if self.factors and rows > self._product.size:
            rules = " under these rules" if self._product.size < self.num_combinations else ""
            message = (
                f"{rows:,} rows are more than the {plural(self._product.size, 'combination')} of "
                f"the axes{rules}; draw fewer, or add an axis such as `take: {{count: 10}}`"
            )
            raise self._places.error(("draw", "rows"), message)
        return rows


def _of_axes(axes: Sequence[Axis], group: Sequence[int]) -> Factor:
    labels = [axes[number].labels for number in group]
    joined = labels[0] if len(labels) == 1 else pc.binary_join_element_wise(*labels, ZIPPED)
    return Factor("/".join(axes[number].name for number in group), joined, axes=tuple(group))


def _of_choice(part: Alternatives) -> Factor:
    options = np.flatnonzero(part.weights.values > 0).astype(np.int64)
    digits = len(str(len(part.weights)))
    labels = pa.array([f"{option + 1:0{digits}d}" for option in options.tolist()], pa.string())
    return Factor(part.source.text, labels, path=part.path, options=options)
