"""TicketLock come in the order of their numbers, whoever is ready first."""

import threading
from contextlib import ExitStack

import pytest

from nightpress.pipelines.shards.overlap import TicketLock


@pytest.mark.parametrize("told", [True, False])
def test_turns_come_in_order_though_the_last_is_ready_first(told: bool) -> None:
    turns = TicketLock()
    came: list[int] = []
    with ExitStack() as stack:
        taken = [turns.taken(n if told else None) for n in range(5)]
        numbers = [stack.enter_context(turn) for turn in (taken[::-1] if told else taken)]

        def use(number: int) -> None:
            turns.wait(number)
            came.append(number)
            turns.end(number)

        threads = [threading.Thread(target=use, args=(number,)) for number in sorted(numbers)[::-1]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert came == list(range(5))


def test_a_number_that_nobody_has_had_yet_is_waited_for() -> None:
    turns = TicketLock()
    came = threading.Event()

    def use() -> None:
        with turns.taken(1) as number:
            turns.wait(number)
            came.set()

    thread = threading.Thread(target=use)
    thread.start()
    assert not came.wait(0.2)
    with turns.taken(0):
        assert not came.wait(0.1)
    assert came.wait(10)
    thread.join(10)


def test_a_turn_that_is_given_up_before_it_comes_holds_nobody_up() -> None:
    turns = TicketLock()
    with turns.taken() as first:
        with turns.taken():
            pass
        with pytest.raises(OSError, match="unreadable"), turns.taken():
            raise OSError("unreadable")
        turns.wait(first)
        turns.end(first)
        with turns.taken() as fourth:
            turns.wait(fourth)
    with turns.taken() as fifth:
        turns.wait(fifth)
