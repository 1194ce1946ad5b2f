"""The hashes and seeds, which must never change."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from nightpress.pipelines.hashing import derive_seeds, hash64, mix64
from nightpress.pipelines.job.spec import MAX_SEED

MASK = 2**64 - 1

EXPECTED = [
    "b78b9f38a670e787",
    "adaae5d96a939b0c",
    "e9d2a94a5428190d",
    "288e6efe406975b2",
    "faa72188dd3ed930",
    "1a4fe37bce49ed59",
]
EXPECTED_SEEDS = [7144006160943992, 1505262994920063, 5708985994440250]


def mix_by_hand(value: int) -> int:
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
    return value ^ value >> 31


def hash_by_hand(text: str, seed: int) -> int:
    golden = 0x9E3779B97F4A7C15
    data = text.encode()
    state = mix_by_hand((len(data) * golden + mix_by_hand(seed)) & MASK)
    for start in range(0, len(data), 8):
        word = int.from_bytes(data[start : start + 8], "little")
        state = mix_by_hand(((state ^ word) + golden) & MASK)
    return state


def test_mix64_is_the_finaliser_of_splitmix64() -> None:
    # the first outputs of splitmix64 seeded with 0, as published with the generator
    states = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [f"{value:016x}" for value in mix64(states)] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]


def test_hashes_never_change() -> None:
    values = hash64(pa.array(["", "a", "00000000", "00000001", "a longer id, in words", "ü🐈"]), 7)
    assert [f"{value:016x}" for value in values] == EXPECTED


def test_seeds_never_change() -> None:
    hashes = hash64(pa.array(["00000000", "00000000", "cat"]), 0)
    assert derive_seeds(hashes, np.array([0, 1, 0])).tolist() == EXPECTED_SEEDS


@given(st.lists(st.text()), st.integers(0, MAX_SEED))
def test_a_column_hashes_like_its_single_strings(texts: list[str], seed: int) -> None:
    expected = [hash_by_hand(text, seed) for text in texts]
    assert hash64(pa.array(texts, pa.string()), seed).tolist() == expected


@given(st.lists(st.text(), min_size=3))
def test_a_slice_of_a_column_hashes_like_a_copy_of_it(texts: list[str]) -> None:
    whole = pa.array(texts, pa.string())
    assert hash64(whole[1:-1], 3).tolist() == hash64(pa.array(texts[1:-1], pa.string()), 3).tolist()


def test_trailing_zero_bytes_change_the_hash() -> None:
    assert len(set(hash64(pa.array(["", "\0", "\0\0", "\0" * 8, "\0" * 9]), 0).tolist())) == 5


def test_a_hundred_thousand_row_numbers_have_distinct_seeds_within_bounds() -> None:
    hashes = hash64(pa.array([f"{number:08d}" for number in range(100_000)]), 0)
    seeds = derive_seeds(hashes, np.zeros(100_000, np.int64))
    assert len(np.unique(seeds)) == 100_000
    assert seeds.min() >= 0
    assert seeds.max() <= MAX_SEED
    bits = np.unpackbits(seeds.astype(">u8").view(np.uint8)).reshape(-1, 64)[:, 11:]
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.01
