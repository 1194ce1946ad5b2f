"""Which images of a run are delivered."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nightpress.pipelines.errors import SpecError
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.where import parse_condition

MAX_SHOWN = 5

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

    def check(self) -> None:
        """Raise if more than one of them is given."""
        given = [each for each in (self.ids, self.where, self.selection) if each is not None]
        if len(given) > 1:
            raise SpecError("deliver: choose images by ids, by where or by a selection, not by two")


def chosen_masters(run: Run, choice: Choice) -> list[dict[str, Any]]:
    """The metadata rows of the chosen images, in the order of the run or of the selection.

    Raises:
        SpecError: the choice is not clear, or names images that the run has not committed.
        StoreError: the metadata or the selection cannot be read.
    """
    choice.check()
    if choice.selection is not None:
        return _selected(run, choice.selection)
    condition = None
    if choice.where is not None:
        condition = parse_condition(choice.where, run.metadata.schema)
    if choice.ids is not None:
        names = pa.array(choice.ids, pa.string())
        condition = pc.field("image_id").isin(names) | pc.field("id").isin(names)
    rows = _rows(run, condition)
    if choice.ids is not None:
        _require_known(run, choice.ids, rows)
    if not rows:
        raise SpecError(f"{run.url}: no image is chosen")
    return rows


def _rows(run: Run, condition: pc.Expression | None) -> list[dict[str, Any]]:
    with run.reading():
        rows: list[dict[str, Any]] = run.metadata.to_table(COLUMNS, condition).to_pylist()
    return rows


def _require_known(run: Run, ids: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    known = {row[name] for row in rows for name in ("image_id", "id")}
    unknown = [each for each in ids if each not in known]
    if unknown:
        shown = ", ".join(unknown[:MAX_SHOWN]) + (", ..." if len(unknown) > MAX_SHOWN else "")
        raise SpecError(f"{run.url} has committed no image or row {shown}")


def _selected(run: Run, name: str) -> list[dict[str, Any]]:
    """The rows of a selection, whose images must still be those that were selected."""
    path = f"selections/{name}.parquet"
    data = None if "/" in name else run.store.read_if_any(path)
    if data is None:
        raise SpecError(f"{run.url} has no selection {name!r} ({path} is missing)")
    try:
        chosen = pq.read_table(BytesIO(data), columns=["image_id", "sha256"])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise SpecError(f"{run.url}/{path}: not a selection") from error
    wanted = dict(zip(*(chosen.column(n).to_pylist() for n in chosen.column_names), strict=True))
    rows = _rows(run, pc.field("image_id").isin(pa.array(wanted, pa.string())))
    found = {row["image_id"]: row for row in rows}
    for image_id, sha256 in wanted.items():
        if image_id not in found or found[image_id]["sha256"] != sha256:
            raise SpecError(
                f"{run.url}/{path}: image {image_id!r} is not the one that was selected; select "
                "again"
            )
    return [found[image_id] for image_id in wanted]
