"""Stable 64-bit hashes of whole Arrow columns, and the seeds derived from them.

The values are part of the contract: a derived seed decides pixels, so it must not depend on the
platform or on a library's version.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 / phi, the increment of splitmix64."""

WORD_BYTES = 8


def mix64(values: Hashes) -> Hashes:
    """The finaliser of splitmix64: a bijection of 64-bit integers in which every bit affects all.

    Reference: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014.
    """
    mixed = values ^ (values >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def hash64(strings: pa.Array, seed: int) -> Hashes:
    """Hash each string's UTF-8 bytes; (n,) uint64.

    Words of eight little-endian bytes are mixed in one after the other, for all strings at once; a
    string drops out when its bytes are used up. The length is mixed in first, so that trailing
    zero bytes count.

    Args:
        strings: (n,) of type string, without nulls.
        seed: at least 0 and below 2^64; different seeds give unrelated hashes.
    """
    starts, lengths, words = _words(strings)
    state = mix64(lengths.astype(np.uint64) * GOLDEN + mix64(np.array([seed], np.uint64)))
    active = np.arange(len(state))
    position = 0
    while len(active := active[lengths[active] > position]):
        word = words[starts[active] + position] & _mask(lengths[active] - position)
        state[active] = mix64((state[active] ^ word) + GOLDEN)
        position += WORD_BYTES
    return state


def derive_seeds(hashes: Hashes, variants: NDArray[np.int64]) -> NDArray[np.int64]:
    """Derive a seed below 2^53 for each image; (n,).

    Args:
        hashes: (n,) hash64 of each image's row id, with the run's seed.
        variants: (n,) each image's number within its row.
    """
    mixed = mix64(hashes + variants.astype(np.uint64) * GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.int64)


def _words(strings: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64], Hashes]:
    """Each string's first byte, its length in bytes, and the 8-byte word at every byte."""
    _, offset_buffer, data = strings.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[strings.offset :][: len(strings) + 1]
    if not len(strings):
        offsets = np.zeros(1, np.int32)
    first, last = int(offsets[0]), int(offsets[-1])
    padded = np.zeros(last - first + WORD_BYTES, np.uint8)
    if data is not None:
        padded[: last - first] = np.frombuffer(data, np.uint8)[first:last]
    words: Hashes = np.ndarray((last - first + 1,), "<u8", padded.data, strides=(1,))
    starts = offsets[:-1].astype(np.int64) - first
    return starts, np.diff(offsets).astype(np.int64), words


def _mask(num_bytes: NDArray[np.int64]) -> Hashes:
    """A mask that keeps the first `num_bytes` bytes of a little-endian word."""
    unused_bits = 64 - 8 * np.minimum(num_bytes, WORD_BYTES)
    return np.uint64(0xFFFFFFFFFFFFFFFF) >> unused_bits.astype(np.uint64)
