"""How far packing is: told while it goes on, silent where there is nothing to do."""

from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest
from support.training_jobs import draw_pictures

from nightpress.pipelines.errors import DataError
from nightpress.pipelines.training.data import DataSpec, PackedImages, pack
from nightpress.pipelines.training.events import DataRead
from nightpress.pipelines.training.reading import told

Tell = Callable[[int], None]


def test_numbers_are_told_while_it_goes_on_and_its_result_is_returned() -> None:
    seen, results = Event(), []

    def work(tell: Tell) -> str:
        tell(7)
        assert seen.wait(60)
        tell(9)
        return "packed"

    def consume() -> list[DataRead]:
        events = []
        steps = told(work, every_s=0.01)
        try:
            while True:
                events.append(next(steps))
                seen.set()
        except StopIteration as end:
            results.append(end.value)
        return events

    events = consume()
    assert events[0] == DataRead(7)
    assert events in ([DataRead(7)], [DataRead(7), DataRead(9)])
    assert results == ["packed"]


def test_an_error_comes_out_as_it_is() -> None:
    def work(tell: Tell) -> None:
        raise DataError("no pictures")

    with pytest.raises(DataError, match="no pictures"):
        list(told(work))


def pack_pictures(root: Path, tell: Tell) -> PackedImages:
    spec = DataSpec(source=str(root / "pictures"))
    return pack(spec, 16, True, {}, root / "cache", tell)


def test_closing_it_ends_the_packing_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "pictures", 3)

    def work(tell: Tell) -> PackedImages:
        def endless(num: int) -> None:
            while True:
                tell(num)

        return pack_pictures(tmp_path, endless)

    steps = told(work, every_s=0.01)
    assert next(steps) == DataRead(1)
    steps.close()
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_what_is_packed_already_is_not_counted_again(tmp_path: Path) -> None:
    draw_pictures(tmp_path / "pictures", 3)
    counted: list[int] = []
    pack_pictures(tmp_path, counted.append)
    assert counted == [1, 2, 3]
    assert list(told(lambda tell: pack_pictures(tmp_path, tell), every_s=0)) == []
