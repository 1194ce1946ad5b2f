"""What the report shows of the images that reviewers picked."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Self

from nightpress.pipelines.errors import PipelineError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.job.cost_section import money
from nightpress.pipelines.reporting.gallery import MAX_CAPTION, text
from nightpress.pipelines.reporting.pick_rates import ALL, PickRate, PickRates, pick_rates
from nightpress.pipelines.run_directory.reader import Run

NONE = "\N{EM DASH}"


@dataclass(frozen=True)
class PickRow:
    """A row of the table of pick rates, as text."""

    value: str
    num_images: str
    num_marked: str
    num_picked: str
    num_rejected: str
    rate: str
    interval: str
    cost: str

    @classmethod
    def of(cls, each: PickRate) -> Self:
        """The row of a rate."""
        cost = each.cost_per_picked
        value = "none" if each.value is None else text(each.value, MAX_CAPTION) or "empty"
        return cls(
            value="all images" if each.column == ALL else value,
            num_images=f"{each.num_images:,}",
            num_marked=f"{each.num_marked:,}",
            num_picked=f"{each.num_picked:,}",
            num_rejected=f"{each.num_rejected:,}",
            rate=NONE if each.rate is None else f"{each.rate:.1%}",
            interval=NONE
            if each.rate_low is None or each.rate_high is None
            else f"{each.rate_low:.1%} to {each.rate_high:.1%}",
            cost=NONE if cost is None else money(cost, each.currency or ""),
        )


@dataclass(frozen=True)
class Picks:
    """The pick rates of a run, or why they are unknown."""

    rates: PickRates | None = None
    """None if nobody has marked an image, or there is a problem."""
    problem: str = ""

    @classmethod
    def of(cls, run: Run, rates: PickRates | None = None) -> Self:
        """Those that are given, or those under the policy `any`; nothing here costs a report."""
        try:
            return cls(rates or pick_rates(run))
        except PipelineError as error:
            return cls(problem=text(f"unknown: the marks cannot be read: {error}"))

    @property
    def totals(self) -> list[tuple[str, str]]:
        """The numbers at the top of the page about picks: name and value."""
        if self.rates is None or not self.rates.rows:
            return []
        whole = self.rates.rows[0]
        found = [("picked", f"{whole.num_picked:,}")]
        if whole.cost_per_picked is not None:
            found.append(("a picked image", money(whole.cost_per_picked, whole.currency or "")))
        return found

    @property
    def whole(self) -> PickRow | None:
        """The row of all images."""
        rows = () if self.rates is None else self.rates.rows
        return PickRow.of(rows[0]) if rows else None

    @property
    def note(self) -> str:
        """Under which policy marks are counted, and which columns are not in the table."""
        if self.rates is None:
            return ""
        left_out = ", ".join(text(name, MAX_CAPTION) for name in self.rates.left_out)
        more = f"; too many values: {left_out}" if left_out else ""
        bad = len(self.rates.ignored)
        lost = f"; {plural(bad, 'object')} with marks ignored, as damaged or of another run"
        return f"policy {self.rates.policy}{more}{lost if bad else ''}"

    @property
    def columns(self) -> Iterator[tuple[str, list[PickRow]]]:
        """The rows by column, without that of all images."""
        rows = () if self.rates is None else self.rates.rows[1:]
        for name, group in groupby(rows, lambda each: each.column):
            yield text(name, MAX_CAPTION), [PickRow.of(each) for each in group]

    @property
    def has_cost(self) -> bool:
        """Whether any row has a cost."""
        rows = () if self.rates is None else self.rates.rows
        return any(each.cost_per_picked is not None for each in rows)


NO_PICKS = Picks()
