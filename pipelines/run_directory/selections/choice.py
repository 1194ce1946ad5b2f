"""Choosing among candidates: rank them, leave duplicates out, keep the first ones, balance."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.run_directory.selections.candidates import Drops
from nightpress.pipelines.run_directory.selections.duplicates import (
    DUPLICATES_SCHEMA,
    duplicates_table,
)
from nightpress.pipelines.run_directory.selections.request import Dedup, SelectionRequest
from nightpress.pipelines.run_directory.selections.vectors import ROW, Alike
from nightpress.pipelines.scoring.near_duplicates import HashArray, near_groups
from nightpress.pipelines.scoring.near_embeddings import VectorRows, near_embedding_groups

Rows = NDArray[np.int64]
"""Numbers of rows, in the order of their ranks."""

DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near-duplicate"
SAME_EMBEDDING = "near-duplicate by embeddings"


@dataclass(frozen=True)
class Choice:
    """What was chosen, and which images were left out as duplicates of which."""

    images: pa.Table
    """The chosen candidates, in the order of their ranks."""
    duplicates: pa.Table
    """DUPLICATES_SCHEMA."""


def choose(
    candidates: pa.Table,
    request: SelectionRequest,
    drops: Drops,
    alike: Alike | None = None,
) -> Choice:
    """Choose images, the same ones whatever the order of candidates.

    Args:
        candidates: as `Candidates.table` has them; with `ROW` if vectors are compared.
        request: what is asked for.
        drops: the others are added here.
        alike: the vectors, if images with alike ones are duplicates.
    """
    table = candidates.take(_ranked(candidates, request))
    table, duplicates = _distinct(table, request, drops, alike)
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
    return Choice(table, duplicates_table(duplicates))


def _distinct(
    table: pa.Table,
    request: SelectionRequest,
    drops: Drops,
    alike: Alike | None,
) -> tuple[pa.Table, list[pa.Table]]:
    """Leave duplicates out, in one step after the other; returns the rest, and what was left out.

    In each step an image stays unless it is a duplicate of one that ranks before it and stays.
    """
    steps = () if request.dedup is None else get_args(Dedup)
    found = []
    for step in steps[: steps.index(request.dedup) + 1] if steps else ():
        similarities = None
        if step == "exact":
            reason, groups = DUPLICATE, _exact_groups(table)
        elif step == "near":
            hashes = HashArray.of(table.column("perceptual_hash").to_pylist())
            reason, groups = NEAR_DUPLICATE, near_groups(hashes)
        elif alike is not None:
            reason, rows = SAME_EMBEDDING, VectorRows(alike.vectors, table.column(ROW).to_numpy())
            near = near_embedding_groups(rows, alike.similarity, alike.told)
            groups, similarities = near.positions, near.similarities
        kept = groups == np.arange(len(groups))
        found.append(_duplicates(table, groups, reason, similarities))
        table = _without(table, kept, reason, drops)
    return table, found


def _duplicates(
    table: pa.Table, groups: Rows, reason: str, similarities: NDArray[np.float64] | None
) -> pa.Table:
    """The rows that another one stands for, as DUPLICATES_SCHEMA."""
    left_out = np.flatnonzero(groups != np.arange(len(groups)))
    ids = table.column("image_id")
    columns = [
        ids.take(pa.array(left_out)),
        ids.take(pa.array(groups[left_out])),
        pa.array([reason] * len(left_out), pa.string()),
        pa.nulls(len(left_out), pa.float64())
        if similarities is None
        else pa.array(similarities[left_out]),
    ]
    return pa.table(columns, schema=DUPLICATES_SCHEMA)


def _ranked(table: pa.Table, request: SelectionRequest) -> pa.Array:
    order = "ascending" if request.lowest_first else "descending"
    keys = [] if request.by is None else [("score", order)]
    return pc.sort_indices(table, sort_keys=[*keys, ("image_id", "ascending")])


def _without(table: pa.Table, kept: NDArray[np.bool_], reason: str, drops: Drops) -> pa.Table:
    drops.add(reason, table.column("image_id").filter(pa.array(~kept)))
    return table.filter(pa.array(kept))


def _exact_groups(table: pa.Table) -> Rows:
    """For each row the first one that has its bytes or its pixels."""
    groups = _firsts(_codes(table.column("sha256")))
    is_known = pc.is_valid(table.column("pixels")).to_numpy()
    same_pixels = _firsts(_codes(table.column("pixels")))
    groups = np.where(is_known, np.minimum(groups, same_pixels), groups)
    while (groups[groups] != groups).any():  # the first with the same bytes may have a first, too
        groups = groups[groups]
    return groups


def _firsts(codes: Rows) -> Rows:
    """For each row the first one with the same number."""
    _, firsts, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return np.asarray(firsts[inverse], np.int64)


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
