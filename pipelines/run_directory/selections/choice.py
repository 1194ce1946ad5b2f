"""Choosing among candidates: rank them, leave duplicates out, keep the first ones, balance."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.run_directory.selections.candidates import Drops
from nightpress.pipelines.run_directory.selections.request import SelectionRequest
from nightpress.pipelines.scoring.near_duplicates import HashArray, near_groups

Rows = NDArray[np.int64]
"""Numbers of rows, in the order of their ranks."""

DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near-duplicate"


def choose(candidates: pa.Table, request: SelectionRequest, drops: Drops) -> pa.Table:
    """The chosen images in the order of their ranks, the same whatever the order of candidates.

    Args:
        candidates: as `Candidates.table` has them.
        drops: the others are added here.
    """
    table = candidates.take(_ranked(candidates, request))
    if request.dedup is not None:
        table = _without(table, _is_first_exact(table), DUPLICATE, drops)
    if request.dedup == "near":
        table = _without(table, _is_first_near(table), NEAR_DUPLICATE, drops)
    if request.top is not None:
        places = _places(table, "per" if request.per is not None else None)
        of_each = "" if request.per is None else f" of each {request.per}"
        beyond = f"beyond the first {request.top:,}{of_each}"
        table = _without(table, places < request.top, beyond, drops)
    if request.balance is not None and len(table):
        places = _places(table, "balance")
        rarest = min(np.bincount(_codes(table.column("balance"))).tolist())
        beyond = f"beyond {rarest:,} of each {request.balance}"
        table = _without(table, places < rarest, beyond, drops)
    return table


def _ranked(table: pa.Table, request: SelectionRequest) -> pa.Array:
    order = "ascending" if request.lowest_first else "descending"
    keys = [] if request.by is None else [("score", order)]
    return pc.sort_indices(table, sort_keys=[*keys, ("image_id", "ascending")])


def _without(table: pa.Table, kept: NDArray[np.bool_], reason: str, drops: Drops) -> pa.Table:
    drops.add(reason, table.column("image_id").filter(pa.array(~kept)))
    return table.filter(pa.array(kept))


def _is_first_exact(table: pa.Table) -> NDArray[np.bool_]:
    """Which rows have neither the bytes nor the pixels of an earlier one."""
    first = _is_first(_codes(table.column("sha256")))
    is_known = pc.is_valid(table.column("pixels")).to_numpy()
    first &= ~is_known | _is_first(_codes(table.column("pixels")))
    return first


def _is_first_near(table: pa.Table) -> NDArray[np.bool_]:
    groups = near_groups(HashArray.of(table.column("perceptual_hash").to_pylist()))
    is_first: NDArray[np.bool_] = groups == np.arange(len(groups))
    return is_first


def _is_first(codes: Rows) -> NDArray[np.bool_]:
    is_first = np.zeros(len(codes), bool)
    is_first[np.unique(codes, return_index=True)[1]] = True
    return is_first


def _places(table: pa.Table, column: str | None) -> Rows:
    """How many earlier rows have the same value in a column, or how many there are."""
    if column is None:
        return np.arange(len(table))
    codes = _codes(table.column(column))
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    starts = np.cumsum(counts) - counts
    places = np.empty(len(codes), np.int64)
    places[order] = np.arange(len(codes)) - np.repeat(starts, counts)
    return places


def _codes(values: pa.ChunkedArray) -> Rows:
    """A number for each value; equal values have equal numbers, and null has one too."""
    encoded = values.dictionary_encode(null_encoding="encode").unify_dictionaries()
    parts = [chunk.indices.to_numpy() for chunk in encoded.chunks]
    codes: Rows = np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)
    return codes
