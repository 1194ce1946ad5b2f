"""A run as its review page asks for it: rows, images, atlases and marks, read from the store.

Every method may block on the store; the server calls them in threads.
"""

import hashlib
import json
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from nightpress.jobs.reviews.access import Refused, shown
from nightpress.jobs.reviews.options import ReviewOptions
from nightpress.jobs.reviews.thumbs import LateThumbs, ThumbsProgress
from nightpress.pipelines.errors import MarksError, StoreMissing
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.review.rows import PageContext, ReviewRows, read_rows, rows_json
from nightpress.pipelines.review.thumbnails import make_again
from nightpress.pipelines.run_directory.commit import commit_sizes
from nightpress.pipelines.run_directory.late_scores import newest_parts
from nightpress.pipelines.run_directory.marks import (
    MarksObject,
    checked_marks,
    checked_session,
    store_marks,
)
from nightpress.pipelines.run_directory.marks_merge import MergedMarks, Policy, decisions
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import (
    THUMBS_FOLDER,
    Thumbs,
    atlas_entries,
    is_intact,
    read_thumbs,
)

MOST_OBJECTS = 10**9
"""Objects of a session, at most."""

GZIP_LEVEL = 5

Say = Callable[[str], None]


@dataclass(frozen=True)
class Decided:
    """What the marks of a run come to under its policy."""

    num_picked: int = 0
    num_rejected: int = 0
    num_disagreeing: int = 0
    """Images on which reviewers disagree."""


@dataclass(frozen=True)
class Picture:
    """The bytes of an image that the page shows."""

    data: bytes
    sha256: str


