"""Read the column `canvas`: the pixels that outpainting adds on the left, top, right and bottom."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.manifest.codes import dictionary_indices
from nightpress.pipelines.manifest.numbers import Floats, Ints
from nightpress.pipelines.manifest.refusals import Refusals
from nightpress.pipelines.manifest.row_problems import Mask

SIDES = 4

_CANVAS = re.compile(r"(?:\s*,\s*|\s+)".join([r"([+-]?\d{1,9})"] * SIDES))
"""`0,64,0,64`, `0 64 0 64` or `[0, 64, 0, 64]`."""


def is_canvas_type(type_: pa.DataType) -> bool:
    """Whether a column of this type can hold canvases: text, or lists of numbers."""
    if pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
        type_ = type_.value_type
        return bool(
            pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_null(type_)
        )
    return bool(pa.types.is_string(type_) or pa.types.is_null(type_))


def read_canvases(
    values: pa.Array, column: str, size: tuple[Ints, Ints], multiple: int, refusals: Refusals
) -> tuple[Ints, Mask]:
    """The canvas of each row, (n, 4) pixels, and (n,) bool that is True where there is one.

    Args:
        values: (n,) of a type for which `is_canvas_type` is true.
        column: the column's name in the manifest.
        size: width and height of the finished images, (n,) pixels each.
        multiple: sides of images must be multiples of this many pixels.
        refusals: receives what is wrong with rows.
    """
    if pa.types.is_string(values.type):
        read, given = _from_text(values)
    elif pa.types.is_null(values.type):
        return np.zeros((len(values), SIDES), np.int64), np.zeros(len(values), np.bool_)
    else:
        read, given = _from_lists(values)
    whole = (np.floor(read) == read).all(axis=1)  # NaN, for what is no number, is not
    refusals.add(
        given & ~whole,
        column,
        lambda row: (
            f"{str(values[row].as_py())[:60]!r} is not four whole numbers of pixels to add, for "
            "left, top, right and bottom, such as 0,64,0,64"
        ),
    )
    canvas = np.where((given & whole)[:, None], read, 0).astype(np.int64)
    _refuse_bad_sizes(canvas, given, column, size, multiple, refusals)
    return canvas, given & whole


def _refuse_bad_sizes(
    canvas: Ints,
    given: Mask,
    column: str,
    size: tuple[Ints, Ints],
    multiple: int,
    refusals: Refusals,
) -> None:
    def text(row: int) -> str:
        return ",".join(map(str, canvas[row]))

    refusals.add(
        given & (canvas < 0).any(axis=1),
        column,
        lambda row: f"{text(row)} has a negative number; a canvas only adds pixels",
    )
    refusals.add(
        given & (canvas == 0).all(axis=1),
        column,
        lambda row: f"{text(row)} adds no pixels; leave it empty",
    )
    refusals.add(
        given & (canvas % multiple != 0).any(axis=1),
        column,
        lambda row: f"{text(row)}: this model needs multiples of {multiple} pixels",
    )
    width, height = size
    left = np.stack([width - canvas[:, 0] - canvas[:, 2], height - canvas[:, 1] - canvas[:, 3]])
    refusals.add(
        given & (left < multiple).any(axis=0),
        column,
        lambda row: (
            f"{text(row)} leaves no room for the init_image, as the finished image has "
            f"{width[row]} x {height[row]} pixels with the canvas; leave at least {multiple} x "
            f"{multiple}"
        ),
    )


def _from_text(values: pa.Array) -> tuple[Floats, Mask]:
    """NaN where a text is no canvas; not given where it is empty."""
    encoded = pc.utf8_trim_whitespace(values).dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    read = np.full((len(texts) + 1, SIDES), np.nan)
    for number, text in enumerate(texts):
        inside = text[1:-1].strip() if text[:1] + text[-1:] == "[]" else text
        if (match := _CANVAS.fullmatch(inside)) is not None:
            read[number] = [float(side) for side in match.groups()]
    indices = dictionary_indices(encoded)
    return read[indices], np.array([*(text != "" for text in texts), False])[indices]


def _from_lists(values: pa.Array) -> tuple[Floats, Mask]:
    """NaN where a list has no four numbers; not given where it is null or empty."""
    lengths = np.array(pc.fill_null(pc.list_value_length(values), 0))
    read = np.full((len(values), SIDES), np.nan)
    flat = pc.cast(pc.list_flatten(values), pa.float64(), safe=False)
    numbers = flat.to_numpy(zero_copy_only=False)
    of_four = lengths[np.array(pc.list_parent_indices(values)).astype(np.int64)] == SIDES
    read[lengths == SIDES] = numbers[of_four].reshape(-1, SIDES)
    read[~(np.abs(read) < 1e9)] = np.nan
    return read, lengths > 0
