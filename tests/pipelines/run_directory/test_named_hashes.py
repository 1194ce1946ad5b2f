"""A set of millions of hashes is one array, and looking some up copies nothing of it."""

import tracemalloc
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from support import made_runs

from nightpress.pipelines.hashing import Hashes
from nightpress.pipelines.run_directory.named_hashes import NamedHashes

VALUES = st.lists(st.sampled_from([0, 1, 2, 7, 2**63, 2**64 - 2, 2**64 - 1]))


@given(named=VALUES, asked=VALUES)
def test_the_set_includes_what_it_was_made_of(named: list[int], asked: list[int]) -> None:
    found = NamedHashes(np.array(named, np.uint64)).include(np.array(asked, np.uint64))
    assert found.tolist() == [each in named for each in asked]


@pytest.mark.parametrize("of_each", [0, 1, 50])
def test_shards_may_name_fewer_or_more_than_the_images_of_the_plan(
    tmp_path: Path, of_each: int
) -> None:
    run = made_runs.begin(str(tmp_path))
    made_runs.finish(run)

    def hashes(shard: int) -> Hashes:
        return np.arange(100 * shard, 100 * shard + of_each, dtype=np.uint64)

    named = NamedHashes.of_commits(run, hashes)
    expected = [n < 300 and n % 100 < of_each for n in range(400)]
    assert named.include(np.arange(400, dtype=np.uint64)).tolist() == expected


def test_looking_up_does_not_copy_the_set() -> None:
    named = NamedHashes(np.arange(1 << 20, dtype=np.uint64))
    asked = np.arange(64, dtype=np.uint64)
    tracemalloc.start()
    try:
        assert named.include(asked).all()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000
