"""The distinct pictures that the rows of a manifest name, each with a row that names it."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightpress.pipelines.inputs.decoding import DecodeLimits
from nightpress.pipelines.manifest.columns import Columns
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.rows import Rows
from nightpress.pipelines.planning.named_pictures import BYTES, NAMED_TYPE, PAIR_TYPE, NamedInputs
from nightpress.pipelines.planning.picture_facts import PictureFacts, facts_of

COLOUR, MASK, MASK_BESIDE_CANVAS = range(3)
"""What a picture is used for; beside a canvas a mask may be all black."""


def joined(parts: Sequence[NamedInputs]) -> NamedInputs:
    """What all parts name together, in their order."""
    if not parts:
        return NamedInputs()
    facts: dict[tuple[str, int], PictureFacts | str] = {}
    for part in parts:
        facts |= part.facts
    return NamedInputs(
        _first_of_each(pa.concat_tables([part.pictures for part in parts]), ("picture", "kind")),
        _first_of_each(pa.concat_tables([part.pairs for part in parts]), ("init", "picture")),
        facts,
    )


def named_inputs(
    rows: Rows, file: str, first_row: int, columns: Columns, limits: DecodeLimits | None
) -> NamedInputs:
    """What some rows name.

    Args:
        rows: consecutive rows of a file.
        file: the file's URL.
        first_row: the number of the first row within the file.
        columns: the manifest's columns.
        limits: to also decode the pictures whose bytes the manifest holds, and pair masks with
            initial images; None for neither.
    """
    if rows.inputs.null_count == len(rows):
        return NamedInputs()
    of_rows = np.array(pc.list_parent_indices(rows.inputs)).astype(np.int64)
    inputs = pc.list_flatten(rows.inputs)
    roles, urls, data = (pc.struct_field(inputs, name) for name in ("role", "url", "data"))
    kinds = _kinds(rows, of_rows, roles)
    facts: dict[tuple[str, int], PictureFacts | str] = {}
    if limits is not None and data.null_count < len(data):
        urls = _with_hashes(urls, data, kinds, facts, limits)
    named = [
        columns.manifest_name(role) for role in roles.dictionary_encode().dictionary.to_pylist()
    ]
    places = [pa.array([file] * len(urls)), pa.array(first_row + of_rows)]
    of_columns = pc.take(pa.array(named, pa.string()), roles.dictionary_encode().indices)
    pictures = pa.table([urls, pa.array(kinds), *places, of_columns], schema=NAMED_TYPE)
    pairs = PAIR_TYPE.empty_table()
    if limits is not None:
        masks = np.flatnonzero(kinds != COLOUR)  # an initial image comes right before its mask
        of_masks = pictures.take(pa.array(masks)).drop_columns(["kind"])
        values = [urls.take(pa.array(masks - 1)), *of_masks.columns]
        pairs = _first_of_each(pa.table(values, schema=PAIR_TYPE), ("init", "picture"))
    known = pictures.filter(pc.field("picture").is_valid())
    return NamedInputs(_first_of_each(known, ("picture", "kind")), pairs, facts)


def _kinds(rows: Rows, of_rows: Ints, roles: pa.Array) -> np.ndarray:
    is_mask = np.array(pc.equal(roles, "mask_image"))
    outpaints = pc.match_substring(rows.conditioning, '"canvas":')
    has_canvas = np.array(pc.fill_null(outpaints, False))[of_rows]
    return np.where(is_mask, np.where(has_canvas, MASK_BESIDE_CANVAS, MASK), COLOUR).astype(np.int8)


def _with_hashes(
    urls: pa.Array,
    data: pa.Array,
    kinds: np.ndarray,
    facts: dict[tuple[str, int], PictureFacts | str],
    limits: DecodeLimits,
) -> pa.Array:
    """The URLs, and names for the pictures without one, whose facts are added to `facts`."""
    names = urls.to_pylist()
    for index in np.flatnonzero(np.array(data.is_valid())).tolist():
        content = data[index].as_py()
        names[index] = f"{BYTES}{hashlib.sha256(content).hexdigest()}"
        key = names[index], int(kinds[index])
        if key not in facts:
            facts[key] = facts_of(content, limits, is_mask=key[1] != COLOUR)
    return pa.array(names, pa.string())


def _first_of_each(table: pa.Table, names: tuple[str, str]) -> pa.Table:
    """The first row of each pair of values in two columns, in order."""
    if len(table) < 2:
        return table
    one, other = (table[name].combine_chunks().dictionary_encode() for name in names)
    keys = np.array(one.indices).astype(np.int64) * len(other.dictionary) + np.array(other.indices)
    firsts = np.unique(keys, return_index=True)[1]
    return table if len(firsts) == len(table) else table.take(pa.array(np.sort(firsts)))
