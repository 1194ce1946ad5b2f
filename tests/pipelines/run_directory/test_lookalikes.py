"""Copies of a run's images are found by their looks: compressed, resized, taken off a screen."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from support.drawn_pictures import COLOURS, Pixels, apple, as_jpeg, house, resized
from support.scored_runs import Scored, made

from nightpress.pipelines.errors import Damaged
from nightpress.pipelines.run_directory.lookalikes import (
    MOST_BITS,
    MOST_LEVELS,
    MOST_LISTED,
    find_lookalikes,
)
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.scoring.perceptual_hash import HashDistance, perceptual_hash

PICTURES = {f"{colour} apple": apple(colour) for colour in COLOURS} | {
    "large apple": apple("red", large=0.75),
    "red house": house("red"),
    "blue house": house("blue"),
}


def file_of(pixels: Pixels, kind: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def run_of(output: Path, pictures: dict[str, Pixels], **images: Scored) -> Run:
    scored = [
        Scored(name, perceptual_hash=perceptual_hash(pixels)) for name, pixels in pictures.items()
    ]
    return made(str(output), [*scored, *images.values()])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(tmp_path_factory.mktemp("runs"), PICTURES)


def screenshot(pixels: Pixels) -> Pixels:
    """At another size, a little darker and paler, and compressed."""
    image = Image.fromarray(pixels).resize((390, 380), Image.Resampling.BILINEAR)
    paler = ImageEnhance.Color(ImageEnhance.Brightness(image).enhance(0.96)).enhance(0.92)
    return as_jpeg(np.asarray(paler), 75)


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG 60": lambda pixels: as_jpeg(pixels, 60),
    "half size": lambda pixels: resized(pixels, 128, 128),
    "half size as JPEG 60": lambda pixels: as_jpeg(resized(pixels, 128, 128), 60),
    "screenshot": screenshot,
}


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("name", PICTURES)
def test_a_copy_looks_most_like_its_image(run: Run, name: str, copy: str) -> None:
    found = find_lookalikes([run], file_of(COPIES[copy](PICTURES[name])))
    nearest, *others = found.nearest
    assert nearest.row["id"] == name
    assert nearest.url == run.url
    assert nearest.apart.bits <= 2
    assert nearest.apart.levels <= 1
    distances = [(each.apart.bits, each.apart.levels) for each in found.nearest]
    assert distances == sorted(distances)
    assert all(each.apart.levels > 1 or each.apart.bits > 2 for each in others)
    assert (found.num_found, found.num_without_hash) == (len(found.nearest), 0)


def test_another_picture_looks_like_none(run: Run) -> None:
    y, x = np.mgrid[0:256, 0:256]
    for other in (
        np.stack([x, y, 255 - x], axis=-1).astype(np.uint8),
        np.flipud(PICTURES["red house"]),
        255 - PICTURES["white apple"],
    ):
        assert find_lookalikes([run], file_of(np.ascontiguousarray(other))).num_found == 0


def test_an_image_at_the_limits_looks_like_it_and_one_beyond_does_not(tmp_path: Path) -> None:
    pixels = PICTURES["grey apple"]
    digits = perceptual_hash(pixels)

    def moved(bits: int, levels: int) -> str:
        """The hash with so many bits flipped, and one level moved by so many."""
        first = int(digits[:16], 16) ^ ((1 << bits) - 1)
        level = int(digits[16], 16)
        level += levels if level < 8 else -levels
        return f"{first:016x}{level:x}{digits[17:]}"

    at = {
        (bits, levels): Scored(f"{bits}-{levels}", perceptual_hash=moved(bits, levels))
        for bits in (0, MOST_BITS, MOST_BITS + 1)
        for levels in (0, MOST_LEVELS, MOST_LEVELS + 1)
    }
    failed = Scored("failed", failed=True)
    run = made(str(tmp_path), [*at.values(), failed])
    found = find_lookalikes([run], file_of(pixels))
    assert [each.apart for each in found.nearest] == [
        HashDistance(0, 0),
        HashDistance(0, MOST_LEVELS),
        HashDistance(MOST_BITS, 0),
        HashDistance(MOST_BITS, MOST_LEVELS),
    ]
    assert found.num_found == 4


def test_the_nearest_of_several_runs_come_first_and_the_rest_is_counted(tmp_path: Path) -> None:
    pixels = PICTURES["red apple"]
    digits = perceptual_hash(pixels)
    further = f"{int(digits[:16], 16) ^ 7:016x}{digits[16:]}"
    many = [Scored(f"{number:02d}", perceptual_hash=further) for number in range(MOST_LISTED + 5)]
    one = made(str(tmp_path / "one"), many)
    two = run_of(tmp_path / "two", {"same": pixels})
    found = find_lookalikes([one, two], file_of(pixels))
    assert found.num_found == len(many) + 1
    assert len(found.nearest) == MOST_LISTED
    assert (found.nearest[0].url, found.nearest[0].row["id"]) == (two.url, "same")
    assert [each.row["id"] for each in found.nearest[1:]] == [
        f"{number:02d}" for number in range(MOST_LISTED - 1)
    ]


def test_images_without_a_hash_are_counted_and_what_is_no_hash_is_damage(tmp_path: Path) -> None:
    old = run_of(tmp_path / "old", PICTURES, old=Scored("old", perceptual_hash=None))
    found = find_lookalikes([old], file_of(PICTURES["red house"]))
    assert (found.num_found, found.num_without_hash) == (1, 1)
    other = made(str(tmp_path / "other"), [Scored("a", perceptual_hash="abc")])
    with pytest.raises(Damaged, match="'abc' is no perceptual hash"):
        find_lookalikes([other], file_of(PICTURES["red house"]))
    with pytest.raises(ValueError, match="not a PNG"):
        find_lookalikes([old], b"hello")
