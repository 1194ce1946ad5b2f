"""`review --static`: the page as one file beside the run, which needs no server."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nightpress.jobs.reviews.options import ReviewOptions
from nightpress.jobs.reviews.requirements import require_group_column, require_images
from nightpress.jobs.reviews.reviewed_run import ReviewedRun
from nightpress.jobs.reviews.static_inputs import StaticInputs, static_inputs
from nightpress.jobs.reviews.thumbs import make_thumbs
from nightpress.jobs.runs.shared import OnEvent, ignore
from nightpress.jobs.runs.targets import ImageTarget, open_images
from nightpress.pipelines.review.facts import fact_sheets
from nightpress.pipelines.review.page import below, embedded, relative, static_page
from nightpress.pipelines.review.rows import PageContext, ReviewRows, rows_json
from nightpress.pipelines.review.sheets import SheetChunk, sheet_chunks
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import THUMBS_FOLDER
from nightpress.pipelines.storage import Options, is_local

STATIC_FILE = "review.html"

MOST_EMBEDDED_BYTES = 64 << 20
"""Of all atlases that a page on object storage holds itself; larger ones are linked."""


MOST_SHEET_BYTES = 32 << 20
"""Bytes that the facts and jobs of all images may take."""

NO_SHEETS = (
    "Facts and jobs of the images would make this page too large: nightpress review, without "
    "--static, shows them."
)


@dataclass(frozen=True)
class StaticPage:
    """The page that was written."""

    url: str
    num_images: int
    num_bytes: int
    embeds_thumbs: bool
    """Whether the page holds the thumbnails itself, so that it needs no other file for them."""


def write_static_page(
    target: ImageTarget,
    options: ReviewOptions,
    on_event: OnEvent = ignore,
    *,
    storage: Options | None = None,
) -> StaticPage:
    """Write `review.html` into a run, replacing an older one.

    The page holds the rows and the marks of now; marks made on it stay in the browser, which saves
    them as a file for `import_marks`. It holds the facts and jobs of the images, and links the
    images beside it, or at `images_at`. In a folder it links the atlases, too; on object storage it
    holds them itself, because a signed URL reaches one object alone.

    Args:
        target, options, on_event, storage: as for `review`.

    Raises:
        ImageNotFound, SpecError, RunNotFound, StoreError: as for `review`.
    """
    run = open_images(target, storage)
    require_group_column(run, options)
    reviewed = ReviewedRun(run, options, lambda text: None)
    require_images(rows := reviewed.rows())
    if options.makes_thumbs:
        make_thumbs(run, on_event)
        rows = reviewed.rows()
    page, embeds = _page(reviewed, rows)
    run.store.put(STATIC_FILE, page)
    return StaticPage(f"{run.url}/{STATIC_FILE}", len(rows.table), len(page), embeds)


def _page(reviewed: ReviewedRun, rows: ReviewRows) -> tuple[bytes, bool]:
    """The page, and whether it holds the thumbnails itself."""
    run, options = reviewed.run, reviewed.options
    reviewed.refresh_marks()
    context = PageContext(
        options.reviewer,
        group_by=options.group_by,
        notes=reviewed.notes(),
        atlas_folder=THUMBS_FOLDER,
    )
    values = json.loads(b"".join(rows_json(rows, reviewed.thumbs, context)))
    marks, sizes = json.loads(reviewed.marks_body()), reviewed.thumbs.listed
    strips = values["strips"]["atlases"] if values["strips"] else []
    num_bytes = sum(sizes[path] for path in {*values["thumbs"]["atlases"], *strips})
    embeds = not is_local(run.url) and num_bytes <= MOST_EMBEDDED_BYTES
    if values["inputs"]:
        _add_inputs(values, static_inputs(rows))
    sheets = list(_sheets(run, values["image_id"]))
    if not sheets:
        values["run"]["notes"].append(NO_SHEETS)
    page = static_page(
        values,
        marks,
        sheets=sheets,
        images=_image_paths(rows),
        locate=embedded(run.store.read) if embeds else None,
        locate_image=below(options.images_at) if options.images_at else relative,
    )
    return page.encode(), embeds


def _add_inputs(values: dict[str, Any], inputs: StaticInputs) -> None:
    values["pictures"] = inputs.urls
    values["run"]["notes"] += inputs.notes
    for each in values["inputs"]:
        each["pictures"] = inputs.of[each["column"]]


def _sheets(run: Run, image_ids: Sequence[str]) -> Iterator[SheetChunk]:
    """The facts of the images; none at all if they would make the page too large."""
    chunks, size = list[SheetChunk](), 0
    for chunk in sheet_chunks(image_ids, fact_sheets(run)):
        size += len(chunk.data)
        if size > MOST_SHEET_BYTES:
            return
        chunks.append(chunk)
    yield from chunks


def _image_paths(rows: ReviewRows) -> list[str | None]:
    """The path of each image in the run; None for one in a pack."""
    files, members = (rows.table.column(name).to_pylist() for name in ("file", "member"))
    return [file if member is None else None for file, member in zip(files, members, strict=True)]
