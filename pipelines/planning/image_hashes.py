"""What decides each image of a plan as one 64-bit hash, to compare millions of images in seconds.

Images that are planned alike have equal hashes, whichever variant of its row an image is and
however their manifests write a value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.hashing import GOLDEN, Hashes, derive_seeds, hash64, mix64
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.python_values import python_values
from nightpress.pipelines.manifest.row_problems import Mask
from nightpress.pipelines.manifest.types import one_chunk, to_text
from nightpress.pipelines.planning.images import Images
from nightpress.pipelines.records import DRAW_KEY, PLAN_SCHEMA

NOT_COMPARED = frozenset({"image_id", "id", "variant", "shard", "file", "seed"})
"""Columns of the plan that say which image it is and where it goes; of the seed only what its row
says is compared."""

COMPARED = tuple(name for name in PLAN_SCHEMA.names if name not in NOT_COMPARED)

Types = Mapping[str, pa.DataType]
"""The name of each carried column -> the type that it is compared in."""


@dataclass(frozen=True)
class ImageHashes:
    """What decides m images."""

    ids: pa.Array
    """(m,) the ids of their rows."""
    id_hashes: Hashes
    """(m,)"""
    variants: Ints
    """(m,)"""
    rows: Ints
    """(m,) the number of each image's row, counted over the whole manifest, or of the image in the
    plan."""
    images: Hashes
    """(m,) hashes of the images' ids."""
    values: Hashes
    """(m,) hashes of all that decides pixels, and of the carried columns."""
    drawn: Hashes
    """(m,) hashes of the draw keys; 0 for none."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def joined(cls, parts: "list[ImageHashes]") -> Self:
        """Several groups of images, one after the other."""
        arrays = [np.concatenate([getattr(p, name) for p in parts]) for name in _ARRAYS]
        return cls(pa.concat_arrays([part.ids for part in parts]), *arrays)

    def image_ids(self, indices: Ints) -> pa.Array:
        """The ids of some of the images."""
        return named(pc.take(self.ids, pa.array(indices)), self.variants[indices])


_ARRAYS = ("id_hashes", "variants", "rows", "images", "values", "drawn")


def named(ids: pa.Array, variants: Ints) -> pa.Array:
    """The ids of images from those of their rows: `<id>_<variant>`."""
    texts = pc.utf8_lpad(pc.cast(pa.array(variants), pa.string()), 2, "0")
    return pc.binary_join_element_wise(ids, texts, "_")


def among(values: Hashes, others: Hashes) -> Mask:
    """Where a value is one of the others; (n,). Faster than `np.isin` for millions of hashes,
    which in NumPy 2.0 also fails for some of them."""
    if not len(others):
        return np.zeros(len(values), np.bool_)
    ordered = np.sort(others)
    places = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    found: Mask = ordered[places] == values
    return found


def hashes_of_images(images: Images, types: Types) -> ImageHashes:
    """The hashes of images that a manifest plans."""
    columns = {name: images.column(name) for name in (*COMPARED, *images.carried)}
    return _hashes(
        images.per_image(images.rows.ids),
        images.id_hashes[images.row_indices],
        images.variants,
        images.rows.numbers[images.row_indices],
        images.seeds,
        columns,
        types,
    )


def hashes_of_part(part: pa.Table, first: int, run_seed: int, types: Types) -> ImageHashes:
    """The hashes of a part of a plan.

    Args:
        part: PLAN_SCHEMA, then the carried columns.
        first: how many images are in the parts before it.
        run_seed: the run's seed.
        types: see `Types`.
    """
    ids = one_chunk(part.column("id"))
    left_out = {*NOT_COMPARED}
    return _hashes(
        ids,
        hash64(ids, run_seed),
        np.array(part.column("variant")).astype(np.int64),
        first + np.arange(len(part)),
        np.array(part.column("seed")),
        {n: one_chunk(part.column(n)) for n in part.column_names if n not in left_out},
        types,
    )


def hashes_of_names(image_ids: pa.Array, run_seed: int) -> Hashes:
    """The hash of each image's id, as in `ImageHashes.images`; (n,)."""
    split = pc.split_pattern(image_ids, "_", max_splits=1, reverse=True)
    ids = pc.list_element(split, 0)
    variants = np.array(pc.cast(pc.list_element(split, 1), pa.int64()))
    return _image_hashes(hash64(ids, run_seed), variants)


