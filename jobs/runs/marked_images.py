"""Images of a run chosen by what reviewers said about them."""

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.shared import OnEvent, ignore
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.run_directory.marks import MAX_STARS
from nightpress.pipelines.run_directory.marks_merge import (
    DECISIONS_SCHEMA,
    MergedMarks,
    Policy,
    PolicyName,
    decisions,
)
from nightpress.pipelines.run_directory.reader import Run


@dataclass(frozen=True)
class MarkChoice:
    """Images by their marks, which a policy makes one decision of."""

    flag: Literal["pick", "reject"] | None = None
    """Images that are picked, or rejected; None for either and neither."""
    stars: int | None = None
    """At least so many stars; 1 to 5."""
    policy: PolicyName = "any"
    lead: str | None = None
    """The reviewer who decides under the policy `lead`."""
    include_changed: bool = False
    """Take images, too, that were made again since they were marked."""

    def check(self) -> None:
        """Check what was asked for.

        Raises:
            SpecError: nothing is asked for, or a number of stars that there is not.
            MarksError: the policy and the lead do not fit.
        """
        if self.flag is None and self.stars is None:
            raise SpecError("marks: choose by a flag, by stars, or by both")
        if self.stars is not None and not 1 <= self.stars <= MAX_STARS:
            raise SpecError(f"stars: {self.stars} is not a number from 1 to {MAX_STARS}")
        Policy.of(self.policy, self.lead)

    def __str__(self) -> str:
        """`picked and given at least 3 stars`."""
        flag = {"pick": "picked", "reject": "rejected", None: ""}[self.flag]
        stars = "" if self.stars is None else f"given at least {plural(self.stars, 'star')}"
        return " and ".join(filter(None, (flag, stars)))

    def as_dict(self) -> dict[str, Any]:
        """As JSON values, without what is not given."""
        values = {
            "flag": self.flag,
            "stars": self.stars,
            "policy": self.policy,
            "lead": self.lead,
            "include_changed": self.include_changed or None,
        }
        return {name: value for name, value in values.items() if value is not None}

    def takes(self, table: pa.Table) -> pa.Table:
        """The rows of DECISIONS_SCHEMA that are chosen."""
        chosen = pc.is_valid(table.column("image_id"))
        if self.flag is not None:
            chosen = pc.and_(chosen, pc.equal(table.column("flag"), self.flag))
        if self.stars is not None:
            chosen = pc.and_(chosen, pc.greater_equal(table.column("stars"), self.stars))
        return table.filter(chosen)


@dataclass(frozen=True)
class Marked:
    """The images of a run that a choice by marks takes."""

    images: pa.Table
    """DECISIONS_SCHEMA; `sha256` is that of the bytes that were marked."""
    changed: tuple[str, ...]
    """Ids of images that were made again since they were marked so, and not marked again; they are
    among `images` only if the choice includes them."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The chosen images, sorted."""
        return tuple(self.images.column("image_id").to_pylist())


def read_marks(run: Run, on_event: OnEvent = ignore) -> pa.Table:
    """The marks of a run as MARKS_SCHEMA; says which objects with marks are ignored.

    Raises:
        StoreError: they cannot be read.
    """
    found = MergedMarks(run.store, run.record.fingerprint_at_first)
    found.refresh()
    for path, problem in found.problems.items():
        on_event(Message(f"{run.url}/{path} is ignored: {problem}", warning=True))
    return found.table(run.hashes() if found.counted else {})


def marked_images(run: Run, choice: MarkChoice, on_event: OnEvent = ignore) -> Marked:
    """The images of a run with certain marks.

    Args:
        run: the run.
        choice: which of its images.
        on_event: called with messages about marks that are ignored.

    Raises:
        SpecError: nobody has marked anything, or no image has such marks.
        MarksError: the lead has marked nothing.
        StoreError: the marks cannot be read.
    """
    choice.check()
    marks, policy = read_marks(run, on_event), Policy.of(choice.policy, choice.lead)
    if not len(marks):
        raise SpecError(
            f"{run.url}: nobody has marked an image of it yet; nightpress review opens the page "
            "for that"
        )
    current = decisions(marks, policy)
    images = choice.takes(current)
    stale = _changed(marks, current, policy, choice)
    if choice.include_changed:
        images = pa.concat_tables([images, stale]).sort_by("image_id")
    found = Marked(images, tuple(stale.column("image_id").to_pylist()))
    if not len(images):
        raise SpecError(f"{run.url}: {_nothing(found, choice, len(current))}")
    return found


def picked_later(run: Run, choice: MarkChoice) -> dict[str, str]:
    """The rows of which an image that was made again is picked: row id -> id of such an image.

    Args:
        run: the run.
        choice: whose policy decides what is picked.

    Raises:
        StoreError: the marks or the metadata cannot be read.
    """
    decided = decisions(read_marks(run), Policy.of(choice.policy, choice.lead))
    picked = decided.filter(pc.equal(decided.column("flag"), "pick")).column("image_id")
    condition = pc.field("image_id").isin(picked.combine_chunks()) & pc.field("parent").is_valid()
    with run.reading():
        later = run.metadata.to_table(columns=["id", "image_id"], filter=condition)
    return dict(zip(*(later.column(name).to_pylist() for name in ("id", "image_id")), strict=True))


def _nothing(found: Marked, choice: MarkChoice, num_marked: int) -> str:
    """Why no image is chosen."""
    said = f"no image is {choice} under the policy {choice.policy}"
    if found.changed:
        changed = plural(len(found.changed), "image")
        return f"{said}; {changed} made again since, which only --include-changed takes"
    return f"{said}; {plural(num_marked, 'image')} with marks"


def _changed(marks: pa.Table, current: pa.Table, policy: Policy, choice: MarkChoice) -> pa.Table:
    """What marks on earlier bytes of images come to, where no mark on the present ones does.

    Of several earlier versions that are chosen, one counts.
    """
    earlier = marks.filter(pc.invert(marks.column("current")))
    if not len(earlier):
        return DECISIONS_SCHEMA.empty_table()
    at = earlier.schema.get_field_index("current")
    as_current = earlier.set_column(at, earlier.field("current"), pa.array([True] * len(earlier)))
    marked_again = pc.is_in(
        earlier.column("image_id"), value_set=current.column("image_id").combine_chunks()
    )
    as_current = as_current.filter(pc.invert(marked_again))
    if policy.lead is not None and policy.lead not in as_current.column("reviewer").to_pylist():
        return DECISIONS_SCHEMA.empty_table()
    chosen = choice.takes(decisions(as_current, policy)).to_pylist()
    by_image = {row["image_id"]: row for row in chosen}
    return pa.Table.from_pylist(list(by_image.values()), DECISIONS_SCHEMA)
