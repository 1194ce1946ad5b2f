"""How denoising looks: a strip of moments, an animation of them, and a table of trials.

Owns their looks. Knows nothing of samplers: pictures and words come in, pictures go out.
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
"""Sides of a picture on a sheet, in pixels."""

MOST_COLUMNS = 11
FRAME_MS, LAST_FRAME_MS = 160, 2000

Pair = tuple[Image.Image, Image.Image]


@dataclass(frozen=True)
class StepPicture:
    """A moment of denoising: what the network saw, what it took it for, and words for both."""

    noisy: Image.Image
    guess: Image.Image
    caption: str


@dataclass(frozen=True)
class Lettering:
    """The type that goes with pictures of one side."""

    side: int

    @property
    def font(self) -> ImageFont.FreeTypeFont:
        """About a tenth of a picture."""
        return default_font(max(11, self.side // 13))

    @property
    def line(self) -> int:
        """Pixels from one line to the next."""
        return math.ceil(sum(self.font.getmetrics()) * 1.2)

    @property
    def gap(self) -> int:
        """Between pictures."""
        return self.side // 16

    @property
    def margin(self) -> int:
        """Around everything."""
        return self.side // 6

    def write(
        self, sheet: Image.Image, at: tuple[int, int], text: str, width: int, num_lines: int = 1
    ) -> None:
        """Draw text; what does not fit ends in an ellipsis."""
        draw, font = ImageDraw.Draw(sheet), self.font
        lines = wrapped(drawable(text, font), width, font.getlength, num_lines)
        for number, line in enumerate(lines):
            draw.text((at[0], at[1] + number * self.line), line, INK, font)


def side_of(image: Image.Image) -> int:
    """How large to draw pictures of that size."""
    return min(LARGEST, max(SMALLEST, *image.size))


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The picture centred in a square."""
    return ImageOps.pad(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS, CELL)


def strip(pictures: Sequence[StepPicture], title: str) -> Image.Image:
    """Moments from left to right, the guess under each, over as many bands as it takes.

    Raises:
        ValueError: no pictures.
    """
    if not pictures:
        raise ValueError("a strip needs at least one picture")
    bands = math.ceil(len(pictures) / MOST_COLUMNS)
    columns = math.ceil(len(pictures) / bands)
    side = side_of(pictures[0].noisy)
    type_ = Lettering(side)
    band = 2 * side + type_.gap // 2 + 2 * type_.line
    top = type_.margin + 2 * type_.line
    width = 2 * type_.margin + columns * (side + type_.gap) - type_.gap
    sheet = Image.new("RGB", (width, top + bands * (band + type_.gap) + type_.margin // 2), PAPER)
    type_.write(sheet, (type_.margin, type_.margin // 2), title, width - 2 * type_.margin, 2)
    for place, picture in enumerate(pictures):
        row, column = divmod(place, columns)
        x = type_.margin + column * (side + type_.gap)
        y = top + row * (band + type_.gap)
        sheet.paste(fitted(picture.noisy, side), (x, y))
        sheet.paste(fitted(picture.guess, side), (x, y + side + type_.gap // 2))
        type_.write(sheet, (x, y + 2 * side + type_.gap), picture.caption, side)
    return sheet


def animation(pictures: Sequence[StepPicture], title: str) -> list[Image.Image]:
    """One frame a moment: what the network saw on the left, its guess on the right."""
    side = LARGEST
    type_ = Lettering(side)
    width = 2 * side + type_.gap + 2 * type_.margin
    height = side + type_.margin + 2 * type_.line + 2 * type_.gap
    frames = []
    for picture in pictures:
        frame = Image.new("RGB", (width, height), PAPER)
        x, y = type_.margin, type_.margin // 2 + type_.line + type_.gap
        type_.write(frame, (x, type_.margin // 2), title, width - 2 * type_.margin)
        for image, words in (
            (picture.noisy, picture.caption),
            (picture.guess, "the picture it expects"),
        ):
            frame.paste(fitted(image, side), (x, y))
            type_.write(frame, (x, y + side + type_.gap // 2), words, side)
            x += side + type_.gap
        frames.append(frame)
    return frames


def save_animation(frames: Sequence[Image.Image], path: Path) -> None:
    """Write a GIF that plays for ever and rests on its last frame."""
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    flat = [frame.quantize(256, Image.Quantize.MEDIANCUT) for frame in frames]
    flat[0].save(path, save_all=True, append_images=flat[1:], duration=durations, loop=0)


def table(
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[str, str], tuple[Image.Image, str]],
    title: str,
) -> Image.Image:
    """Pictures with a caption each, in named rows and columns.

    Args:
        rows, columns: their names.
        cells: by row and column; places without one stay empty.
        title: above all, on up to two lines.

    Raises:
        ValueError: no cells.
    """
    if not cells:
        raise ValueError("a table needs at least one cell")
    side = side_of(next(iter(cells.values()))[0])
    type_ = Lettering(side)
    label = math.ceil(max(type_.font.getlength(row) for row in rows)) + type_.gap
    step_x, step_y = side + type_.gap, side + 2 * type_.line + type_.gap
    left, top = type_.margin + label, type_.margin + 4 * type_.line
    size = (left + len(columns) * step_x + type_.margin, top + len(rows) * step_y + type_.margin)
    sheet = Image.new("RGB", size, PAPER)
    type_.write(sheet, (type_.margin, type_.margin // 2), title, size[0] - 2 * type_.margin, 2)
    for number, name in enumerate(columns):
        type_.write(sheet, (left + number * step_x, top - type_.line - type_.gap), name, side)
    for number, name in enumerate(rows):
        y = top + number * step_y + (side - type_.line) // 2
        type_.write(sheet, (type_.margin, y), name, label)
    for (row, column), (image, caption) in cells.items():
        x, y = left + columns.index(column) * step_x, top + rows.index(row) * step_y
        sheet.paste(fitted(image, side), (x, y))
        type_.write(sheet, (x, y + side + type_.gap // 2), caption, side, 2)
    return sheet
