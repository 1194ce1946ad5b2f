"""The rivals benchmark: how it computes rates, and the order of its runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NUM_IMAGES, BATCH_SIZE, THREADS = 100, 4, 2
FIRST = 16
"""A tenth of the images, rounded up to whole rounds of batches: 2 x 4 x 2."""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import bench_rivals

    return bench_rivals


@pytest.fixture
def job(bench: Any, tmp_path: Path) -> Any:
    manifest = tmp_path / "prompts.txt"
    manifest.write_text("a picture\n" * NUM_IMAGES)
    return bench.Job(
        manifest=manifest,
        output=tmp_path,
        model="builtin",
        dtype="float32",
        num_inference_steps=2,
        guidance_scale=3.0,
        batch_size=BATCH_SIZE,
        threads=THREADS,
    )


def test_a_rate_leaves_out_the_first_tenth_however_slow_it_was(bench: Any, job: Any) -> None:
    later = [1000.0 + k / 2 for k in range(1, NUM_IMAGES - FIRST + 1)]  # two images/s
    for first in ([1000.0] * FIRST, [*range(FIRST - 1), 1000.0]):
        found = bench.figures(job, [*reversed(later), *first], later[-1], 50.0)
        assert found == bench.Figures(rate=2.0, whole=2.0)


def test_a_last_record_that_comes_late_lowers_the_rate(bench: Any, job: Any) -> None:
    moments = [0.0] * FIRST + [42.0] * (NUM_IMAGES - FIRST)
    assert bench.figures(job, moments, 84.0, 200.0) == bench.Figures(rate=1.0, whole=0.5)


def test_a_missing_image_ends_the_benchmark(bench: Any, job: Any) -> None:
    with pytest.raises(SystemExit, match="99 of 100 images were made"):
        bench.figures(job, [1.0] * 99, 2.0, 3.0)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_rival_runs_once_and_directly_beside_nightpress(
    bench: Any, count: int, number: int
) -> None:
    rivals = bench.RIVALS[:count]
    groups = list(bench.neighbours(rivals, number))
    assert [rival for group in groups for rival in group if rival is not None] == list(rivals)
    for group in groups:
        assert group.count(None) == 1
        assert len(group) == 2 or (len(group) == 3 and group[1] is None)


def test_in_the_next_pair_nightpress_is_on_the_other_side_of_each_rival(bench: Any) -> None:
    def is_before(number: int) -> dict[str, bool]:
        return {
            rival.name: place < group.index(None)
            for group in bench.neighbours(bench.RIVALS, number)
            for place, rival in enumerate(group)
            if rival is not None
        }

    even, odd = is_before(0), is_before(1)
    assert {name: not before for name, before in even.items()} == odd
    assert is_before(2) == even


def test_each_variant_of_nightpress_has_its_own_table_and_verdicts(bench: Any) -> None:
    (bare, naive, *_), two = bench.RIVALS, bench.Figures(2.0, 2.0)
    ours = bench.Figures(2.0, 1.0), bench.Figures(6.0, 3.0)
    pairs = {rival.name: [bench.Pair(two, ours)] for rival in (bare, naive)}
    plain, fast, other = (
        list(bench.table((bare, naive), pairs, place, variant))
        for place, variant in ((0, ()), (1, bench.AUTO), (1, ("c=3",)))
    )
    assert plain[2].split()[-4:] == ["1.00", "0.50", "0.97", "met"]
    assert plain[3].split()[-3:] == ["1.00", "0.50", "-"]
    assert fast[3].split()[-4:] == ["3.00", "1.50", "2.30", "met"]
    assert other[3].split()[-3:] == ["3.00", "1.50", "-"]
    assert [lines[-1].split()[-2:] for lines in (plain, fast)] == [
        ["2.00", "1.00"],
        ["6.00", "3.00"],
    ]


def test_variants_come_after_the_plain_one(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--way", "a=1 b=2", "--way", "c=3"])
    assert bench.arguments().variants == [(), ("a=1", "b=2"), ("c=3",)]
    monkeypatch.setattr("sys.argv", ["bench", "--way", "c=3", "--no-exact"])
    assert bench.arguments().variants == [("c=3",)]
    monkeypatch.setattr("sys.argv", ["bench", "--no-exact"])
    with pytest.raises(SystemExit):
        bench.arguments()


def test_a_printed_line_gives_a_moment_for_each_of_its_images(bench: Any) -> None:
    assert bench.printed_moments("12.5 2\n13.25 1\n") == [12.5, 12.5, 13.25]
    assert bench.printed_moments("") == []


def test_the_difference_between_images_is_described_in_decibels(bench: Any, tmp_path: Path) -> None:
    for folder, shift in (("theirs", 0), ("ours", 10)):
        (tmp_path / folder / "images").mkdir(parents=True)
        for number in range(3):
            pixels = np.full((8, 8, 3), 100 + shift, np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"images/{number}.png")
    text = bench.describe_difference(tmp_path / "theirs", tmp_path / "ours")
    lowest = "the others 28.1 dB on average, 28.1 dB at the lowest"  # 20 log10(255 / 10)
    assert text == f"0 of 3 the same, {lowest}"
    Image.new("RGB", (8, 8), (100, 100, 100)).save(tmp_path / "ours/images/1.png")
    text = bench.describe_difference(tmp_path / "theirs", tmp_path / "ours")
    assert text == f"1 of 3 the same, {lowest}"
    assert bench.describe_difference(tmp_path / "ours", tmp_path / "ours") == "3 of 3 the same"
    with pytest.raises(SystemExit, match=r"differs from nightpress's by 10.0 of 255"):
        bench.require_same_images(tmp_path / "theirs", tmp_path / "ours")
