"""The loader: pictures are prepared ahead, and nothing is kept that nobody takes."""

import threading
import time

import pytest

from nightpress.pipelines.errors import StoreError
from nightpress.pipelines.inputs.loader import InputLoader
from nightpress.pipelines.inputs.preparing import NO_INPUTS, PreparedInputs


def test_each_image_is_prepared_once_and_handed_out_once() -> None:
    loader, made = InputLoader(), list[str]()

    def prepare() -> PreparedInputs:
        made.append("a")
        return NO_INPUTS

    loader.prefetch("a", prepare)
    loader.prefetch("a", prepare)
    assert loader.take(["a"]) == {"a": NO_INPUTS}
    assert made == ["a"]
    assert len(loader) == 0
    loader.close()


def test_an_error_of_the_store_appears_when_the_batch_is_taken_and_nothing_stays() -> None:
    loader = InputLoader()

    def fail() -> PreparedInputs:
        raise StoreError("the store keeps failing")

    loader.prefetch("a", lambda: NO_INPUTS)
    loader.prefetch("b", fail)
    with pytest.raises(StoreError, match="keeps failing"):
        loader.take(["a", "b"])
    assert len(loader) == 0
    loader.close()


def test_waiting_ends_when_the_process_is_drained_and_closing_waits_for_nothing() -> None:
    loader, leave, drained = InputLoader(threads=1), threading.Event(), threading.Event()

    def hang() -> PreparedInputs:
        leave.wait(30)
        return NO_INPUTS

    for key in ("a", "b", "c"):
        loader.prefetch(key, hang)
    assert not loader.are_ready(["a"])
    threading.Timer(0.1, drained.set).start()
    clock = time.monotonic()
    assert loader.take(["a", "b"], drained.is_set) is None
    loader.drop(["c", "never prefetched"])
    assert len(loader) == 0
    loader.close()
    assert time.monotonic() - clock < 5
    leave.set()
