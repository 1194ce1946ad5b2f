"""What is relayed comes as it was told, and the work behind it waits for nobody."""

import threading
from collections.abc import Iterator

import pytest

from nightpress.pipelines.shards.overlap import relayed


def test_all_of_it_comes_in_order() -> None:
    assert list(relayed(iter(range(100)))) == list(range(100))


def test_the_work_goes_on_though_nobody_listens() -> None:
    ended = threading.Event()

    def work() -> Iterator[int]:
        yield from range(10)
        ended.set()

    told = relayed(work())
    assert next(told) == 0
    assert ended.wait(20)
    assert list(told) == list(range(1, 10))


def test_work_goes_on_behind_what_is_weighty_only_when_that_was_taken() -> None:
    came: list[int] = []
    passed = threading.Event()

    def work() -> Iterator[int]:
        for number in range(4):
            came.append(number)
            yield number
        passed.set()

    told = relayed(work(), weighty=lambda number: number == 2)
    assert [next(told), next(told), next(told)] == [0, 1, 2]
    assert not passed.wait(0.2)
    assert came == [0, 1, 2]
    assert next(told) == 3
    assert passed.wait(20)


def test_what_is_weighty_is_not_waited_for_when_the_listener_is_gone() -> None:
    told = relayed(iter(range(5)), weighty=lambda number: True)
    assert next(told) == 0
    told.close()  # type: ignore[attr-defined]
    assert "shard" not in {thread.name for thread in threading.enumerate()}


def test_an_error_comes_behind_what_was_told_before_it() -> None:
    def work() -> Iterator[int]:
        yield 1
        raise OSError("the disk is full")

    told = relayed(work())
    assert next(told) == 1
    with pytest.raises(OSError, match="the disk is full"):
        next(told)


def test_work_whose_listener_goes_away_is_done_to_its_end() -> None:
    done: list[int] = []

    def work() -> Iterator[int]:
        for number in range(5):
            done.append(number)
            yield number

    told = relayed(work())
    assert next(told) == 0
    told.close()  # type: ignore[attr-defined]
    assert done == list(range(5))
    assert "shard" not in {thread.name for thread in threading.enumerate()}
