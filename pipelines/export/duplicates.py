"""Images that leave an export because of others: duplicates in a split, and likeness by vectors.

An earlier image of the export, by run, shard and row, stays; so a run that grows moves no image.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.export.events import ImagesCompared
from nightpress.pipelines.export.index import Drop
from nightpress.pipelines.export.leaks import Leaks, find_leaks, first_64_bits, read_surveys
from nightpress.pipelines.export.plan import ExportPlan, Leak
from nightpress.pipelines.export.splits import SPLITS, TRAIN
from nightpress.pipelines.export.survey import Surveyed
from nightpress.pipelines.run_directory.embeddings import embedding_parts, read_vectors
from nightpress.pipelines.scoring.near_duplicates import HashArray, Positions, near_groups
from nightpress.pipelines.scoring.near_embeddings import (
    NearEmbeddings,
    Steps,
    VectorRows,
    Vectors,
    first_near_steps,
    grouping_steps,
)

Leaving = Mapping[tuple[int, int], Mapping[int, Leak]]
"""(source, shard) -> row -> why it is left out."""


def find_leaving(
    plan: ExportPlan, surveys: Sequence[Surveyed]
) -> Generator[ImagesCompared, None, Leaving]:
    """The images that are left out because of others: leaks first, then duplicates in a split.

    Yields how far it is with vectors, so that the caller can stop it.

    Args:
        plan: the export.
        surveys: of every shard of its runs; none if it compares no images.

    Raises:
        Damaged: a survey or the vectors of a run are not what was written.
        StoreError: a store failed.
    """
    spec = plan.spec
    leaks = find_leaks(plan.store, surveys) if surveys and spec.leaks != "keep" else {}
    if not surveys or (spec.dedup is None and not spec.compares_embeddings):
        return leaks
    images = _Images.read(plan, surveys)
    leaving = _Leaving(surveys, images, leaks)
    if spec.compares_embeddings:
        leaving.add_all(np.flatnonzero(~images.has_vector), Drop.NO_EMBEDDING)
    if spec.leaks == "embeddings":
        yield from _add_alike_leaks(images, leaving, spec.cosine)
    if spec.dedup is not None:
        for split in range(len(SPLITS)):
            yield from _add_duplicates(images, leaving, split, plan)
    return leaving.found


@dataclass(frozen=True)
class _Images:
    """The images of an export in their order, before any is left out because of another."""

    place: NDArray[np.int64]
    """(n,) the number of the survey."""
    row: NDArray[np.int64]
    """(n,) the row in the shard."""
    split: NDArray[np.int64]
    """(n,) the place in SPLITS."""
    digest: NDArray[np.uint64]
    """(n,) the first 64 bits of the SHA-256."""
    ids: pa.ChunkedArray
    hashes: HashArray | None
    """The perceptual hashes, if images that look alike are duplicates."""
    vectors: Vectors
    """(n, d), if vectors are compared."""
    has_vector: NDArray[np.bool_]

    @classmethod
    def read(cls, plan: ExportPlan, surveys: Sequence[Surveyed]) -> Self:
        """Read them from the surveys, and their vectors from the runs."""
        places, rows, splits, digests, ids, looks = [], [], [], [], [], []
        by_source: dict[int, list[str]] = {}
        for number, table in enumerate(read_surveys(plan.store, surveys)):
            places.append(np.full(len(table), number))
            rows.append(table.column("row").to_numpy().astype(np.int64))
            splits.append(pc.index_in(table.column("split"), pa.array(SPLITS)).to_numpy())
            digests.append(first_64_bits(table.column("sha256")))
            ids.append(table.column("image_id"))
            if plan.spec.dedup in ("near", "embeddings"):
                looks.append(HashArray.of(table.column("perceptual_hash").to_pylist()))
            if plan.spec.compares_embeddings:
                known = by_source.setdefault(surveys[number].source, [])
                known += table.column("sha256").to_pylist()
        vectors, has_vector = _vectors(plan, by_source)
        return cls(
            place=np.concatenate(places),
            row=np.concatenate(rows),
            split=np.concatenate(splits).astype(np.int64),
            digest=np.concatenate(digests),
            ids=pa.chunked_array([chunk for each in ids for chunk in each.chunks], pa.string()),
            hashes=HashArray.joined(looks) if looks else None,
            vectors=vectors,
            has_vector=has_vector,
        )


def _vectors(
    plan: ExportPlan, by_source: Mapping[int, list[str]]
) -> tuple[Vectors, NDArray[np.bool_]]:
    """The vectors of the images of all runs, in order, and which of them have one."""
    name = plan.embeddings
    if name is None:
        return np.zeros((0, 0), np.float16), np.zeros(0, np.bool_)
    found = [
        read_vectors(plan.stores[source], embedding_parts(plan.stores[source], name), hashes)
        for source, hashes in sorted(by_source.items())
    ]
    width = max(each.vectors.shape[1] for each in found)
    whole = [
        each.vectors if each.vectors.shape[1] else np.zeros((len(each.vectors), width), np.float16)
        for each in found
    ]
    vectors = whole[0] if len(whole) == 1 else np.concatenate(whole)
    return vectors, np.concatenate([each.has_one for each in found])


class _Leaving:
    """The images that are left out so far.

    Args:
        surveys: of every shard.
        images: all images.
        leaks: those that leave train already.
    """

    def __init__(
        self,
        surveys: Sequence[Surveyed],
        images: _Images,
        leaks: Mapping[tuple[int, int], Mapping[int, Leak]],
    ) -> None:
        self._surveys, self._images = surveys, images
        self.found: Leaks = {key: dict(rows) for key, rows in leaks.items()}
        self.stays = np.ones(len(images.row), np.bool_)
        starts = np.searchsorted(images.place, np.arange(len(surveys) + 1))
        for number, surveyed in enumerate(surveys):
            if gone := leaks.get((surveyed.source, surveyed.shard)):
                of_survey = slice(starts[number], starts[number + 1])
                self.stays[of_survey] = ~np.isin(images.row[of_survey], list(gone))

    def staying(self, of: NDArray[np.bool_]) -> Positions:
        """Which of some images are not left out."""
        return np.flatnonzero(self.stays & of)

    def add_all(self, images: Positions, reason: Drop) -> None:
        """Leave out images for one reason, if they are not left out already."""
        for image in images[self.stays[images]].tolist():
            self._add(image, Leak(reason, ""))

    def add(
        self,
        images: Positions,
        others: Positions,
        reason: Drop,
        similarities: NDArray[np.float64] | None = None,
    ) -> None:
        """Leave out images, each because of another."""
        names = self._images.ids.take(pa.array(others)).to_pylist()
        for number, (image, name) in enumerate(zip(images.tolist(), names, strict=True)):
            cosine = "" if similarities is None else f", cosine {similarities[number]:.6f}"
            self._add(image, Leak(reason, f"{name}{cosine}"))

    def _add(self, image: int, leak: Leak) -> None:
        surveyed = self._surveys[self._images.place[image]]
        of_shard = self.found.setdefault((surveyed.source, surveyed.shard), {})
        of_shard[int(self._images.row[image])] = leak
        self.stays[image] = False


def _add_alike_leaks(
    images: _Images, leaving: _Leaving, similarity: float
) -> Generator[ImagesCompared, None, None]:
    """Leave out images of train whose vectors are like that of an image of another split."""
    is_train = images.split == SPLITS.index(TRAIN)
    train, others = leaving.staying(is_train), leaving.staying(~is_train)
    rows, other_rows = VectorRows(images.vectors, train), VectorRows(images.vectors, others)
    near = yield from _told(first_near_steps(rows, other_rows, similarity), len(rows))
    found = np.flatnonzero(near.positions >= 0)
    places = others[near.positions[found]]
    leaving.add(train[found], places, Drop.ALIKE, near.similarities[found])


def _add_duplicates(
    images: _Images, leaving: _Leaving, split: int, plan: ExportPlan
) -> Generator[ImagesCompared, None, None]:
    """Leave out duplicates of earlier images of a split, in one step after the other."""
    of_split = images.split == split
    rows = leaving.staying(of_split)
    _, firsts, inverse = np.unique(images.digest[rows], return_index=True, return_inverse=True)
    _add_groups(leaving, rows, firsts[inverse], Drop.DUPLICATE)
    if images.hashes is not None:
        rows = leaving.staying(of_split)
        _add_groups(leaving, rows, near_groups(images.hashes.take(rows)), Drop.NEAR_DUPLICATE)
    if plan.spec.dedup == "embeddings":
        rows = leaving.staying(of_split)
        steps = grouping_steps(VectorRows(images.vectors, rows), plan.spec.cosine)
        near = yield from _told(steps, len(rows))
        _add_groups(leaving, rows, near.positions, Drop.ALIKE_DUPLICATE, near.similarities)


def _add_groups(
    leaving: _Leaving,
    rows: Positions,
    groups: Positions,
    reason: Drop,
    similarities: NDArray[np.float64] | None = None,
) -> None:
    """Leave out the images for which another one stands."""
    later = np.flatnonzero(groups != np.arange(len(groups)))
    values = None if similarities is None else similarities[later]
    leaving.add(rows[later], rows[groups[later]], reason, values)


def _told(steps: Steps, num_total: int) -> Generator[ImagesCompared, None, NearEmbeddings]:
    """The steps as events; returns their result."""
    while True:
        try:
            number = next(steps)
        except StopIteration as end:
            return cast("NearEmbeddings", end.value)
        yield ImagesCompared(number, num_total)
