"""The rows of the review page: the images of a run as columns of JSON, built a column at a time."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.formatting import plural
from nightpress.pipelines.hashing import hash64
from nightpress.pipelines.image_files.atlas import CELL_PX, COLUMNS, ROWS
from nightpress.pipelines.image_files.naming import FOLDER
from nightpress.pipelines.job.page_columns import DERIVED, NOT_SHOWN
from nightpress.pipelines.records import METADATA_SCHEMA
from nightpress.pipelines.review.columns import page_columns
from nightpress.pipelines.run_directory.committed_parts import committed_parts
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import Thumbs

FORMAT = 1

MAX_FAILED = 1_000
"""Failed rows that the page lists; the others are counted."""

IMAGE_COLUMNS = ("image_id", "sha256", "file", "member", "member_offset", "num_bytes")
"""What finds an image, and tells whether its bytes are still the same."""

LAST = ("variant", "id")
"""Columns with so many values that they come last."""

MEDIA_TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "mp4": "video/mp4",
}


@dataclass(frozen=True)
class PageContext:
    """What the page receives besides the rows."""

    reviewer: str
    read_only: bool = False
    group_by: str | None = None
    """The column by which it stacks images; by default that of the run's job."""
    notes: tuple[str, ...] = ()
    """Sentences for its reader, before those about the rows."""
    atlas_folder: str = "atlas"
    """Where the page finds atlases: a path of the server, or the folder in the run."""
    thumbs_coming: bool = False
    """Whether thumbnails are being made, which the page asks for while it is open."""


@dataclass(frozen=True)
class ReviewRows:
    """The images of a run as they were at one moment."""

    run: Run
    table: pa.Table
    """Metadata of the images that are ok and stored, in plan order."""
    failed: Sequence[Mapping[str, Any]]
    """`image_id`, `prompt`, `error_type` and `error` of failed rows, at most MAX_FAILED."""
    num_failed: int
    num_removed: int
    """Images that are committed, and whose files are not in the store any more."""
    num_shards: int
    """Shards that are committed."""
    notes: tuple[str, ...] = field(default=())

    @property
    def images(self) -> pa.Table:
        """IMAGE_COLUMNS of the images."""
        return self.table.select(IMAGE_COLUMNS)

    def without_columns(self) -> Self:
        """The same images with what finds them alone."""
        return replace(self, table=self.images)

    @property
    def is_complete(self) -> bool:
        """Whether every shard is committed."""
        return self.num_shards == self.run.record.layout.num_shards


def read_rows(run: Run) -> ReviewRows:
    """Read what the page shows of a run: its metadata once, and a listing of its images.

    Raises:
        Damaged: a commit is not what was written.
        StoreError: the store failed.
    """
    schema = run.metadata.schema
    names = [each.name for each in schema if _is_wanted(each)]
    parts = [part.rows.select(names) for part in committed_parts(run, schema)]
    num_shards = len(parts)
    table = pa.concat_tables([schema.empty_table().select(names), *parts])
    del parts
    ok = pc.equal(table.column("status"), "ok")
    failed = table.filter(pc.invert(ok))
    listed = failed.select(["image_id", "prompt", "error_type", "error"]).slice(0, MAX_FAILED)
    stored = table.filter(pc.and_(ok, _are_stored(run, table.column("file"))))
    num_removed = len(table) - len(failed) - len(stored)
    del table
    pa.default_memory_pool().release_unused()  # what reading the commits took
    bytes_ = [each.name for each in schema if _is_bytes(each.type)]
    return ReviewRows(
        run=run,
        table=stored,
        failed=listed.to_pylist(),
        num_failed=len(failed),
        num_removed=num_removed,
        num_shards=num_shards,
        notes=tuple(f"The column {name} holds bytes and is not shown." for name in bytes_),
    )


