"""Contact sheets as PDF: pages of A4 paper across, with fifteen captioned images on each."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from time import struct_time
from typing import TypeVar

from PIL import Image, ImageDraw

from nightpress.pipelines.reporting.contact_sheet import (
    INK,
    PAPER,
    contact_sheet,
    default_font,
    drawable,
)

DPI = 150
PAGE = (1754, 1240)
"""Pixels of A4 across at `DPI`."""
COLUMNS, ROWS = 5, 3
THUMB = 290
PAGES_A_FILE = 50
"""Pillow has all pages of a file in memory: 6.5 MB each."""
FOOT = 18
"""Size of the letters at the foot of a page, in pixels."""
QUALITY = 88
PRODUCER = "nightpress"
"""What a PDF file says has made it."""

T = TypeVar("T")


@dataclass(frozen=True)
class SheetImage:
    """An image of a contact sheet."""

    jpeg: bytes
    """A small copy of it."""
    caption: str


def small_copy(image: Image.Image) -> bytes:
    """An image as a contact sheet shows it: a JPEG file of at most `THUMB` pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((THUMB, THUMB), Image.Resampling.LANCZOS, reducing_gap=3.0)
    file = BytesIO()
    small.save(file, "JPEG", quality=QUALITY, subsampling="4:4:4")
    return file.getvalue()


def contact_pdfs(images: Sequence[SheetImage], title: str, at: struct_time) -> Iterator[bytes]:
    """PDF files with all images in order; equal images and titles give equal bytes.

    Args:
        images: at least one.
        title: stands at the foot of each page.
        at: the date that the files state, in UTC.
    """
    num_pages = -(-len(images) // (COLUMNS * ROWS))
    pages = (
        _page(some, f"{title} · page {number} of {num_pages}")
        for number, some in enumerate(_batches(images, COLUMNS * ROWS), start=1)
    )
    for some_pages in _batches(pages, PAGES_A_FILE):
        yield _pdf(some_pages, title, at)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _pdf(pages: Iterable[Image.Image], title: str, at: struct_time) -> bytes:
    first, *others = pages
    file = BytesIO()
    first.save(
        file,
        "PDF",
        save_all=True,
        append_images=others,
        resolution=DPI,
        quality=QUALITY,
        title=title,
        producer=PRODUCER,
        creationDate=at,
        modDate=at,
    )
    return file.getvalue()


def _page(images: Sequence[SheetImage], foot: str) -> Image.Image:
    page = Image.new("RGB", PAGE, PAPER)
    pictures = [Image.open(BytesIO(each.jpeg), formats=("JPEG",)) for each in images]
    sheet = contact_sheet(pictures, [each.caption for each in images], COLUMNS, THUMB)
    page.paste(sheet, ((PAGE[0] - sheet.width) // 2, 0))
    font = default_font(FOOT)
    text = drawable(foot, font)
    place = ((PAGE[0] - font.getlength(text)) / 2, PAGE[1] - 2 * FOOT)
    ImageDraw.Draw(page).text(place, text, INK, font)
    return page
