"""`export_picks`: copies of chosen images, named, rated and listed, in a folder or a zip file."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.jobs.errors import RunBlocked
from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.copying import (
    choice_of,
    intact_image,
    marked_if_asked,
    place_of_copies,
    require_choice,
    require_outside,
)
from nightpress.jobs.runs.delivery_choice import ChosenRows, Survey
from nightpress.jobs.runs.marked_images import MarkChoice, Marked, read_marks
from nightpress.jobs.runs.picks_place import FolderPlace, Place, is_zip, zip_place
from nightpress.jobs.runs.picks_table import PICKS, earlier_copies, picks_csv
from nightpress.jobs.runs.picks_update import (
    CONTACT_SHEET,
    EarlierExport,
    changes_since,
    sheet_names,
)
from nightpress.jobs.runs.shared import OnEvent, create_only_store, ignore
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.client_copies import SUFFIXES, PixelSpec, Rating
from nightpress.pipelines.image_files.copy_names import DEFAULT, copy_names
from nightpress.pipelines.image_files.encoding import decoded
from nightpress.pipelines.reporting.contact_pdf import SheetImage, contact_pdfs, small_copy
from nightpress.pipelines.reporting.contact_sheet import not_drawable
from nightpress.pipelines.run_directory.clip_checks import refuse_clips
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.marks_merge import Policy, decisions
from nightpress.pipelines.run_directory.metadata_rows import metadata_rows
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import READ_THREADS, Options, Store
from nightpress.pipelines.storage.urls import absolute

MAX_FINDINGS = 1_000
COPIES_A_MESSAGE = 1_000


@dataclass(frozen=True)
class PickCopies:
    """What the copies are to be."""

    names: str = DEFAULT
    """Template of their names over the columns of the metadata, and `flag`, `stars`, `colour`."""
    pixels: PixelSpec = field(default_factory=PixelSpec)
    contact_sheet: bool = False
    """Whether to draw contact sheets as PDF, too."""


@dataclass(frozen=True)
class PicksExported:
    """Copies of chosen images that lie at their place."""

    url: str
    """URL of the folder, or of the zip file."""
    table: str | None
    """Name of the table of the copies; None if some could not be made."""
    contact_sheets: tuple[str, ...]
    """Names of the contact sheets."""
    num_copies: int
    num_written: int
    """Copies that this start wrote; the others were there."""
    num_failed_rows: int
    """Chosen rows that have no image, because it failed."""
    num_uncommitted: int
    """Images that the run has not made yet, and that a condition might mean."""
    num_findings: int
    """Images that are missing, damaged or changed, so that no copy was made of them."""
    findings: tuple[str, ...]
    """What is wrong with the first `MAX_FINDINGS` of them."""
    num_removed: int = 0
    """Files of the earlier export that were removed, because they were to change or to go."""

    @property
    def is_complete(self) -> bool:
        """Whether there is a copy of every chosen image."""
        return not self.num_findings


def export_picks(
    target: ImageTarget,
    to: str,
    on_event: OnEvent = ignore,
    *,
    ids: Iterable[str] | None = None,
    where: str | None = None,
    selection: str | None = None,
    marks: MarkChoice | None = None,
    copies: PickCopies | None = None,
    update: bool = False,
    storage: Options | None = None,
) -> PicksExported:
    """Make copies of chosen images of a run, with ratings inside, a table and contact sheets.

    Nothing is replaced, unless to update, and an interrupted export goes on.

    Args:
        target: the URL of a run directory, a job, or an opened run.
        to: folder or URL of the copies; a zip file, if it ends in `.zip`.
        on_event: called with messages.
        ids, where, selection: ids of images or rows, a condition, or the name of a selection.
        marks: only images with these marks; not with ids.
        copies, storage: what copies are to be; fsspec options by protocol, for URLs.
        update: bring an export of this run that lies there up to date, removing only its files.

    Raises:
        SpecError: they cannot be asked for so, or other files lie there; nothing was written.
        MarksError: the policy of the marks has a lead who marked nothing.
        RunNotFound, StoreError: the run cannot be read, or the place not written to.
    """
    require_choice(ids, where, selection, marks)
    run, copies = open_images(target, storage), copies or PickCopies()
    copies.pixels.check(run.spec.images)
    marked = marked_if_asked(run, marks, on_event)
    rows = ChosenRows(run, choice_of(ids, where, selection, marked), None)
    survey, said = rows.survey(), _said(run, marked, on_event)
    images = _Images.of(run, rows, copies, said, marks is not None and not marks.include_changed)
    with _place(run, to, {**run.store.options, **(storage or {})}, on_event, update) as place:
        return _Export(run, place, copies, images, on_event, update).carry_out(survey)


def _said(run: Run, marked: Marked | None, on_event: OnEvent) -> pa.Table:
    """DECISIONS_SCHEMA of the images that were chosen by marks, or else of all that have any."""
    return decisions(read_marks(run, on_event), Policy()) if marked is None else marked.images


@contextmanager
def _place(run: Run, to: str, options: Options, on_event: OnEvent, update: bool) -> Iterator[Place]:
    """The place of the copies."""
    if not is_zip(to):
        with place_of_copies(run, to, options, on_event) as folder:
            yield FolderPlace(folder)
        return
    if update:
        raise SpecError("update: a zip file is written whole; choose another name for it")
    require_outside(run, to)
    url, _, name = absolute(to).rpartition("/")
    store = Store(url, options)
    store.check()
    with zip_place(create_only_store(store, on_event), name) as place:
        yield place


@dataclass(frozen=True)
class _Images:
    """The chosen images, in the order of the run or of the selection."""

    rows: list[dict[str, Any]]
    names: list[str]
    marks: Mapping[str, Mapping[str, Any]]
    """Image id -> its row of DECISIONS_SCHEMA."""
    must_be_same: bool
    """Whether an image must have the bytes that were marked."""

    @classmethod
    def of(
        cls,
        run: Run,
        rows: ChosenRows,
        copies: PickCopies,
        said: pa.Table,
        must_be_same: bool,
    ) -> "_Images":
        """Read the metadata of the chosen images, and name their copies; `said` is about marks."""
        refuse_clips(run, "nightpress export --to")
        table = pa.concat_tables(rows.tables()).combine_chunks()
        table = table.filter(pc.equal(table.column("status"), "ok"))
        if rows.ranked is not None:
            order = pc.index_in(
                rows.ranked.column("image_id"), value_set=table.column("image_id").combine_chunks()
            )
            table = table.take(order.drop_null())
        marks = {row["image_id"]: row for row in said.to_pylist()}
        images = run.spec.images
        suffix = SUFFIXES[copies.pixels.encoding(images).format]
        taken = {PICKS: "the table", CONTACT_SHEET: "the contact sheet"}
        names = copy_names(copies.names, _with_marks(table, marks), suffix, taken)
        return cls(metadata_rows(table), names, marks, must_be_same)

    def rating(self, image_id: str) -> Rating:
        """What reviewers said about an image."""
        found = self.marks.get(image_id)
        if found is None:
            return Rating()
        return Rating(found["stars"], found["flag"], found["colour"])

    def is_changed(self, row: Mapping[str, Any]) -> bool:
        """Whether an image that was chosen by its marks was made again since."""
        if not self.must_be_same:
            return False
        found = self.marks.get(row["image_id"])
        return found is None or found["sha256"] != row["sha256"]


def _with_marks(table: pa.Table, marks: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """The columns that names may have: those of the metadata, and of marks."""
    ids = table.column("image_id").to_pylist()
    for name, type_ in (("flag", pa.string()), ("stars", pa.int32()), ("colour", pa.string())):
        if name not in table.column_names:  # else it is a carried column
            values = [marks.get(image_id, {}).get(name) for image_id in ids]
            table = table.append_column(name, pa.array(values, type_))
    return table


@dataclass(frozen=True)
class _Made:
    """A copy that lies at its place, or why there is none."""

    written: bool = False
    finding: str | None = None
    small: bytes | None = None
    """As the contact sheet shows it."""


@dataclass
class _Export:
    """One start of an export."""

    run: Run
    place: Place
    copies: PickCopies
    images: _Images
    on_event: OnEvent
    update: bool

    def carry_out(self, survey: Survey) -> PicksExported:
        """Write what is missing; nothing is written before everything has been checked."""
        self._say_what_is_lost()
        table = picks_csv(self.images.rows, self.images.names, self.images.marks)
        stale = self._files_to_remove(table)
        for name in stale:
            self.place.remove(name)
        made = list(self._copies())
        findings = [each.finding for each in made if each.finding is not None]
        num_copies = len(made) - len(findings)
        num_written = sum(each.written for each in made)
        sheets = tuple[str, ...]()
        if not findings:
            sheets = self._finish(table, [each.small for each in made])
            num_written = num_written if self.place.finish() else 0
        return PicksExported(
            url=self.place.url,
            table=None if findings else PICKS,
            contact_sheets=sheets,
            num_copies=num_copies,
            num_written=num_written,
            num_failed_rows=survey.num_failed,
            num_uncommitted=survey.num_uncommitted,
            num_findings=len(findings),
            findings=tuple(findings[:MAX_FINDINGS]),
            num_removed=len(stale) - (PICKS in stale),
        )

    def _say_what_is_lost(self) -> None:
        if self.run.spec.provenance.sign is not None:
            text = (
                "the images are signed, and their copies are not, as they have other bytes; "
                "nightpress deliver --certificate signs copies"
            )
            self.on_event(Message(text, warning=True))

    def _files_to_remove(self, table: bytes) -> list[str]:
        """Files of an earlier export that are not to stay; refuses files that are of none.

        Its table is the last: until it is gone, an interrupted update goes on.

        Raises:
            SpecError: there is one, or another export lies there and is not to be updated.
        """
        stale, found = list[str](), self.place.read(PICKS)
        if found is not None and found != table:
            stale = self._stale(found, table)
        present = self.place.names_present(self.images.names) - set(stale)
        numbers = [n for n, name in enumerate(self.images.names) if name in present]
        for name in self._map(self._other_file, numbers):
            if name is not None:
                raise SpecError(
                    f"{self.place.url}/{name}: another file lies there, and is not replaced; "
                    "choose another folder"
                )
        return stale

    def _stale(self, found: bytes, table: bytes) -> list[str]:
        """What `_files_to_remove` says where a table lies that is another one."""
        earlier, now = earlier_copies(found), earlier_copies(table)
        another = f"{self.place.url} holds another export, as its {PICKS} says"
        if earlier is None or now is None:
            raise SpecError(f"{another}; choose another folder")
        changes = changes_since(earlier, now)
        if not self.update or not isinstance(self.place, FolderPlace):
            raise SpecError(
                f"{another}: {changes}; --update brings it up to date, or choose another folder"
            )
        numbers = {name: n for n, name in enumerate(self.images.names)}

        def is_current(name: str, data: bytes) -> bool:
            return name in numbers and self._copy(numbers[name]) == data

        self.on_event(Message(f"updating {self.place.url}: {changes}"))
        files = EarlierExport(self.run, self.place.store, self.copies.pixels, earlier)
        return [*files.stale_files(is_current), PICKS]

    def _other_file(self, number: int) -> str | None:
        """The name of a copy if another file lies there."""
        name, copy = self.images.names[number], self._copy(number)
        return None if isinstance(copy, str) or self.place.read(name) == copy else name

    def _map(self, function: Any, numbers: Iterable[int]) -> Iterator[Any]:
        with ThreadPoolExecutor(READ_THREADS) as pool:
            yield from map_ahead(pool, function, numbers, READ_THREADS)

    def _copies(self) -> Iterator[_Made]:
        """Make all copies, in order."""
        numbers = range(len(self.images.rows))
        for number, copy in enumerate(self._map(self._copied, numbers)):
            yield copy if isinstance(copy, _Made) else self._added(number, copy)
            if (number + 1) % COPIES_A_MESSAGE == 0:
                self.on_event(Message(f"{number + 1:,} of {len(numbers):,} copies"))

    def _copied(self, number: int) -> _Made | bytes:
        """Write a copy into a folder; for a zip file, which takes one at a time, only make it."""
        copy = self._copy(number)
        if isinstance(copy, str):
            return _Made(finding=copy)
        return self._added(number, copy) if isinstance(self.place, FolderPlace) else copy

    def _added(self, number: int, copy: bytes) -> _Made:
        written = self.place.add(self.images.names[number], copy)
        if not self.copies.contact_sheet:
            return _Made(written)
        with decoded(copy) as image:
            return _Made(written, small=small_copy(image))

    def _copy(self, number: int) -> bytes | str:
        """The bytes of a copy, or why there is none."""
        row = self.images.rows[number]
        if self.images.is_changed(row):
            return f"{row['image_id']}: made again while it was exported; run the command again"
        data = intact_image(self.run, row)
        if isinstance(data, str):
            return data
        rating = self.images.rating(row["image_id"])
        return self.copies.pixels.copy_of(data, self.run.spec.images, rating)

    def _finish(self, table: bytes, small: list[bytes | None]) -> tuple[str, ...]:
        """Write the contact sheets and the table, which is the last; returns the former's names."""
        sheets = dict[str, bytes]()
        if self.copies.contact_sheet:
            captions = [self._caption(n) for n in range(len(small))]
            self._say_what_is_boxes(captions)
            pairs = zip(small, captions, strict=True)
            pictures = [SheetImage(jpeg or b"", caption) for jpeg, caption in pairs]
            created = datetime.fromisoformat(self.run.record.created_at).astimezone(UTC)
            title = self.run.spec.name or self.run.url
            files = contact_pdfs(pictures, title, created.timetuple())
            sheets = dict(zip(sheet_names(), files, strict=False))
        for name, data in (*sheets.items(), (PICKS, table)):
            try:
                self.place.add(name, data)
            except RunBlocked as error:
                raise SpecError(f"{error}; choose another folder") from None
        return tuple(sheets)

    def _say_what_is_boxes(self, captions: list[str]) -> None:
        """Say which captions have letters that the font of contact sheets lacks."""
        lacking = not_drawable(captions)
        lost = [n for n, caption in enumerate(captions) if not lacking.isdisjoint(caption)]
        if lost:
            text = (
                f"{plural(len(lost), 'caption')} of the contact sheets with letters that its font "
                f"lacks, so that boxes stand for them; the first is of {self.images.names[lost[0]]}"
                f"; {PICKS} has all letters"
            )
            self.on_event(Message(text, warning=True))

    def _caption(self, number: int) -> str:
        """`shoes/r1_00.png · pick · 4 of 5 · red shoes on sand`."""
        row = self.images.rows[number]
        rating = self.images.rating(row["image_id"])
        stars = f"{rating.stars} of 5" if rating.stars else ""
        parts = (self.images.names[number], rating.flag, stars, row["prompt"])
        return " · ".join(filter(None, parts))