def _is_wanted(column: pa.Field) -> bool:
    needed = {*IMAGE_COLUMNS, "status", "error", "error_type", "prompt", "width", "height"}
    if column.name in needed:
        return True
    if column.name in METADATA_SCHEMA.names:
        return column.name == "inputs" or column.name not in NOT_SHOWN
    return not _is_bytes(column.type)


def _is_bytes(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_fixed_size_binary(type_)
    )


def _are_stored(run: Run, files: pa.ChunkedArray) -> pa.Array:
    """Which of these files are in the store, by one listing."""
    pages = [
        hash64(pa.array(list(page), pa.string()), 0) for page in run.store.pages(FOLDER.rstrip("/"))
    ]
    stored = np.concatenate([np.zeros(0, np.uint64), *pages])
    wanted = hash64(pc.fill_null(files, "").combine_chunks().cast(pa.string()), 0)
    return pa.array(np.isin(wanted, stored))


def rows_json(rows: ReviewRows, thumbs: Thumbs, context: PageContext) -> Iterator[bytes]:
    """The rows as JSON in UTF-8, in pieces: one for each column, so that memory stays bounded.

    Args:
        rows: the images.
        thumbs: the thumbnails of the run.
        context: what the page receives besides the rows.
    """
    table = rows.table
    yield b'{"format":%d,"length":%d,"failed":%s' % (FORMAT, len(table), _json(list(rows.failed)))
    for name in ("image_id", "sha256", "width", "height"):
        yield b',"%s":%s' % (name.encode(), _json(table.column(name).to_pylist()))
    values, codes = _codes(table.column("prompt"))
    yield b',"prompt":{"values":%s,"codes":%s}' % (_json(values), _json(codes))
    media_type = MEDIA_TYPES[rows.run.spec.images.format]
    types, inputs = {"values": [media_type], "codes": [0] * len(table)}, _inputs(table)
    frames = _num_frames(table)
    yield b',"num_frames":%s,"media_type":%s' % (_json(frames), _json(types))
    yield b',"inputs":%s' % _json(inputs)
    names, constants = list[str](), dict[str, Any]()
    yield b',"columns":['
    for column in page_columns(table.select(_shown(table))):
        constant = None if len(table) == 1 else column.constant
        if constant is not None:
            constants[column.name] = constant
            continue
        yield (b"," if names else b"") + _json(column.as_dict())
        names.append(column.name)
    yield b'],"constants":%s' % _json(constants)
    places = _thumb_places(table, thumbs, context.atlas_folder)
    strips = None if frames is None else _strip_places(table, thumbs, context.atlas_folder)
    yield b',"thumbs":%s,"strips":%s' % (_json(places), _json(strips))
    about = _run_values(rows, names, places["atlas"].count(-1), context)
    yield b',"run":%s}' % _json({**about, "has_inputs": inputs is not None})


def _shown(table: pa.Table) -> list[str]:
    """The columns that the page filters by, in the order in which people look for them."""
    carried = [name for name in table.column_names if name not in METADATA_SCHEMA.names]
    known = [
        name
        for name in METADATA_SCHEMA.names
        if name in table.column_names and name not in {*NOT_SHOWN, *LAST}
    ]
    return [*carried, *known, *LAST]


def _run_values(
    rows: ReviewRows,
    columns: Sequence[str],
    without_thumb: int,
    context: PageContext,
) -> dict[str, Any]:
    run, wanted = rows.run, context.group_by or rows.run.spec.review.group_by
    known, missing = {*columns, *DERIVED}, 0 if context.thumbs_coming else without_thumb
    return {
        "name": run.spec.name,
        "url": run.url,
        "id": run.record.fingerprint_at_first,
        "complete": rows.is_complete,
        "num_images": run.record.layout.num_images,
        "num_ok": len(rows.table) + rows.num_removed,
        "num_failed": rows.num_failed,
        "num_removed": rows.num_removed,
        "read_only": context.read_only,
        "reviewer": context.reviewer,
        "group_by": wanted if wanted in known else None,
        "thumbs_coming": context.thumbs_coming,
        "notes": [*context.notes, *_notes(rows, wanted, known, missing)],
    }


