"""Merging the marks of reviewers: which of them count, what they come to, where they disagree.

The order in which objects are read decides nothing: of the marks of one reviewer on one field of
one image and its bytes, the highest counter counts, then the highest session and number.
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median_low
from typing import Literal, Self

import pyarrow as pa

from nightpress.pipelines.errors import MarksError
from nightpress.pipelines.run_directory.marks import (
    MARKS_FOLDER,
    MarksObject,
    checked_reviewer,
    read_objects,
)
from nightpress.pipelines.run_directory.marks_file import (
    CountedMark,
    RecalledMarks,
    marks_table,
    recall_marks,
    write_marks_file,
)
from nightpress.pipelines.storage import Store

DECISIONS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("flag", pa.string(), nullable=False),
        pa.field("stars", pa.int32(), nullable=False),
        pa.field("colour", pa.string(), nullable=False),
        pa.field("comments", pa.list_(pa.string()), nullable=False),
        pa.field("num_picks", pa.int32(), nullable=False),
        pa.field("num_rejects", pa.int32(), nullable=False),
        pa.field("disagree", pa.bool_(), nullable=False),
    ]
)
"""What the marks on an image come to under a policy; one row for each image with current marks."""

FAR_APART = 2
"""Stars by which two reviewers must differ to disagree."""

PolicyName = Literal["any", "all", "majority", "lead"]
POLICIES: tuple[PolicyName, ...] = ("any", "all", "majority", "lead")


class MarksWarning(UserWarning):
    """An object with marks is damaged, or of another run, and is ignored."""


@dataclass
class MergedMarks:
    """The marks of a run, merged; `refresh` reads what has come since.

    Args:
        store: the run directory.
        run: the run's fingerprint at its start.
    """

    store: Store
    run: str
    counted: dict[tuple[str, str, str, str], CountedMark] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """Path of an object that is ignored -> what is wrong with it."""
    seen: set[str] = field(default_factory=set)
    """Paths of the objects that were read."""

    def refresh(self) -> int:
        """Read the objects that were not read before; returns how many there were.

        Raises:
            StoreError: the store failed.
        """
        listed = self.store.list(MARKS_FOLDER)
        if listed and not self.seen:
            self._recall(listed)
        paths = [path for path in listed if path not in self.seen]
        for path, found in read_objects(self.store, self.run, paths):
            if isinstance(found, MarksError):
                self.seen.add(path)
                self.problems[path] = str(found)
            else:
                self.add(found)
        return len(paths)

    def _recall(self, listed: Collection[str]) -> None:
        """Take over what `review/marks.parquet` has, if all its objects are still there."""
        found = recall_marks(self.store, self.run)
        if found is not None and {*found.objects, *found.problems} <= set(listed):
            self.counted = {each.key: each for each in found.marks}
            self.problems = dict(found.problems)
            self.seen = {*found.objects, *found.problems}

    def add(self, found: MarksObject) -> None:
        """Merge the marks of one object."""
        self.seen.add(found.path)
        for mark in found.marks:
            each = CountedMark(found.reviewer, mark, found.session, found.n)
            known = self.counted.get(each.key)
            if known is None or each.order >= known.order:
                self.counted[each.key] = each

    @property
    def reviewers(self) -> list[str]:
        """Who has marked anything, in alphabetical order."""
        return sorted({key[0] for key in self.counted})

    def table(self, current: Mapping[str, str]) -> pa.Table:
        """The marks that count as MARKS_SCHEMA, sorted by reviewer, image, hash and field.

        Args:
            current: image id -> SHA-256 of its file now.
        """
        return marks_table(self._sorted(), current)

    def write(self, current: Mapping[str, str]) -> None:
        """Write `review/marks.parquet`.

        Raises:
            StoreError: the store failed.
        """
        content = RecalledMarks(self._sorted(), self.seen - set(self.problems), self.problems)
        write_marks_file(self.store, self.run, content, current)

    def warn(self) -> None:
        """Warn with a `MarksWarning` for each object that is ignored."""
        for path, problem in self.problems.items():
            text = f"{self.store.url}/{path} is ignored: {problem}"
            warnings.warn(text, MarksWarning, stacklevel=3)

    def _sorted(self) -> list[CountedMark]:
        return [self.counted[key] for key in sorted(self.counted)]


@dataclass(frozen=True)
class Policy:
    """How the marks of several reviewers become one decision on an image."""

    name: PolicyName = "any"
    """`any`: one pick is enough. `all`: every reviewer of the run must agree. `majority`: more than
    half of those that have flagged the image. `lead`: one reviewer decides."""
    lead: str | None = None
    """The reviewer who decides under `lead`."""

    @classmethod
    def of(cls, name: str, lead: str | None = None) -> Self:
        """A policy by its name.

        Raises:
            MarksError: there is none of that name, or a lead is missing or superfluous.
        """
        for known in POLICIES:
            if name == known:
                break
        else:
            raise MarksError(f"policy {name!r}: must be one of {', '.join(POLICIES)}")
        if known == "lead" and lead is None:
            raise MarksError("policy lead: name the reviewer who decides")
        if known != "lead" and lead is not None:
            raise MarksError(f"a lead decides only under the policy lead, not under {name}")
        return cls(known, None if lead is None else checked_reviewer(lead))


def decisions(table: pa.Table, policy: Policy) -> pa.Table:
    """What marks come to under a policy, as DECISIONS_SCHEMA, sorted by image id.

    Marks on images that were made again since, and marks that were taken back, do not count.

    Args:
        table: MARKS_SCHEMA, of all reviewers.
        policy: the policy.

    Raises:
        MarksError: the lead has marked nothing.
    """
    reviewers = set(table.column("reviewer").unique().to_pylist())
    if policy.lead is not None and policy.lead not in reviewers:
        known = ", ".join(sorted(reviewers)) or "nobody"
        raise MarksError(f"policy lead: {policy.lead} has marked nothing; reviewers are: {known}")
    images: dict[tuple[str, str], _ImageMarks] = {}
    for row in table.filter(table.column("current")).to_pylist():
        if row["value"] not in ("", "0"):
            found = images.setdefault((row["image_id"], row["sha256"]), _ImageMarks())
            found.values.setdefault(row["field"], {})[row["reviewer"]] = row["value"]
    rows = [
        {
            "image_id": image_id,
            "sha256": sha256,
            **images[image_id, sha256].decided(policy, len(reviewers)),
        }
        for image_id, sha256 in sorted(images)
    ]
    return pa.Table.from_pylist(rows, schema=DECISIONS_SCHEMA)


@dataclass
class _ImageMarks:
    """The marks on one image."""

    values: dict[str, dict[str, str]] = field(default_factory=dict)
    """Field -> reviewer -> value."""

    def decided(self, policy: Policy, num_reviewers: int) -> dict[str, object]:
        """The columns of DECISIONS_SCHEMA behind the first two.

        Args:
            num_reviewers: reviewers of the run.
        """
        flags = self.values.get("flag", {})
        stars = {name: int(value) for name, value in self.values.get("stars", {}).items()}
        comments = self.values.get("comment", {})
        votes = list(flags.values())
        return {
            "flag": self._flag(policy, num_reviewers),
            "stars": self._stars(stars, policy, num_reviewers),
            "colour": self._colour(policy),
            "comments": [f"{name}: {comments[name]}" for name in sorted(comments)],
            "num_picks": votes.count("pick"),
            "num_rejects": votes.count("reject"),
            "disagree": len(set(votes)) > 1 or _range(stars.values()) >= FAR_APART,
        }

    def _flag(self, policy: Policy, num_reviewers: int) -> str:
        flags = self.values.get("flag", {})
        if policy.lead is not None:
            return flags.get(policy.lead, "")
        votes = list(flags.values())
        needed = {"any": 1, "all": num_reviewers, "majority": len(votes) // 2 + 1}[policy.name]
        for flag in ("pick", "reject"):  # under `any` a pick wins over a reject
            if votes.count(flag) >= needed:
                return flag
        return ""

    def _stars(self, stars: Mapping[str, int], policy: Policy, num_reviewers: int) -> int:
        if policy.lead is not None:
            return stars.get(policy.lead, 0)
        if not stars or (policy.name == "all" and len(stars) < num_reviewers):
            return 0
        choose: Mapping[str, Callable[[Iterable[int]], int]]
        choose = {"any": max, "all": min, "majority": median_low}
        return choose[policy.name](stars.values())

    def _colour(self, policy: Policy) -> str:
        """The colour of the lead, or the one that all agree on who gave it one."""
        colours = self.values.get("colour", {})
        if policy.lead is not None:
            return colours.get(policy.lead, "")
        return next(iter(colours.values())) if len(set(colours.values())) == 1 else ""


def _range(values: Iterable[int]) -> int:
    found = list(values)
    return max(found) - min(found) if found else 0
