"""Values that occur twice are found among any number of them, in little memory."""

import pickle
import tracemalloc
from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from nightpress.pipelines.hashing import Hashes, mix64
from nightpress.pipelines.planning import duplicates
from nightpress.pipelines.planning.duplicates import find_repeats
from nightpress.pipelines.planning.units import UnitReport


def spread(numbers: Sequence[int]) -> Hashes:
    """Numbers as evenly spread hashes; equal ones stay equal."""
    return mix64(np.array(numbers, np.uint64))


@pytest.mark.parametrize("at_once", [1, 5, 1 << 22])
@given(groups=st.lists(st.lists(st.integers(0, 12), max_size=12), max_size=5))
def test_each_later_position_is_found_with_the_first_one(
    at_once: int, groups: list[list[int]]
) -> None:
    first: dict[int, int] = {}
    expected = [
        (position, first[value])
        for position, value in enumerate(value for group in groups for value in group)
        if first.setdefault(value, position) != position
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "COMPARED_AT_ONCE", at_once)
        later, earlier = find_repeats([spread(group) for group in groups])
    assert list(zip(later.tolist(), earlier.tolist(), strict=True)) == expected


def test_the_hashes_of_all_rows_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "COMPARED_AT_ONCE", 1 << 14)
    hashes = np.split(spread(range(1 << 20)), 64)
    hashes[40][7] = hashes[3][5]
    tracemalloc.start()
    try:
        later, earlier = find_repeats(hashes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = len(hashes[0])
    assert (later.tolist(), earlier.tolist()) == ([40 * size + 7], [3 * size + 5])
    assert peak < sum(each.nbytes for each in hashes) / 8


def test_a_report_keeps_no_buffer_of_the_process_that_sent_it() -> None:
    buffers: list[pickle.PickleBuffer] = []
    sent = UnitReport(ids=spread([1, 2]), names=spread([3]))
    data = pickle.dumps(sent, protocol=5, buffer_callback=buffers.append)
    memory = [bytearray(each) for each in buffers]
    received = pickle.loads(data, buffers=memory).in_own_memory()
    for each in memory:
        each[:] = bytes(len(each))
    assert received.ids.tolist() == sent.ids.tolist()
    assert received.names.tolist() == sent.names.tolist()
