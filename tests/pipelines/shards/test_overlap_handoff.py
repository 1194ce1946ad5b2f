"""`handed_off`: items arrive in order, and the work behind them does not wait for the consumer."""

import threading
from collections.abc import Iterator

import pytest

from nightpress.pipelines.shards.overlap import handed_off


def test_all_items_arrive_in_order() -> None:
    assert list(handed_off(iter(range(100)))) == list(range(100))


def test_the_work_goes_on_while_the_consumer_does_not_read() -> None:
    ended = threading.Event()

    def work() -> Iterator[int]:
        yield from range(10)
        ended.set()

    items = handed_off(work())
    assert next(items) == 0
    assert ended.wait(20)
    assert list(items) == list(range(1, 10))


def test_after_an_item_that_needs_an_ack_the_work_waits_until_the_next_item_is_asked_for() -> None:
    produced: list[int] = []
    ended = threading.Event()

    def work() -> Iterator[int]:
        for number in range(4):
            produced.append(number)
            yield number
        ended.set()

    items = handed_off(work(), needs_ack=lambda number: number == 2)
    assert [next(items), next(items), next(items)] == [0, 1, 2]
    assert not ended.wait(0.2)
    assert produced == [0, 1, 2]
    assert next(items) == 3
    assert ended.wait(20)


def test_no_ack_is_waited_for_once_the_consumer_has_left() -> None:
    items = handed_off(iter(range(5)), needs_ack=lambda number: True)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert "shard" not in {thread.name for thread in threading.enumerate()}


def test_an_error_arrives_after_the_items_before_it() -> None:
    def work() -> Iterator[int]:
        yield 1
        raise OSError("the disk is full")

    items = handed_off(work())
    assert next(items) == 1
    with pytest.raises(OSError, match="the disk is full"):
        next(items)


def test_the_work_is_finished_even_if_the_consumer_leaves() -> None:
    produced: list[int] = []

    def work() -> Iterator[int]:
        for number in range(5):
            produced.append(number)
            yield number

    items = handed_off(work())
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert produced == list(range(5))
    assert "shard" not in {thread.name for thread in threading.enumerate()}
