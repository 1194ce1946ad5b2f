"""Names that occur twice in a manifest of any size: found by hash, confirmed by reading again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nightpress.pipelines.errors import Problem
from nightpress.pipelines.image_files.naming import folded
from nightpress.pipelines.manifest.findings import MAX_SHOWN
from nightpress.pipelines.manifest.numbers import Ints
from nightpress.pipelines.planning.images import Planner
from nightpress.pipelines.planning.seeds import Hashes
from nightpress.pipelines.planning.units import Unit, hashed_images, typed

Mapper = Callable[..., Iterable[Any]]

CONFIRMED_AT_ONCE = 64


@dataclass(frozen=True)
class Place:
    """A name and the row that has it."""

    name: str
    compared: str
    """What must differ: a file name without letter case."""
    file: str
    row: int


@dataclass(frozen=True)
class Lookup:
    """Which names of a unit are wanted, by their places among its hashes."""

    unit: Unit
    kind: str
    """`ids` or `names`."""
    positions: tuple[int, ...]


def duplicates(
    kind: str, units: Sequence[Unit], hashes: Sequence[Hashes], mapper: Mapper
) -> tuple[list[Problem], int]:
    """The first names that an earlier row has too, and how many there are in all.

    Args:
        kind: `ids` or `names`, which `hashes` are of.
        hashes: one array for each unit.
    """
    later, earlier = repeated(np.concatenate(hashes))
    ends = np.cumsum([len(each) for each in hashes])
    problems: list[Problem] = []
    seen: dict[int, dict[str, Place]] = {}
    false = 0
    for start in range(0, len(later), CONFIRMED_AT_ONCE):
        chosen = slice(start, start + CONFIRMED_AT_ONCE)
        places = _look_up(kind, units, ends, [later[chosen], earlier[chosen]], mapper)
        for one, other in zip(later[chosen].tolist(), earlier[chosen].tolist(), strict=True):
            alike = seen.setdefault(other, {places[other].compared: places[other]})
            first = alike.setdefault(places[one].compared, places[one])
            if first is places[one]:
                false += 1
            else:
                problems.append(_problem(kind, units[0].planner, places[one], first))
        if len(problems) >= MAX_SHOWN:
            break
    return problems[:MAX_SHOWN], len(later) - false


def repeated(hashes: Hashes) -> tuple[Ints, Ints]:
    """Places of values that stand further in front too, and the first place of each; in order."""
    ordered = np.sort(hashes)
    if not (ordered[1:] == ordered[:-1]).any():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    same = np.concatenate([[False], ordered[1:] == ordered[:-1]])
    firsts = np.maximum.accumulate(np.where(same, 0, np.arange(len(same))))
    later, earlier = order[same], order[firsts[same]]
    in_order = np.argsort(later)
    return later[in_order], earlier[in_order]


def look_up(wanted: Lookup) -> list[Place]:
    """Read a unit again for the names at some places; a top-level function."""
    positions = np.array(wanted.positions)
    return [place for group in _places(wanted, positions) for place in group]


def _places(wanted: Lookup, positions: Ints) -> Iterator[list[Place]]:
    start = 0
    for batch in typed(wanted.unit, wanted.unit.planner.named_columns):
        if wanted.kind == "ids":
            texts = [(batch.rows.ids, batch.rows.ids, np.arange(len(batch.rows)))]
        else:
            groups = hashed_images(wanted.unit.planner, batch)
            texts = [(images.files, folded(images.files), images.picked) for images in groups]
        for names, compared, rows in texts:
            inside = positions[(positions >= start) & (positions < start + len(names))] - start
            yield [
                Place(
                    names[index].as_py(),
                    compared[index].as_py(),
                    batch.file,
                    batch.first_row + int(rows[index]),
                )
                for index in inside.tolist()
            ]
            start += len(names)


def _look_up(
    kind: str, units: Sequence[Unit], ends: Ints, wanted: Sequence[Ints], mapper: Mapper
) -> dict[int, Place]:
    positions = np.unique(np.concatenate(wanted))
    owners = np.searchsorted(ends, positions, "right")
    starts = np.concatenate([[0], ends])
    lookups = [
        Lookup(units[owner], kind, tuple((positions[owners == owner] - starts[owner]).tolist()))
        for owner in np.unique(owners).tolist()
    ]
    places = [place for group in mapper(look_up, lookups) for place in group]
    return dict(zip(positions.tolist(), places, strict=True))


def _problem(kind: str, planner: Planner, place: Place, other: Place) -> Problem:
    where = f"{other.file}, row {other.row}"
    if kind == "ids":
        message = f"id {place.name!r} is taken by {where}"
        return Problem(place.file, place.row, planner.columns.shown("id"), message)
    message = f"file name {place.name!r} is taken by {where}"
    if place.name != other.name:
        message += f" ({other.name!r} differs in letter case only)"
    hint = "; put {image_id} into images.file_name to tell them apart"
    return Problem(place.file, place.row, "images.file_name", message + hint)
