"""Progress events while images are packed."""

from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
from support.training_jobs import draw_images

from nightpress.pipelines.errors import DataError
from nightpress.pipelines.training.data import DataSpec, PackedImages, pack
from nightpress.pipelines.training.events import ImagesRead
from nightpress.pipelines.training.packing_progress import pack_with_progress

Progress = Callable[[int], None]


def test_progress_is_reported_during_packing_and_the_result_is_returned() -> None:
    seen, results = Event(), []

    def work(progress: Progress) -> str:
        progress(7)
        assert seen.wait(60)
        progress(9)
        return "packed"

    def consume() -> list[ImagesRead]:
        events = []
        steps = pack_with_progress(work, every_s=0.01)
        try:
            while True:
                events.append(next(steps))
                seen.set()
        except StopIteration as end:
            results.append(end.value)
        return events

    events = consume()
    assert events[0] == ImagesRead(7)
    assert events in ([ImagesRead(7)], [ImagesRead(7), ImagesRead(9)])
    assert results == ["packed"]


def test_an_error_of_packing_is_raised_unchanged() -> None:
    def work(progress: Progress) -> None:
        raise DataError("no pictures")

    with pytest.raises(DataError, match="no pictures"):
        list(pack_with_progress(work))


def pack_images(root: Path, progress: Progress) -> PackedImages:
    spec = DataSpec(source=str(root / "pictures"))
    return pack(spec, 16, True, {}, root / "cache", progress)


def test_closing_the_generator_cancels_packing_and_leaves_no_partial_folder(tmp_path: Path) -> None:
    draw_images(tmp_path / "pictures", 3)

    def work(progress: Progress) -> PackedImages:
        def endless(num: int) -> None:
            while True:
                progress(num)

        return pack_images(tmp_path, endless)

    steps = pack_with_progress(work, every_s=0.01)
    assert next(steps) == ImagesRead(1)
    steps.close()
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_no_progress_is_reported_for_images_that_are_packed_already(tmp_path: Path) -> None:
    draw_images(tmp_path / "pictures", 3)
    counted: list[int] = []
    pack_images(tmp_path, counted.append)
    assert counted == [1, 2, 3]
    assert (
        list(pack_with_progress(lambda progress: pack_images(tmp_path, progress), every_s=0)) == []
    )
