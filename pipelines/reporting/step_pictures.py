"""Draw denoising: a strip of frames, an animation of them, and a table of images.

Takes images and text and returns images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from nightpress.pipelines.reporting.contact_sheet import (
    CELL,
    INK,
    PAPER,
    default_font,
    drawable,
    wrapped,
)

SMALLEST, LARGEST = 128, 256
"""Side of an image on a sheet, in pixels."""

MAX_COLUMNS = 11
FRAME_MS, LAST_FRAME_MS = 160, 2000


@dataclass(frozen=True)
class StepPicture:
    """One frame of denoising."""

    noisy: Image.Image
    """The denoiser's input."""
    guess: Image.Image
    """The image that it predicts."""
    caption: str


@dataclass(frozen=True)
class SheetStyle:
    """Font and spacing for images of one size."""

    side: int

    @property
    def font(self) -> ImageFont.FreeTypeFont:
        """A font about a tenth of an image high."""
        return default_font(max(11, self.side // 13))

    @property
    def line(self) -> int:
        """Line height in pixels."""
        return math.ceil(sum(self.font.getmetrics()) * 1.2)

    @property
    def gap(self) -> int:
        """Space between images, in pixels."""
        return self.side // 16

    @property
    def margin(self) -> int:
        """Space around the sheet, in pixels."""
        return self.side // 6

    def write(
        self, sheet: Image.Image, at: tuple[int, int], text: str, width: int, num_lines: int = 1
    ) -> None:
        """Draw text on up to `num_lines` lines; text that does not fit ends in an ellipsis."""
        draw, font = ImageDraw.Draw(sheet), self.font
        lines = wrapped(drawable(text, font), width, font.getlength, num_lines)
        for number, line in enumerate(lines):
            draw.text((at[0], at[1] + number * self.line), line, INK, font)


def side_of(image: Image.Image) -> int:
    """Side, in pixels, at which to draw images of this size."""
    return min(LARGEST, max(SMALLEST, *image.size))


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The image centred in a square."""
    return ImageOps.pad(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS, CELL)


def strip(pictures: Sequence[StepPicture], title: str) -> Image.Image:
    """Frames from left to right with the prediction below each, in as many bands as needed.

    Raises:
        ValueError: there are no pictures.
    """
    if not pictures:
        raise ValueError("a strip needs at least one picture")
    bands = math.ceil(len(pictures) / MAX_COLUMNS)
    columns = math.ceil(len(pictures) / bands)
    side = side_of(pictures[0].noisy)
    style = SheetStyle(side)
    band = 2 * side + style.gap // 2 + 2 * style.line
    top = style.margin + 2 * style.line
    width = 2 * style.margin + columns * (side + style.gap) - style.gap
    sheet = Image.new("RGB", (width, top + bands * (band + style.gap) + style.margin // 2), PAPER)
    style.write(sheet, (style.margin, style.margin // 2), title, width - 2 * style.margin, 2)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        x = style.margin + column * (side + style.gap)
        y = top + row * (band + style.gap)
        sheet.paste(fitted(picture.noisy, side), (x, y))
        sheet.paste(fitted(picture.guess, side), (x, y + side + style.gap // 2))
        style.write(sheet, (x, y + 2 * side + style.gap), picture.caption, side)
    return sheet


def animation(pictures: Sequence[StepPicture], title: str) -> list[Image.Image]:
    """One image per frame: the denoiser's input on the left, its prediction on the right."""
    side = LARGEST
    style = SheetStyle(side)
    width = 2 * side + style.gap + 2 * style.margin
    height = side + style.margin + 2 * style.line + 2 * style.gap
    frames = []
    for picture in pictures:
        frame = Image.new("RGB", (width, height), PAPER)
        x, y = style.margin, style.margin // 2 + style.line + style.gap
        style.write(frame, (x, style.margin // 2), title, width - 2 * style.margin)
        for image, text in (
            (picture.noisy, picture.caption),
            (picture.guess, "the predicted image"),
        ):
            frame.paste(fitted(image, side), (x, y))
            style.write(frame, (x, y + side + style.gap // 2), text, side)
            x += side + style.gap
        frames.append(frame)
    return frames


def save_animation(frames: Sequence[Image.Image], path: Path) -> None:
    """Write a GIF that loops and holds its last frame."""
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    flat = [frame.quantize(256, Image.Quantize.MEDIANCUT) for frame in frames]
    flat[0].save(path, save_all=True, append_images=flat[1:], duration=durations, loop=0)


def table(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], tuple[Image.Image, str]],
    title: str,
) -> Image.Image:
    """Captioned images in named rows and columns.

    Args:
        rows, columns: their names.
        cells: image and caption by row and column; missing cells stay empty.
        title: drawn above the table, on up to two lines.

    Raises:
        ValueError: there are no cells.
    """
    if not cells:
        raise ValueError("a table needs at least one cell")
    side = side_of(next(iter(cells.values()))[0])
    style = SheetStyle(side)
    label = math.ceil(max(style.font.getlength(row) for row in rows)) + style.gap
    step_x, step_y = side + style.gap, side + 2 * style.line + style.gap
    left, top = style.margin + label, style.margin + 4 * style.line
    size = (left + len(columns) * step_x + style.margin, top + len(rows) * step_y + style.margin)
    sheet = Image.new("RGB", size, PAPER)
    style.write(sheet, (style.margin, style.margin // 2), title, size[0] - 2 * style.margin, 2)
    for number, name in enumerate(columns):
        style.write(sheet, (left + number * step_x, top - style.line - style.gap), name, side)
    for number, name in enumerate(rows):
        y = top + number * step_y + (side - style.line) // 2
        style.write(sheet, (style.margin, y), name, label)
    for (row, column), (image, caption) in cells.items():
        x, y = left + columns.index(column) * step_x, top + rows.index(row) * step_y
        sheet.paste(fitted(image, side), (x, y))
        style.write(sheet, (x, y + side + style.gap // 2), caption, side, 2)
    return sheet