def _hashes(
    ids: pa.Array,
    id_hashes: Hashes,
    variants: Ints,
    rows: Ints,
    seeds: Ints,
    columns: Mapping[str, pa.Array],
    types: Types,
) -> ImageHashes:
    is_derived = seeds == derive_seeds(id_hashes, variants)
    own_seeds = np.where(is_derived, -1, seeds - variants).astype(np.int64)
    values = mix64(own_seeds.view(np.uint64) + GOLDEN)
    drawn = np.zeros(len(ids), np.uint64)
    for name, column in columns.items():
        wanted = types.get(name, column.type)
        hashes = _column_hashes(column if name in PLAN_SCHEMA.names else _as(column, wanted))
        key = hash64(pa.array([name]), 1)
        values = values + np.where(hashes == 0, np.uint64(0), mix64(hashes ^ key))
        if name == DRAW_KEY:
            drawn = hashes
    return ImageHashes(
        ids, id_hashes, variants, rows, _image_hashes(id_hashes, variants), values, drawn
    )


def _image_hashes(id_hashes: Hashes, variants: Ints) -> Hashes:
    return mix64(id_hashes + variants.astype(np.uint64) * GOLDEN)


def _as(column: pa.Array, type_: pa.DataType) -> pa.Array:
    """The values in another type, which holds them."""
    if pa.types.is_dictionary(column.type):
        if column.type.value_type == type_:
            return column
        column = column.dictionary_decode()
    return column if column.type == type_ else pc.cast(column, type_)


def _column_hashes(column: pa.Array) -> Hashes:
    """A hash of each value, which is never 0, and 0 for null; (m,)."""
    if column.null_count == len(column):
        return np.zeros(len(column), np.uint64)
    if pa.types.is_dictionary(column.type):
        of_values = np.append(_column_hashes(column.dictionary), np.uint64(0))
        hashes: Hashes = of_values[np.array(pc.fill_null(column.indices, len(column.dictionary)))]
        return hashes
    hashes = np.maximum(_value_hashes(column), np.uint64(1))
    if column.null_count:
        hashes[np.array(column.is_null())] = 0
    return hashes


def _value_hashes(column: pa.Array) -> Hashes:
    """A hash of each value; of nulls, any."""
    type_ = column.type
    if pa.types.is_string(type_):
        return hash64(pc.fill_null(column, "") if column.null_count else column, 0)
    if pa.types.is_binary(type_):
        filled = pc.fill_null(column, b"") if column.null_count else column
        return hash64(filled.view(pa.string()), 0)
    if pa.types.is_boolean(type_) or pa.types.is_integer(type_):
        integers = pc.fill_null(pc.cast(column, pa.int64(), safe=False), 0)
        return mix64(np.array(integers).view(np.uint64) + GOLDEN)
    if pa.types.is_floating(type_):
        filled = pc.fill_null(pc.cast(column, pa.float64()), 0.0)
        numbers = np.array(filled) + 0.0  # -0.0 and 0.0 are the same number
        return mix64(np.where(np.isnan(numbers), np.nan, numbers).view(np.uint64) + GOLDEN)
    if type_ == PLAN_SCHEMA.field("inputs").type:
        return _of_pictures(column)
    return hash64(pc.fill_null(to_text(python_values(pa.chunked_array([column]))), ""), 0)


def _of_pictures(inputs: pa.Array) -> Hashes:
    """Hashes of lists of pictures: of roles, URLs and data, but not of what was read there."""
    flat = pc.list_flatten(inputs)
    lengths = np.array(pc.fill_null(pc.list_value_length(inputs), 0)).astype(np.int64)
    places = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    entries = mix64(places.astype(np.uint64) + GOLDEN)
    for name in ("role", "url", "data"):
        hashes = _column_hashes(pc.struct_field(flat, name))
        entries = mix64(entries + hashes)
    found = lengths.astype(np.uint64)
    np.add.at(found, np.repeat(np.arange(len(inputs)), lengths), entries)
    return mix64(found + GOLDEN)
