"""Requests to stop."""

import signal

import pytest

from nightpress.jobs.signals import first_interruption


class Interrupted:
    """Is interrupted while Python runs its finalizer."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_the_second_request_interrupts() -> None:
    with first_interruption() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        assert not stop.is_repeated
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.is_repeated


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_request_that_comes_in_a_finalizer_is_known() -> None:
    with first_interruption() as stop:
        signal.raise_signal(signal.SIGINT)
        Interrupted()
        assert stop.is_repeated


def test_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with first_interruption():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
