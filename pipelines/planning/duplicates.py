"""Find names that occur twice in a manifest of any size, by hash, and confirm them by reading."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nightpress.pipelines.errors import MAX_PROBLEMS, Problem
from nightpress.pipelines.hashing import Hashes
from nightpress.pipelines.image_files.portability import folded
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.manifest.row_problems import with_lines
from nightpress.pipelines.planning.image_hashes import among
from nightpress.pipelines.planning.units import WorkUnit, images_to_compare, read_batches

Mapper = Callable[..., Iterable[Any]]

CONFIRMED_AT_ONCE = 64
"""How many suspected duplicates are read again at a time."""

COMPARED_AT_ONCE = 1 << 22
"""About how many hashes are sorted at a time."""


@dataclass(frozen=True)
class NamedRow:
    """A name and the row that has it."""

    name: str
    compared: str
    """What is compared: the id, or the folded file name."""
    file: str
    row: int


@dataclass(frozen=True)
class NameLookup:
    """Which names of a unit to read, by the positions of their hashes."""

    unit: WorkUnit
    kind: str
    """`ids` or `names`."""
    positions: tuple[int, ...]


def duplicates(
    kind: str, units: Sequence[WorkUnit], hashes: Sequence[Hashes], mapper: Mapper
) -> tuple[list[Problem], int]:
    """A problem for each name that several rows have: the first ones, and the total number.

    There is one for each id that an earlier row has too, but only one for a file name that many
    rows have, because its cause is the template.

    Args:
        kind: `ids` or `names`: what was hashed.
        hashes: one array for each unit.
    """
    repeats = find_repeats(hashes)
    ends = np.cumsum([len(unit_hashes) for unit_hashes in hashes])
    if kind == "names":
        once = _first_of_each(*repeats)
        problems, total = _confirm(kind, units, ends, once, mapper)
        if total == len(once[0]):  # no two different names have the same hash
            return problems, total
    return _confirm(kind, units, ends, repeats, mapper)


def _first_of_each(later: Ints, earlier: Ints) -> tuple[Ints, Ints]:
    """Of all later positions with the same earlier one, the first."""
    chosen = np.sort(np.unique(earlier, return_index=True)[1])
    return later[chosen], earlier[chosen]


def _confirm(
    kind: str, units: Sequence[WorkUnit], ends: Ints, repeats: tuple[Ints, Ints], mapper: Mapper
) -> tuple[list[Problem], int]:
    """Read the names again; a problem for each that is the same, and their total number."""
    later, earlier = repeats
    found: list[tuple[NamedRow, NamedRow]] = []
    by_hash: dict[int, dict[str, NamedRow]] = {}
    num_collisions = 0
    for start in range(0, len(later), CONFIRMED_AT_ONCE):
        chosen = slice(start, start + CONFIRMED_AT_ONCE)
        rows = _look_up_all(kind, units, ends, [later[chosen], earlier[chosen]], mapper)
        for one, other in zip(later[chosen].tolist(), earlier[chosen].tolist(), strict=True):
            same_hash = by_hash.setdefault(other, {rows[other].compared: rows[other]})
            first = same_hash.setdefault(rows[one].compared, rows[one])
            if first is rows[one]:
                num_collisions += 1
            else:
                found.append((rows[one], first))
        if len(found) >= MAX_PROBLEMS:
            break
    return _problems(kind, units, found[:MAX_PROBLEMS]), len(later) - num_collisions


def find_repeats(hashes: Sequence[Hashes]) -> tuple[Ints, Ints]:
    """Positions of values that also occur earlier, in order, and each one's first position.

    The values are compared a range of them at a time, so that beside the arrays memory holds a few
    million values and those that occur twice.

    Args:
        hashes: arrays of evenly spread values; positions are counted over all of them.
    """
    repeated = _repeated_values(hashes)
    places, values = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    start = 0
    for each in hashes if len(repeated) else ():
        found = np.flatnonzero(among(each, repeated))
        places.append(start + found)
        values.append(each[found])
        start += len(each)
    positions = np.concatenate(places)
    _, firsts, which = np.unique(np.concatenate(values), return_index=True, return_inverse=True)
    earlier = positions[firsts[which]]
    is_later = earlier != positions
    return positions[is_later], earlier[is_later]


def _repeated_values(hashes: Sequence[Hashes]) -> Hashes:
    """The values that occur more than once; (n,), in order."""
    bits = (sum(map(len, hashes)) // COMPARED_AT_ONCE).bit_length()
    none = np.zeros(0, np.uint64)
    repeated = [none]
    for top in range(2**bits):
        chosen = [each[each >> np.uint64(64 - bits) == top] for each in hashes] if bits else hashes
        ordered = np.sort(np.concatenate([none, *chosen]))
        repeated.append(np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))
    return np.concatenate(repeated)


def look_up_names(wanted: NameLookup) -> list[NamedRow]:
    """Read a unit again for the names at some positions; a top-level function, to be picklable."""
    positions = np.array(wanted.positions)
    return [row for group in _named_rows(wanted, positions) for row in group]


def _named_rows(wanted: NameLookup, positions: Ints) -> Iterator[list[NamedRow]]:
    start = 0
    for batch in read_batches(wanted.unit, wanted.unit.planner.named_columns):
        if wanted.kind == "ids":
            texts = [(batch.rows.ids, batch.rows.ids, np.arange(len(batch.rows)))]
        else:
            groups = images_to_compare(wanted.unit.planner, batch)
            texts = [(images.files, folded(images.files), images.row_indices) for images in groups]
        for names, compared, rows in texts:
            inside = positions[(positions >= start) & (positions < start + len(names))] - start
            yield [
                NamedRow(
                    names[index].as_py(),
                    compared[index].as_py(),
                    batch.file,
                    batch.first_row + int(rows[index]),
                )
                for index in inside.tolist()
            ]
            start += len(names)


def _look_up_all(
    kind: str, units: Sequence[WorkUnit], ends: Ints, wanted: Sequence[Ints], mapper: Mapper
) -> dict[int, NamedRow]:
    positions = np.unique(np.concatenate(wanted))
    owners = np.searchsorted(ends, positions, "right")
    starts = np.concatenate([[0], ends])
    lookups = [
        NameLookup(units[owner], kind, tuple((positions[owners == owner] - starts[owner]).tolist()))
        for owner in np.unique(owners).tolist()
    ]
    rows = [row for group in mapper(look_up_names, lookups) for row in group]
    return dict(zip(positions.tolist(), rows, strict=True))


def _problems(
    kind: str, units: Sequence[WorkUnit], repeats: Sequence[tuple[NamedRow, NamedRow]]
) -> list[Problem]:
    planner = units[0].planner
    files = {part.file.url: part.file for unit in units for part in unit.row_ranges}
    column = planner.columns.manifest_name("id") if kind == "ids" else "images.file_name"
    places = with_lines(
        [Problem(row.file, row.row, column, "") for pair in repeats for row in pair],
        files.values(),
        planner.spec.storage,
    )
    return [
        replace(
            place, message=_message(kind, row, first, f"{first_place.file}, {first_place.place}")
        )
        for (row, first), place, first_place in zip(repeats, places[::2], places[1::2], strict=True)
    ]


def _message(kind: str, row: NamedRow, first: NamedRow, where: str) -> str:
    if kind == "ids":
        return f"id {row.name!r} is already used by {where}"
    message = f"file name {row.name!r} is already used by {where}"
    if row.name != first.name:
        only_case = row.name.lower() == first.name.lower()
        how = "letter case" if only_case else "case, Unicode form or invisible characters"
        message += f" ({first.name!r} differs only in {how})"
    return message + "; add {image_id} to images.file_name to make the names unique"
