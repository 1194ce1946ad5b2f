"""Contact sheets: many images on one, with a caption under each."""

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from PIL import Image, ImageDraw, ImageFont, ImageOps

from nightpress.pipelines.job.sections import MAX_PIXELS

PAPER = (250, 249, 246)
CELL = (238, 236, 231)
INK = (52, 50, 46)

CAPTION_LINES = 2
MISSING = "\uffff"
"""A character that no font has; it is drawn as the font's box for missing characters."""

PROBE_SIZE = 24
"""Size in pixels at which the font is asked for a character."""

COLUMNS_PER_ROW = 1.4
"""The preferred ratio of columns to rows."""

Measure = Callable[[str], float]


def contact_sheet(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    columns: int | None = None,
    thumb: int = 256,
) -> Image.Image:
    """Draw the images in a grid, in order, each fitted into a square.

    Args:
        images: images of any mode and size; small ones are enlarged.
        captions: one for each image; a caption longer than two lines ends in an ellipsis.
        columns: number of columns; by default chosen for an even, somewhat wide sheet.
        thumb: side of a square in pixels; smaller where the sheet would have more pixels than
            Pillow opens.

    Raises:
        ValueError: there are no images, or not one caption for each.
    """
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    columns = columns or even_columns(len(images))
    grid, font, line = _layout(columns, thumb)
    while math.prod(grid.size(len(images))) > MAX_PIXELS and thumb > 1:
        thumb = max(1, thumb * 9 // 10)
        grid, font, line = _layout(columns, thumb)
    sheet = Image.new("RGB", grid.size(len(images)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = grid.corner(index)
        _paste_fitted(sheet, image, x, y, thumb)
        lines = wrapped(drawable(caption, font), thumb, font.getlength)
        for number, text in enumerate(lines):
            draw.text((x, y + thumb + grid.padding + number * line), text, INK, font)
    return sheet


@dataclass(frozen=True)
class Grid:
    """The layout of a sheet, in pixels."""

    columns: int
    thumb: int
    """Side of a square."""
    caption: int
    """Height of the caption under a square."""

    @property
    def gap(self) -> int:
        """Space between two squares."""
        return self.thumb // 12

    @property
    def margin(self) -> int:
        """Space around the grid."""
        return self.thumb // 7

    @property
    def padding(self) -> int:
        """Space between a square and its caption."""
        return self.thumb // 26

    def corner(self, index: int) -> tuple[int, int]:
        """The upper left corner of a square, counted from 0."""
        row, column = divmod(index, self.columns)
        height = self.thumb + self.padding + self.caption + self.gap
        return self.margin + column * (self.thumb + self.gap), self.margin + row * height

    def size(self, num_images: int) -> tuple[int, int]:
        """Width and height of the whole sheet."""
        right, _ = self.corner(self.columns - 1)
        _, bottom = self.corner(num_images - 1)
        height = bottom + self.thumb + self.padding + self.caption + self.margin
        return right + self.thumb + self.margin, height


def _layout(columns: int, thumb: int) -> tuple[Grid, ImageFont.FreeTypeFont, int]:
    """The grid for squares of a size, the font of their captions, and a line's height."""
    font = default_font(min(max(11, thumb // 18), max(1, thumb)))
    line = math.ceil(sum(font.getmetrics()) * 1.15)
    return Grid(columns, thumb, CAPTION_LINES * line), font, line


def even_columns(num_images: int) -> int:
    """The number of columns that leaves the fewest empty squares on a somewhat wide sheet."""
    root = math.sqrt(num_images)

    def waste(columns: int) -> tuple[int, float]:
        rows = math.ceil(num_images / columns)
        return columns * rows - num_images, abs(columns / rows - COLUMNS_PER_ROW)

    return min(range(math.ceil(root), math.ceil(1.7 * root) + 1), key=waste)


def default_font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with Pillow: the same on every machine, but with little beyond ASCII."""
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))


def drawable(text: str, font: ImageFont.FreeTypeFont) -> str:
    """Limit text to characters of the font: accents are dropped, other characters become a box."""
    box = bytes(font.getmask(MISSING))

    def replacement(char: str) -> str:
        if char.isspace():
            return " "
        parts: list[str] = [char, *unicodedata.normalize("NFKD", char)]
        for part in parts:
            if part.isprintable() and bytes(font.getmask(part)) not in (box, b""):
                return part
        return "" if unicodedata.category(char)[0] in "MC" else MISSING

    replacements = {char: replacement(char) for char in set(text)}
    return " ".join("".join(replacements[char] for char in text).split())


def not_drawable(texts: Iterable[str]) -> frozenset[str]:
    """The characters of some texts that `default_font` lacks, so that a box stands for them."""
    font = default_font(PROBE_SIZE)
    characters = set[str]().union(*texts)
    return frozenset(char for char in characters if drawable(char, font) == MISSING)


def wrapped(text: str, width: float, length: Measure, num_lines: int = CAPTION_LINES) -> list[str]:
    """Wrap text into lines no longer than `width`; an ellipsis marks text that is left out."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < num_lines - 1:
        head = _longest(rest, width, length)
        if head == rest:
            return [*lines, rest]
        space = head.rfind(" ") if rest[len(head)] != " " else len(head)
        head = head[:space] if space > 0 else head
        lines.append(head.rstrip())
        rest = rest[len(head) :].lstrip()
    if rest and length(rest) > width:
        rest = _longest(rest, width - length("…"), length).rstrip(" ,.;:-") + "…"
    return [*lines, rest] if rest else lines


def _longest(text: str, width: float, length: Measure) -> str:
    """The longest prefix of the text that fits, at least one character."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if length(text[:middle]) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def _paste_fitted(sheet: Image.Image, image: Image.Image, x: int, y: int, side: int) -> None:
    """Paste an image into a square, scaled to fit and centred."""
    ImageDraw.Draw(sheet).rectangle((x, y, x + side - 1, y + side - 1), fill=CELL)
    fitted = ImageOps.contain(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    corner = (x + (side - fitted.width) // 2, y + (side - fitted.height) // 2)
    sheet.paste(fitted, corner)
