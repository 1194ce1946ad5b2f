"""What has changed since an earlier export of picks, and which of its files are not to stay."""

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nightpress.jobs.runs.copying import intact_image
from nightpress.jobs.runs.picks_table import EarlierCopy
from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.image_files.client_copies import PixelSpec
from nightpress.pipelines.reporting.contact_pdf import PRODUCER
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.storage import READ_THREADS, Store

CONTACT_SHEET = "contact-sheet.pdf"

MAX_NAMED = 5
"""Images that a message names."""

Changes = Mapping[str, Sequence[str]]
"""What happened to images -> their ids."""


def changes_since(earlier: Sequence[EarlierCopy], now: Sequence[EarlierCopy]) -> str:
    """`2 images more (a, b), 1 image fewer (c)`: how the rows of two tables differ."""
    before = {each.image_id: each for each in earlier}
    after = {each.image_id: each for each in now}
    both = before.keys() & after.keys()
    groups = {
        "more": [name for name in after if name not in before],
        "fewer": [name for name in before if name not in after],
        "with other marks, names or settings": [
            name for name in after if name in both and after[name].row != before[name].row
        ],
    }
    said = [
        f"{plural(len(ids), 'image')} {what} ({_named(ids)})" for what, ids in groups.items() if ids
    ]
    return ", ".join(said) or "the same images in another order or with other columns"


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:MAX_NAMED]) + (", ..." if len(ids) > MAX_NAMED else "")


def sheet_names() -> Iterator[str]:
    """`contact-sheet.pdf`, `contact-sheet-2.pdf` and so on, without end."""
    yield CONTACT_SHEET
    yield from (CONTACT_SHEET.replace(".", f"-{n}.") for n in count(2))


@dataclass(frozen=True)
class EarlierExport:
    """An export that lies in a folder, whose table is not that of the images chosen now."""

    run: Run
    place: Store
    pixels: PixelSpec
    copies: Sequence[EarlierCopy]

    def stale_files(self, is_current: Callable[[str, bytes], bool]) -> list[str]:
        """Files of the export that are not to stay; its table is none of them.

        Args:
            is_current: whether a file, by its name and bytes, is a copy that is wanted now.

        Raises:
            SpecError: one of them is not what an export of this run with these settings wrote.
            StoreError: the store failed.
        """
        rows = self._rows()

        def stale(each: EarlierCopy) -> str | None:
            data = self.place.read_if_any(each.file)
            if data is None or is_current(each.file, data):
                return None
            if (problem := self._not_own(each, data, rows.get(each.image_id))) is not None:
                raise SpecError(
                    f"{self.place.url}/{each.file}: {problem}, so it is not replaced; delete it, "
                    "or choose another folder"
                )
            return each.file

        with ThreadPoolExecutor(READ_THREADS) as pool:
            found = list(map_ahead(pool, stale, self.copies, READ_THREADS))
        return [name for name in found if name is not None] + list(self._sheets())

    def _rows(self) -> dict[str, dict[str, Any]]:
        ids = pa.array([each.image_id for each in self.copies], pa.string())
        condition = pc.field("image_id").isin(ids) & (pc.field("status") == "ok")
        names = ["image_id", "file", "member", "member_offset", "num_bytes", "sha256"]
        with self.run.reading():
            table = self.run.metadata.to_table(columns=names, filter=condition)
        return {row["image_id"]: row for row in table.to_pylist()}

    def _not_own(self, each: EarlierCopy, data: bytes, row: dict[str, Any] | None) -> str | None:
        """Why a file is not known to be the copy that the table lists; None if it is."""
        if row is None or row["sha256"] != each.sha256:
            return "it is a copy of an image that the run does not have any more"
        master = intact_image(self.run, row)
        if isinstance(master, str):
            return f"what it is a copy of cannot be read ({master})"
        if data == self.pixels.copy_of(master, self.run.spec.images, each.rating):
            return None
        return "it is another file, or a copy with another --resize, --format or --quality"

    def _sheets(self) -> Iterator[str]:
        for name in sheet_names():
            data = self.place.read_if_any(name)
            if data is None:
                return
            if codecs.BOM_UTF16_BE + PRODUCER.encode("utf-16-be") not in data:
                raise SpecError(
                    f"{self.place.url}/{name}: another file lies there, and is not replaced; "
                    "choose another folder"
                )
            yield name