def _notes(
    rows: ReviewRows, group_by: str | None, known: Collection[str], without_thumb: int
) -> Iterator[str]:
    num_shards = rows.run.record.layout.num_shards
    if not rows.is_complete:
        left = num_shards - rows.num_shards
        of = plural(num_shards, "shard")
        yield f"The run is not finished: {left:,} of {of} not committed yet."
    if rows.num_failed:
        yield f"{plural(rows.num_failed, 'image')} failed; nightpress retry makes them again."
    if rows.num_removed:
        yield (
            f"{plural(rows.num_removed, 'image')} removed from the store since; "
            "nightpress verify --repair makes them again."
        )
    if without_thumb:
        yield f"{plural(without_thumb, 'image')} without a thumbnail yet."
    if group_by is not None and group_by not in known:
        yield (
            f"group_by: there is no column {group_by!r} with different values; the columns are: "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    yield from rows.notes


def _thumb_places(table: pa.Table, thumbs: Thumbs, folder: str) -> dict[str, Any]:
    """Where the thumbnail of each image is: the value of `thumbs`."""
    numbers: dict[str, int] = {}
    atlas, cell = [], []
    ids, hashes = (table.column(name).to_pylist() for name in ("image_id", "sha256"))
    for image in zip(ids, hashes, strict=True):
        place = thumbs.places.get(image)
        atlas.append(-1 if place is None else numbers.setdefault(place.path, len(numbers)))
        cell.append(0 if place is None else place.cell)
    return {
        "atlases": [f"{folder}/{path.rpartition('/')[2]}" for path in numbers],
        "atlas": atlas,
        "cell": cell,
        "columns": COLUMNS,
        "rows": ROWS,
        "cell_px": CELL_PX,
        "frames": None,
    }


def _strip_places(table: pa.Table, thumbs: Thumbs, folder: str) -> dict[str, Any]:
    """Where the strip of each clip is: the value of `strips`, which has atlases of its own."""
    numbers: dict[str, int] = {}
    atlas, first_cell, num = [], [], []
    ids, hashes = (table.column(name).to_pylist() for name in ("image_id", "sha256"))
    for image in zip(ids, hashes, strict=True):
        place = thumbs.strips.get(image)
        atlas.append(-1 if place is None else numbers.setdefault(place.path, len(numbers)))
        first_cell.append(0 if place is None else place.first_cell)
        num.append(0 if place is None else place.num)
    return {
        "atlases": [f"{folder}/{path.rpartition('/')[2]}" for path in numbers],
        "atlas": atlas,
        "first_cell": first_cell,
        "num": num,
        "columns": COLUMNS,
        "rows": ROWS,
    }


def _inputs(table: pa.Table) -> list[dict[str, Any]] | None:
    """Which images were made from which pictures: the value of `inputs`."""
    lists = table.column("inputs")
    if pc.sum(pc.list_value_length(lists)).as_py() in (None, 0):
        return None
    found: dict[str, list[int]] = {}
    for number, inputs in enumerate(lists.to_pylist()):
        for role in dict.fromkeys(each["role"] for each in inputs or ()):
            found.setdefault(role, []).append(number)
    return [
        {"column": role, "label": role.replace("_", " "), "rows": numbers}
        for role, numbers in found.items()
    ]


def _codes(column: pa.ChunkedArray) -> tuple[list[Any], list[int]]:
    """The distinct values of a column without nulls, and the number of each row's value."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_pylist()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _num_frames(table: pa.Table) -> list[int | None] | None:
    """Frames of each clip; None if there are only still images."""
    column = table.column("num_frames") if "num_frames" in table.column_names else None
    if column is None or column.null_count == len(column):
        return None
    found: list[int | None] = column.to_pylist()
    return found