class ReviewedRun:
    """A run that is reviewed.

    Args:
        run: the run; its store must not write a name twice.
        options: how it is reviewed.
        say: told what a person should know, in one line.
        late: makes thumbnails meanwhile; None if none are made.
    """

    def __init__(
        self, run: Run, options: ReviewOptions, say: Say, late: LateThumbs | None = None
    ) -> None:
        self.run, self.options, self._say, self._late = run, options, say, late
        self.marks = MergedMarks(run.store, run.record.fingerprint_at_first)
        self._rows: ReviewRows | None = None
        self._thumbs = Thumbs()
        self._rows_of: object = None
        self._body = b""
        self._index: dict[str, int] = {}
        """Image id -> its row."""
        self._once: set[tuple[str, str]] = set()
        """Image id and SHA-256 of images that were made again since a page was sent."""
        self._rows_lock, self._marks_lock = threading.Lock(), threading.Lock()
        self.num_stored = 0
        """Marks that were stored by this server."""

    # Rows

    def rows(self) -> ReviewRows:
        """The images, read anew if a shard was committed or scored, or thumbnails came.

        Raises:
            StoreError: the store failed.
        """
        with self._rows_lock:
            store = self.run.store
            state = commit_sizes(store), newest_parts(store), store.list(THUMBS_FOLDER)
            if self._rows is None or state != self._rows_of:
                self._remember_hashes()
                self._thumbs, self._rows, self._rows_of = (
                    read_thumbs(store),
                    read_rows(self.run),
                    state,
                )
                ids = self._rows.table.column("image_id").to_pylist()
                self._thumbs.add(self._late.since(0)[0] if self._late else ())
                self._index = {image_id: row for row, image_id in enumerate(ids)}
                self._body = b""
            return self._rows

    def _remember_hashes(self) -> None:
        if self._rows is not None:
            now = self.run.hashes()
            columns = (self._rows.table.column(name).to_pylist() for name in ("image_id", "sha256"))
            shown_before = zip(*columns, strict=True)
            self._once.update(each for each in shown_before if now.get(each[0]) != each[1])

    def rows_body(self) -> bytes:
        """What `/api/rows` answers: JSON in a gzip file.

        Raises:
            StoreError: the store failed.
        """
        rows = self.rows()
        self.refresh_marks()
        with self._rows_lock:
            if not self._body:
                context = PageContext(
                    self.options.reviewer,
                    self.options.read_only,
                    self.options.group_by,
                    self.notes(),
                    thumbs_coming=self._late is not None and not self._late.is_done,
                )
                packer = zlib.compressobj(GZIP_LEVEL, wbits=31)
                pieces = [packer.compress(each) for each in rows_json(rows, self._thumbs, context)]
                self._body = b"".join([*pieces, packer.flush()])
                self._rows = rows.without_columns()  # the others are in the body
            return self._body

    @property
    def thumbs(self) -> Thumbs:
        """The thumbnails of the rows that were read last."""
        return self._thumbs

    def thumbs_body(self, after: int) -> bytes:
        """What `/api/thumbs` answers, as JSON: thumbnails that came since, and how far it is.

        Args:
            after: how many atlases the page has received before.
        """
        atlases, progress = self._late.since(after) if self._late else ((), ThumbsProgress())
        values = {
            "atlases": [
                {
                    "url": f"{PageContext.atlas_folder}/{each.path.rpartition('/')[2]}",
                    **atlas_entries(each),
                }
                for each in atlases
            ],
            "num_made": progress.num_made,
            "num_missing": progress.num_missing,
            "num_unreadable": progress.num_unreadable,
            "is_done": progress.is_done,
            "problem": progress.problem,
        }
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()

    def notes(self) -> tuple[str, ...]:
        """Sentences for the page about objects that are ignored."""
        marks = [f"{path} is ignored: {why}." for path, why in self.marks.problems.items()]
        thumbs = [f"{path}: {why}." for path, why in self._thumb_problems().items()]
        return (*_cut(marks, "objects with marks"), *_cut(thumbs, "objects with thumbnails"))

    def _thumb_problems(self) -> dict[str, str]:
        if self._rows is None or not self._thumbs.problems:
            return {}
        columns = (self._rows.table.column(name).to_pylist() for name in ("image_id", "sha256"))
        return self._thumbs.problems_of(set(zip(*columns, strict=True)))

    # Pictures

    def sha256_of(self, image_id: str) -> str:
        """SHA-256 of an image of the page.

        Raises:
            Refused: there is no such image.
        """
        return str(self._row(image_id)["sha256"])

    def picture(self, image_id: str) -> Picture:
        """The bytes of an image as they were stored.

        Raises:
            Refused: it is not there, or damaged.
            StoreError: the store failed.
        """
        row = self._row(image_id)
        try:
            data = image_bytes(self.run.store, row)
        except StoreMissing as error:
            raise Refused(404, f"{image_id}: the image is not in the store any more") from error
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            raise Refused(
                410, f"{image_id}: the image is damaged; nightpress verify --repair makes it again"
            )
        return Picture(data, row["sha256"])

    def _row(self, image_id: str) -> Mapping[str, Any]:
        rows = self._rows or self.rows()
        number = self._index.get(image_id)
        if number is None:
            raise Refused(404, f"there is no image {shown(image_id)}")
        row: Mapping[str, Any] = rows.images.slice(number, 1).to_pylist()[0]
        return row

    def atlas(self, name: str) -> bytes:
        """An atlas; one that is damaged is made again.

        Raises:
            Refused: there is no such atlas, or it cannot be made again.
            StoreError: the store failed.
        """
        path = f"{THUMBS_FOLDER}/{name}"
        if self._rows is None:
            self.rows()
        atlas = self._thumbs.named.get(path) or (self._late.named(path) if self._late else None)
        if atlas is None:
            raise Refused(404, f"there is no atlas {shown(name)}")
        data = self.run.store.read_if_any(path)
        if data is not None and is_intact(path, data):
            return data
        what = "missing" if data is None else "damaged"
        if self.options.read_only:
            raise Refused(410, f"{path} is {what}, and nothing may be written")
        self._say(f"{path} is {what}; it is made again")
        again = make_again(self.run, atlas)
        if again is None:
            raise Refused(410, f"{path} is {what}, and its images cannot be read")
        return again

    # Marks

    def refresh_marks(self) -> int:
        """Read marks that others have stored since; returns how many objects there are.

        Raises:
            StoreError: the store failed.
        """
        with self._marks_lock:
            before = set(self.marks.problems)
            self.marks.refresh()
            for path in self.marks.problems.keys() - before:
                self._say(f"{path} is ignored: {self.marks.problems[path]}")
            return len(self.marks.seen)

    def marks_body(self) -> bytes:
        """What `/api/marks` answers, as JSON."""
        options = self.options
        with self._marks_lock:
            counted = [
                each
                for each in self.marks.counted.values()
                if not options.blind or each.reviewer == options.reviewer
            ]
        values = {
            "marks": [
                {
                    "image_id": each.mark.image_id,
                    "sha256": each.mark.sha256,
                    "field": each.mark.field,
                    "value": each.mark.value,
                    "reviewer": each.reviewer,
                    "counter": each.mark.counter,
                }
                for each in counted
            ],
            "reviewers": sorted({each.reviewer for each in counted}),
            "policy": options.policy,
            "lead": options.lead,
            "blind": options.blind,
            "blind_forced": options.blind,
        }
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()

    def add_marks(self, values: object) -> int:
        """Store marks that the page has sent; returns how many.

        Raises:
            Refused: they cannot be stored, as the status says.
            StoreError: the store failed; the page sends them again.
        """
        if self.options.read_only:
            raise Refused(403, "this run is shown read-only: marks are not stored")
        try:
            found = self._marks_object(values)
        except MarksError as error:
            raise Refused(400, str(error)) from error
        if not store_marks(self.run.store, found):
            raise Refused(
                409, f"session {found.session} has other marks under the number {found.n}"
            )
        with self._marks_lock:
            if found.path not in self.marks.seen:
                self.num_stored += len(found.marks)
            self.marks.add(found)
        return len(found.marks)

    def _marks_object(self, values: object) -> MarksObject:
        if not isinstance(values, dict) or set(values) != {"session", "n", "marks"}:
            raise MarksError("must be a mapping with exactly the keys session, n and marks")
        n = values["n"]
        if type(n) is not int or not 0 <= n < MOST_OBJECTS:
            raise MarksError(f"n: must be a whole number from 0, not {shown(n)}")
        marks = checked_marks(values["marks"])
        session = checked_session(values["session"])
        for number, mark in enumerate(marks, start=1):
            self._require_known(mark.image_id, mark.sha256, f"mark {number}")
        return MarksObject(self.marks.run, self.options.reviewer, session, n, marks)

    def _require_known(self, image_id: str, sha256: str, where: str) -> None:
        """Refuse marks on what no page of this run can have shown.

        An image that was made again is known by a page sent before, a thumbnail or another mark.
        """
        rows, image = self._rows or self.rows(), (image_id, sha256)
        number = self._index.get(image_id)
        if number is not None and rows.table.column("sha256")[number].as_py() == sha256:
            return
        if image in self._once or image in self._thumbs.places:
            return
        with self._marks_lock:
            if any(key[1:3] == image for key in self.marks.counted):
                return
        if number is None:
            raise MarksError(f"{where}: there is no image {shown(image_id)}")
        raise MarksError(f"{where}: image {shown(image_id)} never had the sha256 {sha256[:12]}...")

    def close_marks(self) -> Decided:
        """Write `review/marks.parquet` anew, unless nothing may be written.

        Returns:
            What the marks come to; in blind mode those of the reviewer alone.

        Raises:
            StoreError: the store failed.
        """
        self.refresh_marks()
        options, hashes = self.options, self.run.hashes()
        with self._marks_lock:
            if self.marks.seen and not options.read_only:
                self.marks.write(hashes)
            table = self.marks.table(hashes)
        if options.blind:
            table = table.filter(pc.equal(table.column("reviewer"), options.reviewer))
        try:
            decided = decisions(table, Policy.of(options.policy, options.lead))
        except MarksError:  # the lead has marked nothing yet
            return Decided()
        flags = decided.column("flag").to_pylist()
        disagree = pc.sum(decided.column("disagree")).as_py() or 0
        return Decided(flags.count("pick"), flags.count("reject"), disagree)


MOST_NOTES = 5


def _cut(lines: list[str], kind: str) -> list[str]:
    """At most MOST_NOTES lines, and how many more there are."""
    more = len(lines) - MOST_NOTES
    return lines if more <= 0 else [*lines[:MOST_NOTES], f"{more:,} more {kind} are ignored."]
