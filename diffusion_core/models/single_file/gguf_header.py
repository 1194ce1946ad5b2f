"""The header of a GGUF file: names, shapes and types of its tensors, read without a weight.

Source: docs/gguf.md of ggml; how many bytes a block of numbers takes is in ggml-common.h there.
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from nightpress.diffusion_core.errors import ModelError
from nightpress.diffusion_core.models.tensor_headers import TensorHeader

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

BLOCKS = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
}
"""ggml's number of a type -> its name, the numbers in a block, and the bytes of a block."""

DEQUANTIZED = frozenset(
    {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
    | {"IQ4_NL", "IQ4_XS"}
)
"""The quantised types that diffusers reads."""

ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""With a tensor's name, the key of the shape that it had before ComfyUI-GGUF flattened it."""

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"} | {
    12: "d"
}
_TEXT, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4

Value = str | int | float | list["Value"]


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says of itself before its weights."""

    tensors: Mapping[str, TensorHeader]
    metadata: Mapping[str, Value] = field(default_factory=dict)

    @property
    def architecture(self) -> str | None:
        """The kind of model that its writer names, such as flux or llama."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else None


@dataclass(frozen=True)
class _Placed:
    """A tensor, and where its bytes are after the header."""

    header: TensorHeader
    offset: int
    num_bytes: int


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read the header of a GGUF file, and check that its weights are all there.

    Raises:
        ModelError: it is no GGUF file, cut short, damaged, or has a type or version that is not
            known; the message does not name the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        stream = _Stream(file, size)
        if size == 0:
            raise ModelError("the file is empty")
        if (start := file.read(4)) != MAGIC:
            raise ModelError(f"it is no GGUF file: it begins with {start!r}, not with {MAGIC!r}")
        version = stream.number("I")
        if version not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise ModelError(f"its GGUF version is {version}; {known} are supported")
        num_tensors, num_values = stream.number("Q"), stream.number("Q")
        metadata = dict(stream.entry() for _ in range(num_values))
        placed = dict(_tensor(stream, metadata) for _ in range(num_tensors))
        _require_whole(placed, file.tell(), size, metadata)
    return GGUFHeader({name: each.header for name, each in placed.items()}, metadata)


class _Stream:
    """Reads the values of a header, none of which reaches beyond the end of the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def bytes(self, number: int) -> bytes:
        """The next bytes."""
        if number > self._size - self._file.tell():
            raise ModelError(f"cut short: the file ends in its header, after {self._size:,} bytes")
        return self._file.read(number)

    def number(self, kind: str) -> int:
        """The next number, of a type in the words of `struct`."""
        value: int = struct.unpack(f"<{kind}", self.bytes(struct.calcsize(kind)))[0]
        return value

    def text(self) -> str:
        """The next text."""
        return self.bytes(self.number("Q")).decode("utf-8", errors="replace")

    def entry(self) -> tuple[str, Value]:
        """The next key and its value."""
        return self.text(), self._reader(self.number("I"))()

    def _reader(self, kind: int) -> "Callable[[], Value]":
        if kind == _TEXT:
            return self.text
        if kind == _ARRAY:
            return self._array
        if kind not in _NUMBERS:
            raise ModelError(f"damaged: its header has a value of the unknown type {kind}")
        return lambda: self.number(_NUMBERS[kind])

    def _array(self) -> list[Value]:
        read, length = self._reader(self.number("I")), self.number("Q")
        if length > self._size:  # each value takes a byte at least
            raise ModelError(f"damaged: its header has a list of {length:,} values")
        return [read() for _ in range(length)]


def _tensor(stream: _Stream, metadata: Mapping[str, Value]) -> tuple[str, _Placed]:
    name, dimensions = stream.text(), stream.number("I")
    if dimensions > _MOST_DIMENSIONS:
        raise ModelError(f"damaged: its tensor {name} has {dimensions} dimensions")
    stored = tuple(stream.number("Q") for _ in range(dimensions))[::-1]
    kind, offset = stream.number("I"), stream.number("Q")
    if kind not in BLOCKS:
        raise ModelError(f"its tensor {name} has a type that is not known, ggml's number {kind}")
    dtype, block, block_bytes = BLOCKS[kind]
    number = math.prod(stored)
    if (stored[-1] if stored else 1) % block:
        raise ModelError(f"damaged: the rows of {name} are no whole blocks of {block} numbers")
    num_bytes = number // block * block_bytes
    shape = metadata.get(ORIGINAL_SHAPE + name)
    if isinstance(shape, list):
        stored = _original(name, shape, number)
    return name, _Placed(
        TensorHeader(stored, dtype, num_bytes if block > 1 else None), offset, num_bytes
    )


def _original(name: str, shape: list[Value], number: int) -> tuple[int, ...]:
    sides = tuple(side for side in shape if isinstance(side, int))
    if len(sides) != len(shape) or math.prod(sides) != number:
        raise ModelError(f"damaged: {ORIGINAL_SHAPE}{name} is {shape}, of {number:,} numbers")
    return sides


def _require_whole(
    placed: Mapping[str, _Placed], header_end: int, size: int, metadata: Mapping[str, Value]
) -> None:
    """Refuse a file that ends before its last tensor does."""
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ModelError(f"damaged: general.alignment is {alignment!r}")
    start = -(-header_end // alignment) * alignment
    end = max((each.offset + each.num_bytes for each in placed.values()), default=0)
    if placed and start + end > size:
        raise ModelError(
            f"cut short: {size:,} bytes, of the {start + end:,} that its header lists; download it "
            "again"
        )
