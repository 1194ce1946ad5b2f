"""`TicketLock`: tickets are served in the order of their numbers, whichever is ready first."""

import threading
from contextlib import ExitStack

import pytest

from nightpress.pipelines.shards.overlap import TicketLock


@pytest.mark.parametrize("numbered_by_caller", [True, False])
def test_tickets_are_served_in_order_though_the_last_is_ready_first(
    numbered_by_caller: bool,
) -> None:
    lock = TicketLock()
    served: list[int] = []
    with ExitStack() as stack:
        tickets = [lock.ticket(n if numbered_by_caller else None) for n in range(5)]
        if numbered_by_caller:
            tickets.reverse()
        numbers = [stack.enter_context(ticket) for ticket in tickets]

        def use(number: int) -> None:
            lock.wait(number)
            served.append(number)
            lock.release(number)

        threads = [threading.Thread(target=use, args=(number,)) for number in sorted(numbers)[::-1]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert served == list(range(5))


def test_a_ticket_waits_for_an_earlier_number_that_nobody_has_taken_yet() -> None:
    lock = TicketLock()
    served = threading.Event()

    def use() -> None:
        with lock.ticket(1) as number:
            lock.wait(number)
            served.set()

    thread = threading.Thread(target=use)
    thread.start()
    assert not served.wait(0.2)
    with lock.ticket(0):
        assert not served.wait(0.1)
    assert served.wait(10)
    thread.join(10)


def test_a_ticket_that_is_given_up_before_it_is_served_holds_nobody_up() -> None:
    lock = TicketLock()
    with lock.ticket() as first:
        with lock.ticket():
            pass
        with pytest.raises(OSError, match="unreadable"), lock.ticket():
            raise OSError("unreadable")
        lock.wait(first)
        lock.release(first)
        with lock.ticket() as fourth:
            lock.wait(fourth)
    with lock.ticket() as fifth:
        lock.wait(fifth)
