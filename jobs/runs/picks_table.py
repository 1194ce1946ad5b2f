"""The table of exported images: what becomes of a row in `picks.csv`, which spreadsheets open."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.image_files.client_copies import Rating
from nightpress.pipelines.records import METADATA_SCHEMA
from nightpress.pipelines.storage.urls import require_inside

PICKS = "picks.csv"

MARK_COLUMNS = ("flag", "stars", "colour", "comments", "num_picks", "num_rejects", "disagree")
"""Columns of DECISIONS_SCHEMA that the table has; empty for an image without marks."""

IMAGE_COLUMNS = (
    *("prompt", "negative_prompt", "seed", "width", "height", "scheduler"),
    *("num_inference_steps", "guidance_scale", "loras", "mode", "strength", "model", "parent"),
    *("scores", "sha256"),
)
"""Columns of the metadata that the table has; carried columns follow."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A spreadsheet takes a text that begins so for a formula.

Reference: OWASP, "CSV Injection".
"""


def picks_csv(
    rows: Iterable[Mapping[str, Any]], files: Sequence[str], marks: Mapping[str, Mapping[str, Any]]
) -> bytes:
    """The table in UTF-8 with a byte order mark, as spreadsheets expect it.

    Args:
        rows: metadata rows, as `metadata_rows` has them.
        files: the name of the copy of each.
        marks: image id -> its row of DECISIONS_SCHEMA, of the images that have marks.
    """
    rows = list(rows)
    carried = [name for name in rows[0] if name not in METADATA_SCHEMA.names] if rows else []
    own = ("image_id", "file", *MARK_COLUMNS, *IMAGE_COLUMNS)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([*own, *(cell(f"carried_{n}" if n in own else n) for n in carried)])
    for row, file in zip(rows, files, strict=True):
        marked = marks.get(row["image_id"], {})
        values = [
            *(row["image_id"], file),
            *(marked.get(name) for name in MARK_COLUMNS),
            *(row.get(name) for name in (*IMAGE_COLUMNS, *carried)),
        ]
        writer.writerow([cell(value) for value in values])
    return text.getvalue().encode("utf-8-sig")


@dataclass(frozen=True)
class EarlierCopy:
    """A row of a table that was written before."""

    image_id: str
    file: str
    """Name of the copy."""
    sha256: str
    """Of the image in the run."""
    rating: Rating
    """What the copy has inside."""
    row: Mapping[str, str]


def earlier_copies(table: bytes) -> list[EarlierCopy] | None:
    """The rows of a table, as `picks_csv` wrote it; None if it is another file."""
    try:
        rows = list(csv.DictReader(StringIO(table.decode("utf-8-sig"), newline="")))
        copies = [
            EarlierCopy(
                image_id=_text(row["image_id"]),
                file=_text(row["file"]),
                sha256=row["sha256"],
                rating=Rating(int(row["stars"] or 0), row["flag"], row["colour"]),
                row=row,
            )
            for row in rows
        ]
        for each in copies:
            require_inside(each.file, PICKS)
        return copies
    except (StoreError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError):
        return None


def _text(cell_text: str) -> str:
    """The inverse of `cell` for a text that a spreadsheet would take for a formula."""
    return cell_text[1:] if cell_text[:1] == "'" and cell_text[1:2] in FORMULA_STARTS else cell_text


def cell(value: object) -> str | int | float:
    """A value as a cell; an apostrophe keeps a text from being taken for a formula."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return value
        case str():
            text = value
        case bytes():
            text = f"{len(value):,} bytes"
        case list() if all(isinstance(each, str) for each in value):
            text = "\n".join(value)
        case list() | dict():
            text = json.dumps(value, ensure_ascii=False, default=str)
        case _:
            text = str(value)
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
