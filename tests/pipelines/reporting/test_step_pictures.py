"""Pictures of denoising show everything in its place."""

from pathlib import Path

import pytest
from PIL import Image

from nightpress.pipelines.reporting.step_pictures import (
    StepPicture,
    animation,
    save_animation,
    strip,
    table,
)


def shade(level: int) -> Image.Image:
    return Image.new("RGB", (128, 128), (level, 0, 255 - level))


def pictures(count: int) -> list[StepPicture]:
    return [StepPicture(shade(i * 8), shade(255 - i * 8), f"{i}/{count - 1}") for i in range(count)]


def colours(image: Image.Image) -> set[tuple[int, int, int]]:
    found = image.getcolors(1 << 20)
    assert found is not None
    return {colour for _, colour in found}  # type: ignore[misc]


@pytest.mark.parametrize("count", [1, 2, 11, 12, 21])
def test_every_frame_is_on_the_strip_with_its_prediction(count: int) -> None:
    sheet = strip(pictures(count), "a title")
    seen = colours(sheet)
    for i in range(count):
        assert (i * 8, 0, 255 - i * 8) in seen
        assert (255 - i * 8, 0, i * 8) in seen


def test_a_prediction_is_below_its_frame() -> None:
    sheet = strip(pictures(3), "a title")
    pixels = {sheet.getpixel((x, y)): (x, y) for x in range(sheet.width) for y in (90, 230)}
    for i in range(3):
        noisy = pixels[(i * 8, 0, 255 - i * 8)]
        guess = pixels[(255 - i * 8, 0, i * 8)]
        assert noisy[1] < guess[1]
        assert abs(noisy[0] - guess[0]) < 5


def test_long_strips_continue_in_another_band() -> None:
    short, long = strip(pictures(11), "a title"), strip(pictures(21), "a title")
    assert long.width == short.width
    assert long.height > 1.7 * short.height


def test_an_animation_shows_every_frame_and_holds_the_last(tmp_path: Path) -> None:
    frames = animation(pictures(7), "a title")
    save_animation(frames, tmp_path / "steps.gif")
    with Image.open(tmp_path / "steps.gif") as read:
        assert read.n_frames == 7
        assert read.size == frames[0].size
        assert read.info["loop"] == 0
        durations = []
        for number in range(read.n_frames):
            read.seek(number)
            durations.append(read.info["duration"])
    assert durations[-1] > 5 * max(durations[:-1])


def test_cells_are_in_their_rows_and_columns_and_may_be_missing() -> None:
    cells = {("ddim", "5"): (shade(0), "a"), ("heun", "50"): (shade(200), "b")}
    sheet = table(["ddim", "heun"], ["5", "50"], cells, "a title")
    middles = {}
    for colour in ((0, 0, 255), (200, 0, 55)):
        places = [
            (x, y)
            for x in range(0, sheet.width, 4)
            for y in range(0, sheet.height, 4)
            if sheet.getpixel((x, y)) == colour
        ]
        middles[colour] = places[len(places) // 2]
    assert middles[(0, 0, 255)][0] < middles[(200, 0, 55)][0]
    assert middles[(0, 0, 255)][1] < middles[(200, 0, 55)][1]


def test_nothing_to_show_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        strip([], "a title")
    with pytest.raises(ValueError, match="at least one cell"):
        table(["a"], ["b"], {}, "a title")
