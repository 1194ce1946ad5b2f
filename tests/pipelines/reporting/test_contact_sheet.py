"""Contact sheets: every image in its square, every caption within its width."""

import numpy as np
import pytest
from PIL import Image

from nightpress.pipelines.job.sections import MAX_PIXELS
from nightpress.pipelines.reporting.contact_sheet import (
    MISSING,
    contact_sheet,
    default_font,
    drawable,
    even_columns,
    wrapped,
)

COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30), (30, 200, 200)]


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.new("RGB", size, colour)


def boxes(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of where the colour is, ends included."""
    y, x = np.nonzero((np.asarray(sheet) == colour).all(axis=-1))
    return int(x.min()), int(y.min()), int(x.max()), int(y.max())


def test_pictures_stand_in_order_row_by_row() -> None:
    sheet = contact_sheet([plain(c) for c in COLOURS], ["a"] * 5, columns=3, thumb=64)
    places = [boxes(sheet, colour)[:2] for colour in COLOURS]
    assert [y for _, y in places] == sorted(y for _, y in places)
    assert len({x for x, _ in places}) == 3
    assert places[0][0] == places[3][0]
    assert len({y for _, y in places}) == 2


@pytest.mark.parametrize("size", [(32, 32), (400, 100), (100, 400), (1, 1)])
def test_a_picture_fills_its_square_and_keeps_its_proportions(size: tuple[int, int]) -> None:
    sheet = contact_sheet([plain(COLOURS[0], size)], [""], thumb=64)
    left, top, right, bottom = boxes(sheet, COLOURS[0])
    width, height = right - left + 1, bottom - top + 1
    assert max(width, height) == 64
    assert width * size[1] == pytest.approx(height * size[0], rel=0.05)


def test_every_mode_can_be_shown() -> None:
    images = [Image.new(mode, (16, 16)) for mode in ("L", "RGBA", "P", "1", "CMYK")]
    assert contact_sheet(images, [""] * 5, thumb=64).mode == "RGB"


def test_the_same_pictures_make_the_same_sheet() -> None:
    one, two = (contact_sheet([plain(c) for c in COLOURS], ["a cat"] * 5) for _ in range(2))
    assert one.tobytes() == two.tobytes()


def test_captions_are_drawn() -> None:
    blank, spoken = (contact_sheet([plain(COLOURS[0])], [text]) for text in ("", "a cat"))
    assert blank.size == spoken.size
    assert blank.tobytes() != spoken.tobytes()


def test_a_sheet_without_images_or_captions_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([], [])
    with pytest.raises(ValueError, match="shorter"):
        contact_sheet([plain(COLOURS[0])] * 2, ["a"])


@pytest.mark.parametrize(("num_images", "columns"), [(1, 1), (2, 2), (6, 3), (12, 4), (16, 4)])
def test_the_grid_has_no_empty_squares_where_possible(num_images: int, columns: int) -> None:
    assert even_columns(num_images) == columns


def test_the_grid_is_never_taller_than_wide() -> None:
    for num_images in range(1, 500):
        columns = even_columns(num_images)
        assert -(-num_images // columns) <= columns <= 2 * num_images**0.5 + 1


def test_letters_that_the_font_lacks_are_replaced() -> None:
    font = default_font(14)
    assert drawable("naïve Kätzchen", font) == "naive Katzchen"
    assert drawable("a\n\tb\r\n c", font) == "a b c"
    assert drawable("猫 cat", font) == f"{MISSING} cat"
    assert drawable("a\u200db\x07c\u202e", font) == "abc"
    assert drawable("", font) == ""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("short", ["short"]),
        ("one two three", ["one two", "three"]),
        ("one two three four five", ["one two", "three fou…"]),
        ("abcdefghijklmnop", ["abcdefghij", "klmnop"]),
        ("abcdefghij klm", ["abcdefghij", "klm"]),
        ("abcdefghijklmnopqrstuvw", ["abcdefghij", "klmnopqrs…"]),
    ],
)
def test_captions_wrap_at_words_and_end_in_an_ellipsis(text: str, lines: list[str]) -> None:
    assert wrapped(text, 10, len) == lines


def test_no_line_is_wider_than_its_picture() -> None:
    font = default_font(14)
    for text in ("a cat on a mat " * 20, "w" * 200, "ill " * 100, "A, B; C: " * 30):
        assert all(font.getlength(line) <= 200 for line in wrapped(text, 200, font.getlength))


def test_a_sheet_of_many_pictures_is_not_too_large_to_be_opened() -> None:
    tiny = plain(COLOURS[0], (1, 1))
    sheet = contact_sheet([tiny] * 2000, [""] * 2000)
    assert sheet.width * sheet.height <= MAX_PIXELS
    assert contact_sheet([tiny], [""]).width > 256
