"""`deliver`: copies of a run's images for clients, and a table of which copy is of which image."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from nightpress.jobs.errors import RunBlocked
from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.delivery_choice import Choice, chosen_masters
from nightpress.jobs.runs.shared import OnEvent, create_only_store, ignore
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.errors import SpecError, StoreMissing
from nightpress.pipelines.image_files.client_copies import CopySpec, require_room
from nightpress.pipelines.image_files.copy_signing import CopySigner, CopySigning
from nightpress.pipelines.image_files.naming import FOLDER
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import READ_THREADS, Options, Store
from nightpress.pipelines.storage.urls import absolute

DELIVERED = "delivered.parquet"
COPIES_A_MESSAGE = 1_000

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("master_sha256", pa.string(), nullable=False),
    ]
)
"""One row per copy: where it lies, and the image that it is of."""


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
    findings: tuple[str, ...]
    """Images that are missing or damaged in the run, so that no copy was made of them."""

    @property
    def is_complete(self) -> bool:
        """Whether there is a copy of every chosen image."""
        return not self.findings


@dataclass(frozen=True)
class Master:
    """An image of a run that a copy is made of."""

    image_id: str
    file: str
    """Name of the copy."""
    row: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class _Made:
    """A copy, or why there is none."""

    master: Master
    sha256: str = ""
    num_bytes: int = 0
    state: Literal["written", "present", "finding"] = "finding"
    finding: str = ""


def deliver(
    target: ImageTarget,
    to: str,
    on_event: OnEvent = ignore,
    *,
    ids: Iterable[str] | None = None,
    where: str | None = None,
    selection: str | None = None,
    copies: CopySpec | None = None,
    signing: CopySigning | None = None,
    storage: Options | None = None,
) -> Delivery:
    """Make copies of a run's images for clients, without what made them.

    Nothing that lies at the place of a copy is replaced. An interrupted delivery goes on where it
    was, if the same is asked for.

    Args:
        target: the URL of a run directory, a job, or an opened run.
        to: folder or URL of the copies.
        on_event: called with messages.
        ids: ids of images, or of rows; by default every image.
        where: a condition on the metadata instead.
        selection: the name of a selection of the run instead.
        copies: what the copies are to be.
        signing: how to sign them; by default they are not signed.
        storage: fsspec options by protocol, for URLs.

    Raises:
        SpecError: the images or the copies cannot be asked for so, or other files lie at their
            places; nothing was written.
        RunNotFound, StoreError: the run cannot be read, or the place not written to.
    """
    (copies := copies or CopySpec()).check()
    run = open_images(target, storage)
    options: Options = {**run.store.options, **(storage or {})}
    signer = CopySigner.of(signing or CopySigning(), options)
    masters, num_failed = _masters(run, Choice(_listed(ids), where, selection), copies.label)
    place = _place(run, to, options, on_event)
    return _Delivery(run, place, copies, signer, masters).carry_out(num_failed, on_event)


def _listed(ids: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if ids is None else tuple(dict.fromkeys(ids))


def _masters(run: Run, choice: Choice, label: str | None) -> tuple[list[Master], int]:
    """The images to copy, and how many chosen rows have none."""
    rows = chosen_masters(run, choice)
    ok = [row for row in rows if row["status"] == "ok"]
    if not ok:
        raise SpecError(f"{run.url}: none of the chosen rows has an image")
    for size in sorted({(row["width"], row["height"]) for row in ok}):
        if label is not None:
            require_room(label, size)
    return [Master(row["image_id"], _name(row), row) for row in ok], len(rows) - len(ok)


def _name(row: dict[str, Any]) -> str:
    name: str = row["member"] or row["file"].removeprefix(FOLDER)
    return name


def _place(run: Run, to: str, options: Options, on_event: OnEvent) -> Store:
    """The folder of the copies, which is not in the run."""
    url, inside = absolute(to), absolute(run.url)
    if f"{url}/".startswith(f"{inside}/"):
        raise SpecError(
            f"--to {to}: lies in the run directory, which holds only what the run makes"
        )
    place = Store(url, options)
    place.check()
    return create_only_store(place, on_event)


class _Delivery:
    """One start of a delivery."""

    def __init__(
        self, run: Run, place: Store, copies: CopySpec, signer: CopySigner, masters: list[Master]
    ) -> None:
        self._run, self._place, self._copies = run, place, copies
        self._signer, self._masters = signer, masters

    def carry_out(self, num_failed_rows: int, on_event: OnEvent) -> Delivery:
        present = self._place.present([*(each.file for each in self._masters), DELIVERED])
        if DELIVERED in present:
            self._require_same_delivery()
        self._require_own_copies([each for each in self._masters if each.file in present])
        made = list[_Made]()
        for each in self._map(self._write, self._masters):
            made.append(each)
            if len(made) % COPIES_A_MESSAGE == 0:
                on_event(Message(f"{len(made):,} of {len(self._masters):,} copies"))
        findings = tuple(each.finding for each in made if each.state == "finding")
        return Delivery(
            url=self._place.url,
            table=None if findings else self._finish(made),
            num_copies=len(made) - len(findings),
            num_written=sum(each.state == "written" for each in made),
            num_failed_rows=num_failed_rows,
            findings=findings,
        )

    def _map(self, function: Any, masters: list[Master]) -> Iterator[Any]:
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
        table = pq.read_table(BytesIO(self._place.read(DELIVERED)))
        asked = json.loads((table.schema.metadata or {}).get(b"nightpress", b"null"))
        pairs = [(each.image_id, each.row["sha256"]) for each in self._masters]
        columns = (table.column(name).to_pylist() for name in ("image_id", "master_sha256"))
        if asked != self._asked() or list(zip(*columns, strict=True)) != pairs:
            raise SpecError(
                f"{self._place.url} holds another delivery, as its {DELIVERED} says; choose "
                "another folder"
            )

    def _require_own_copies(self, masters: list[Master]) -> None:
        """Refuse files at the places of copies that are not these copies."""
        for made in self._map(self._look, masters):
            if made is not None:
                raise SpecError(
                    f"{self._place.url}/{made}: another file lies there, and is not replaced; "
                    "choose another folder"
                )

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
        row = master.row
        try:
            data = image_bytes(self._run.store, row)
        except StoreMissing:
            return f"{master.image_id}: {row['file']} is not in the run; {REPAIR}"
        if hashlib.sha256(data).hexdigest() != row["sha256"]:
            return f"{master.image_id}: {row['file']} is not what the run recorded; {REPAIR}"
        return self._copies.copy_of(data, self._run.spec.images)

    def _finish(self, made: list[_Made]) -> str:
        rows = [
            {
                "image_id": each.master.image_id,
                "file": each.master.file,
                "sha256": each.sha256,
                "num_bytes": each.num_bytes,
                "master_sha256": each.master.row["sha256"],
            }
            for each in made
        ]
        text = json.dumps(self._asked(), sort_keys=True)
        table = pa.Table.from_pylist(rows, SCHEMA.with_metadata({"nightpress": text}))
        file = BytesIO()
        pq.write_table(table, file)
        self._place.create(DELIVERED, file.getvalue())
        return f"{self._place.url}/{DELIVERED}"


REPAIR = "nightpress verify --repair makes it again"


def _made(master: Master, data: bytes, state: Literal["written", "present"]) -> _Made:
    return _Made(master, hashlib.sha256(data).hexdigest(), len(data), state)
