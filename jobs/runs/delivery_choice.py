"""Which images of a run are delivered."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.selections.files import selection_path
from nightpress.pipelines.run_directory.where import parse_condition

MAX_SHOWN = 5

ROWS_AT_ONCE = 16_384
"""At most this many rows are in memory at a time."""

COLUMNS = [
    *("image_id", "id", "status", "file", "member", "member_offset", "num_bytes", "sha256"),
    *("width", "height"),
]


@dataclass(frozen=True)
class Choice:
    """Images by their ids, by a condition or by a selection; all of them if nothing is given."""

    ids: tuple[str, ...] | None = None
    """Ids of images or of rows; the id of a row means all of its images."""
    where: str | None = None
    selection: str | None = None
    marked: tuple[str, ...] | None = None
    """Ids of the images with certain marks; they narrow `where` or a selection down."""

    def check(self) -> None:
        """Raise if more than one of them is given, or none of the ids is one."""
        given = [each for each in (self.ids, self.where, self.selection) if each is not None]
        if len(given) > 1:
            raise SpecError("choose images by ids, by where or by a selection, not by two")
        if self.ids is not None and self.marked is not None:
            raise SpecError("choose images by ids or by marks, not by both")
        if self.ids == ():
            raise SpecError("ids: no id is given; give ids of images or rows")


@dataclass(frozen=True)
class Survey:
    """What the chosen rows are."""

    num_ok: int
    num_failed: int
    """Rows that have no image."""
    num_uncommitted: int
    """Images that are not committed yet, and might be chosen; none with ids or a selection."""
    sizes: tuple[tuple[int, int], ...]
    """Width and height of the images, each once."""


class ChosenRows:
    """The metadata of the chosen images, read some rows at a time, as often as it is needed.

    Args:
        run: the run.
        choice: which of its images.
        columns: the columns of `tables`; None for all.

    Raises:
        SpecError: the choice is not clear.
        SelectionNotFound, StoreError: the metadata or the selection cannot be read.
    """

    def __init__(self, run: Run, choice: Choice, columns: list[str] | None = COLUMNS) -> None:
        choice.check()
        self._run, self._choice, self._columns = run, choice, columns
        self._metadata = run.metadata
        self._condition: pc.Expression | None = None
        self.ranked: pa.Table | None = None
        """The images of the selection, in the order of their ranks; None without one."""
        if choice.where is not None:
            self._condition = parse_condition(choice.where, self._metadata.schema)
        if choice.ids is not None:
            names = pa.array(choice.ids, pa.string())
            self._condition = pc.field("image_id").isin(names) | pc.field("id").isin(names)
        if choice.selection is not None:
            self.ranked = run.selection(choice.selection).images.combine_chunks()
            if choice.marked is not None:
                marked = pc.is_in(
                    self.ranked.column("image_id"), pa.array(choice.marked, pa.string())
                )
                self.ranked = self.ranked.filter(marked).combine_chunks()
            ids = self.ranked.column("image_id").combine_chunks()
            self._condition = pc.field("image_id").isin(ids)
        elif choice.marked is not None:
            marked = pc.field("image_id").isin(pa.array(choice.marked, pa.string()))
            self._condition = marked if self._condition is None else self._condition & marked

    def survey(self) -> Survey:
        """Read all rows once, and count them.

        Raises:
            SpecError: nothing is chosen, or what the run has not committed, or what has been made
                again since it was selected.
            StoreError: the metadata cannot be read.
        """
        unknown = dict.fromkeys(self._choice.ids or ())
        missing = np.full(0 if self.ranked is None else len(self.ranked), True)
        num_ok = num_failed = 0
        sizes = set[tuple[int, int]]()
        for table in self.tables():
            ok = table.filter(pc.equal(table.column("status"), "ok"))
            num_ok, num_failed = num_ok + len(ok), num_failed + len(table) - len(ok)
            both = ok.select(["width", "height"]).group_by(["width", "height"]).aggregate([])
            sizes |= {(row["width"], row["height"]) for row in both.to_pylist()}
            for name in ("image_id", "id") if unknown else ():
                for each in table.column(name).to_pylist():
                    unknown.pop(each, None)
            if self.ranked is not None:
                missing[self._places(table)] = False
        self._require_all(list(unknown), missing)
        if not num_ok + num_failed:
            raise SpecError(f"{self._run.url}: no image is chosen")
        if not num_ok:
            raise SpecError(f"{self._run.url}: none of the chosen rows has an image")
        return Survey(num_ok, num_failed, self._num_uncommitted(), tuple(sorted(sizes)))

    def images(self) -> Iterator[list[dict[str, Any]]]:
        """The metadata rows of the chosen images that are ok, some at a time.

        Raises:
            SpecError: an image has been made again since it was selected.
            StoreError: the metadata cannot be read.
        """
        for table in self.tables():
            yield table.filter(pc.equal(table.column("status"), "ok")).to_pylist()

    def tables(self) -> Iterator[pa.Table]:
        """The chosen rows in the order of the run, some at a time; see `images`."""
        with self._run.reading():
            for batch in self._metadata.to_batches(
                columns=self._columns, filter=self._condition, batch_size=ROWS_AT_ONCE
            ):
                table = pa.Table.from_batches([batch])
                if self.ranked is not None:
                    self._require_selected_bytes(table)
                if len(table):
                    yield table

    def _num_uncommitted(self) -> int:
        chosen = (self._choice.ids, self._choice.selection, self._choice.marked)
        if any(each is not None for each in chosen):
            return 0
        with self._run.reading():
            committed: int = self._metadata.count_rows()
        return self._run.record.layout.num_images - committed

    def _places(self, table: pa.Table) -> np.ndarray:
        """Where the images of rows stand in the selection; (n,)."""
        assert self.ranked is not None  # noqa: S101 - asked for with a selection only
        places = pc.index_in(table.column("image_id"), self.ranked.column("image_id"))
        found: np.ndarray = places.to_numpy()
        return found

    def _require_selected_bytes(self, table: pa.Table) -> None:
        """Check that images are still those that were selected."""
        assert self.ranked is not None  # noqa: S101 - asked for with a selection only
        selected = self.ranked.column("sha256").take(pa.array(self._places(table)))
        same = pc.fill_null(pc.equal(table.column("sha256"), selected), False)
        others = table.column("image_id").filter(pc.invert(same))
        if len(others):
            raise self._not_selected(others[0].as_py())

    def _require_all(self, unknown: list[str], missing: np.ndarray) -> None:
        if unknown:
            shown = ", ".join(unknown[:MAX_SHOWN]) + (", ..." if len(unknown) > MAX_SHOWN else "")
            raise SpecError(f"{self._run.url} has committed no image or row {shown}")
        if self.ranked is not None and missing.any():
            raise self._not_selected(self.ranked.column("image_id")[int(missing.argmax())].as_py())

    def _not_selected(self, image_id: str) -> SpecError:
        path = selection_path(str(self._choice.selection))
        return SpecError(
            f"{self._run.url}/{path}: image {image_id!r} is not the one that was selected; select "
            "again"
        )
