"""`deliver`: copies of a run's images for clients, and a table of which copy is of which image."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from string import Formatter
from typing import Any, Literal

import pyarrow.compute as pc

from nightpress.jobs.errors import RunBlocked
from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.copying import choice_of, intact_image, marked_if_asked, place_of_copies
from nightpress.jobs.runs.delivery_choice import ChosenRows, Survey
from nightpress.jobs.runs.delivery_table import DELIVERED, DeliveredRows, is_table_of
from nightpress.jobs.runs.marked_images import MarkChoice
from nightpress.jobs.runs.shared import OnEvent, ignore
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.image_files.client_copies import CopySpec
from nightpress.pipelines.image_files.copy_signing import CopySigner, CopySigning
from nightpress.pipelines.image_files.naming import FOLDER
from nightpress.pipelines.run_directory.clip_checks import refuse_clips
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import READ_THREADS, Options, Store

COPIES_A_MESSAGE = 1_000

TELLING_COLUMNS = ("prompt", "negative_prompt", "lora")
"""Columns that a client is not to see, also not in the name of a file."""

MAX_FINDINGS = 1_000
"""So many of the images that cannot be copied are named."""


@dataclass(frozen=True)
class Delivery:
    """Copies that lie at their place."""

    url: str
    """URL of the folder with the copies."""
    table: str | None
    """URL of the table of copies; None if some could not be made."""
    num_copies: int
    num_written: int
    """Copies that this start wrote; the others were there."""
    num_failed_rows: int
    """Chosen rows that have no image, because it failed."""
    num_uncommitted: int
    """Images that the run has not made yet, and that the choice might mean; none with ids or a
    selection."""
    num_findings: int
    """Images that are missing or damaged in the run, so that no copy was made of them."""
    findings: tuple[str, ...]
    """What is wrong with the first `MAX_FINDINGS` of them."""

    @property
    def is_complete(self) -> bool:
        """Whether there is a copy of every chosen image."""
        return not self.num_findings


@dataclass(frozen=True)
class Master:
    """An image of a run that a copy is made of."""

    image_id: str
    file: str
    """Name of the copy."""
    row: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Master":
        """The image of a metadata row."""
        return cls(row["image_id"], row["member"] or row["file"].removeprefix(FOLDER), row)


@dataclass(frozen=True)
class _Made:
    """A copy, or why there is none."""

    master: Master
    sha256: str = ""
    num_bytes: int = 0
    state: Literal["written", "present", "finding"] = "finding"
    finding: str = ""

    def as_row(self) -> dict[str, Any]:
        """Its row in the table of copies."""
        return {
            "image_id": self.master.image_id,
            "file": self.master.file,
            "sha256": self.sha256,
            "num_bytes": self.num_bytes,
            "master_sha256": self.master.row["sha256"],
        }


def deliver(
    target: ImageTarget,
    to: str,
    on_event: OnEvent = ignore,
    *,
    ids: Iterable[str] | None = None,
    where: str | None = None,
    selection: str | None = None,
    marks: MarkChoice | None = None,
    copies: CopySpec | None = None,
    signing: CopySigning | None = None,
    storage: Options | None = None,
) -> Delivery:
    """Make copies of a run's images for clients, without prompts, models and settings.

    Nothing that lies at the place of a copy is replaced. An interrupted delivery goes on.

    Args:
        target, on_event, storage: as for `export_picks`.
        to: folder or URL of the copies.
        ids, where, selection, marks: as for `export_picks`; by default every image.
        copies: what the copies are to be.
        signing: how to sign them; by default they are not signed.

    Raises:
        SpecError: they cannot be asked for so, or other files lie there; nothing was written.
        MarksError: the policy of the marks has a lead who marked nothing.
        RunNotFound, StoreError: the run cannot be read, or the place not written to.
    """
    (copies := copies or CopySpec()).check()
    run = open_images(target, storage)
    refuse_clips(run, "nightpress deliver")
    options: Options = {**run.store.options, **(storage or {})}
    signer = CopySigner.of(signing or CopySigning(), options)
    choice = choice_of(ids, where, selection, marked_if_asked(run, marks, on_event))
    rows = ChosenRows(run, choice)
    copies.check_sizes((survey := rows.survey()).sizes)
    with place_of_copies(run, to, options, on_event) as place:
        return _Delivery(run, place, copies, signer, rows).carry_out(survey, on_event)


def _warn_of_names(run: Run, on_event: OnEvent) -> None:
    """Say so if the names of the copies tell what made the images."""
    template = run.spec.images.template
    used = {name for _, name, _, _ in Formatter().parse(template) if name}
    if telling := [name for name in TELLING_COLUMNS if name in used]:
        text = (
            f"the names of the copies tell {' and '.join(telling)}, as images.file_name of the run "
            f"is {template!r}"
        )
        on_event(Message(text, warning=True))


class _Delivery:
    """One start of a delivery; reads the chosen rows some at a time."""

    def __init__(
        self, run: Run, place: Store, copies: CopySpec, signer: CopySigner, rows: ChosenRows
    ) -> None:
        self._run, self._place, self._copies = run, place, copies
        self._signer, self._rows = signer, rows

    def carry_out(self, survey: Survey, on_event: OnEvent) -> Delivery:
        _warn_of_names(self._run, on_event)
        self._require_same_delivery()
        self._require_own_copies()
        delivered, findings = DeliveredRows(), list[str]()
        num_done = num_written = num_findings = 0
        for made in self._map(self._write, self._masters()):
            num_done += 1
            num_written += made.state == "written"
            if made.state == "finding":
                num_findings += 1
                findings += [made.finding] if len(findings) < MAX_FINDINGS else []
            else:
                delivered.add(made.as_row())
            if num_done % COPIES_A_MESSAGE == 0:
                on_event(Message(f"{num_done:,} of {survey.num_ok:,} copies"))
        return Delivery(
            url=self._place.url,
            table=None if num_findings else self._finish(delivered),
            num_copies=num_done - num_findings,
            num_written=num_written,
            num_failed_rows=survey.num_failed,
            num_uncommitted=survey.num_uncommitted,
            num_findings=num_findings,
            findings=tuple(findings),
        )

    def _masters(self) -> Iterator[Master]:
        return map(Master.of, chain.from_iterable(self._rows.images()))

    def _map(self, function: Any, masters: Iterable[Master]) -> Iterator[Any]:
        with ThreadPoolExecutor(READ_THREADS) as pool:
            yield from map_ahead(pool, function, masters, READ_THREADS)

    def _asked(self) -> dict[str, Any]:
        """What was asked for, as the table has it."""
        return {
            "run_fingerprint": self._run.record.fingerprint_at_first,
            "copies": self._copies.as_dict(),
            "signing": self._signer.as_dict(),
        }

    def _require_same_delivery(self) -> None:
        """Refuse a folder with a finished delivery of something else."""
        data = self._place.read_if_any(DELIVERED)
        if data is None:
            return
        images = (
            table.filter(pc.equal(table.column("status"), "ok")) for table in self._rows.tables()
        )
        if not is_table_of(data, f"{self._place.url}/{DELIVERED}", self._asked(), images):
            raise SpecError(
                f"{self._place.url} holds another delivery, as its {DELIVERED} says; choose "
                "another folder"
            )

    def _require_own_copies(self) -> None:
        """Refuse files at the places of copies that are not these copies."""
        for made in self._map(self._look, self._stored()):
            if made is not None:
                raise SpecError(
                    f"{self._place.url}/{made}: another file lies there, and is not replaced; "
                    "choose another folder"
                )

    def _stored(self) -> Iterator[Master]:
        """The images for whose copies there is a file."""
        for rows in self._rows.images():
            masters = list(map(Master.of, rows))
            present = self._place.present([each.file for each in masters])
            yield from (each for each in masters if each.file in present)

    def _look(self, master: Master) -> str | None:
        """The name of a copy if another file lies there."""
        unsigned = self._unsigned(master)
        found = self._place.read_if_any(master.file)
        if isinstance(unsigned, str) or found is None:
            return None
        return None if self._signer.is_copy(found, unsigned) else master.file

    def _write(self, master: Master) -> _Made:
        unsigned = self._unsigned(master)
        if isinstance(unsigned, str):
            return _Made(master, finding=unsigned)
        found = self._place.read_if_any(master.file)
        if found is None:
            copy = self._signer.signed(unsigned)
            if self._place.create(master.file, copy):
                return _made(master, copy, "written")
            found = self._place.read(master.file)
        if not self._signer.is_copy(found, unsigned):
            raise RunBlocked(f"{self._place.url}/{master.file}: another process has written it")
        return _made(master, found, "present")

    def _unsigned(self, master: Master) -> bytes | str:
        """The copy without a credential, or what is wrong with the image."""
        data = intact_image(self._run, master.row)
        if isinstance(data, str):
            return data
        return self._copies.copy_of(data, self._run.spec.images)

    def _finish(self, delivered: DeliveredRows) -> str:
        self._place.create(DELIVERED, delivered.to_parquet(self._asked(), self._rows.ranked))
        return f"{self._place.url}/{DELIVERED}"


def _made(master: Master, data: bytes, state: Literal["written", "present"]) -> _Made:
    return _Made(master, hashlib.sha256(data).hexdigest(), len(data), state)
