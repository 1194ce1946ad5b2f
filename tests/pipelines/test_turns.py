"""Turns come in the order in which they were taken, whoever is ready first."""

import threading

from pipelines.turns import Turns


def test_turns_come_in_order_though_the_last_is_ready_first() -> None:
    turns = Turns()
    numbers = [turns.take() for _ in range(5)]
    came: list[int] = []

    def use(number: int) -> None:
        turns.wait(number)
        came.append(number)
        turns.end(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in reversed(numbers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert came == numbers


def test_a_turn_that_is_given_up_before_it_comes_holds_nobody_up() -> None:
    turns = Turns()
    first, second, third = (turns.take() for _ in range(3))
    turns.end(second)
    turns.wait(first)
    turns.end(first)
    turns.end(first)
    turns.wait(third)
    turns.end(third)
    turns.wait(turns.take())
