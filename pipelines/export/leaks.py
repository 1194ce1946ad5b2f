"""Images of train that another split has too: they leave train, so evaluation sets never change."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nightpress.pipelines.export.index import Drop
from nightpress.pipelines.export.plan import Leak
from nightpress.pipelines.export.splits import TRAIN
from nightpress.pipelines.export.survey import Surveyed, read_survey
from nightpress.pipelines.run_directory.map_ahead import map_ahead
from nightpress.pipelines.scoring.near_duplicates import HashArray, first_near
from nightpress.pipelines.storage import READ_THREADS, Store

IMAGES_AT_ONCE = 500_000
"""Images of train that are compared at once: the other splits are sorted anew for each time."""

Leaks = dict[tuple[int, int], dict[int, Leak]]
"""(source, shard) -> row -> why it leaves train."""


def find_leaks(
    store: Store, surveys: Sequence[Surveyed], at_once: int = IMAGES_AT_ONCE
) -> Mapping[tuple[int, int], Mapping[int, Leak]]:
    """The images of train with the same bytes as an image of another split, or that look like one.

    What looks alike is found where surveys have perceptual hashes. Memory holds hashes and ids of
    the images of the other splits, and those of `at_once` images of train.

    Args:
        store: the export.
        surveys: of every shard of its runs.
        at_once: how many images are compared at once.

    Raises:
        Damaged: a survey is not what was written.
        StoreError: the store failed.
    """
    others = EvaluationImages.of(read_surveys(store, surveys))
    found: Leaks = {}
    for some in _batches(zip(surveys, read_surveys(store, surveys), strict=True), at_once):
        leaks = others.leaks(pa.concat_tables([table for _, table in some]))
        start = 0
        for surveyed, table in some:
            rows = table.column("row").to_pylist()
            places = enumerate(rows, start=start)
            of_shard = {row: leaks[place] for place, row in places if place in leaks}
            if of_shard:
                found[surveyed.source, surveyed.shard] = of_shard
            start += len(rows)
    return found


def read_surveys(store: Store, surveys: Sequence[Surveyed]) -> Iterator[pa.Table]:
    """The surveys of shards, in order, read a few ahead."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = partial(read_survey, store)
        yield from map_ahead(pool, read, (each.path for each in surveys), READ_THREADS)


def _batches(
    surveys: Iterable[tuple[Surveyed, pa.Table]], at_once: int
) -> Iterator[list[tuple[Surveyed, pa.Table]]]:
    """Surveys with the rows of train alone, together at least `at_once` rows until the last."""
    batch, number = list[tuple[Surveyed, pa.Table]](), 0
    for surveyed, table in surveys:
        train = table.filter(pc.equal(table.column("split"), TRAIN))
        batch.append((surveyed, train))
        number += len(train)
        if number >= at_once:
            yield batch
            batch, number = [], 0
    if batch:
        yield batch


class EvaluationImages:
    """The images of every split but train, to be compared with those of train.

    Args:
        images: their rows of the surveys.
    """

    def __init__(self, images: pa.Table) -> None:
        hashes = first_64_bits(images.column("sha256"))
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._order = hashes[order], order
        self._ids = images.column("image_id")
        hashed = pc.is_valid(images.column("perceptual_hash")).to_numpy()
        self._looked_at = np.flatnonzero(hashed)
        self._looks = HashArray.of(images.column("perceptual_hash").drop_null().to_pylist())

    @classmethod
    def of(cls, surveys: Iterator[pa.Table]) -> "EvaluationImages":
        """Those of some surveys, of which there is at least one."""
        columns = ["image_id", "sha256", "perceptual_hash"]
        tables = (t.filter(pc.not_equal(t.column("split"), TRAIN)).select(columns) for t in surveys)
        return cls(pa.concat_tables(tables).combine_chunks())

    def leaks(self, train: pa.Table) -> dict[int, Leak]:
        """Place in `train` -> why the image leaves train.

        Args:
            train: rows of surveys.
        """
        found = ((Drop.NEAR, self._near(train)), (Drop.SAME_BYTES, self._same(train)))
        return {
            place: Leak(reason, self._ids[other].as_py())
            for reason, pairs in found
            for place, other in pairs
        }

    def _same(self, train: pa.Table) -> Iterator[tuple[int, int]]:
        """(place in train, place among these) of images with the same bytes."""
        hashes = first_64_bits(train.column("sha256"))
        places = np.searchsorted(self._hashes, hashes)
        found = np.flatnonzero(places < len(self._hashes))
        found = found[self._hashes[places[found]] == hashes[found]]
        return zip(found.tolist(), self._order[places[found]].tolist(), strict=True)

    def _near(self, train: pa.Table) -> Iterator[tuple[int, int]]:
        """(place in train, place among these) of images that look alike."""
        column = train.column("perceptual_hash")
        hashed = np.flatnonzero(pc.is_valid(column).to_numpy())
        if not len(hashed) or not len(self._looked_at):
            return iter(())
        near = first_near(HashArray.of(column.drop_null().to_pylist()), self._looks)
        found = np.flatnonzero(near >= 0)
        others = self._looked_at[near[found]]
        return zip(hashed[found].tolist(), others.tolist(), strict=True)


def first_64_bits(digests: pa.ChunkedArray) -> NDArray[np.uint64]:
    """The first 64 bits of hashes in hex digits; (n,)."""
    words = pc.utf8_slice_codeunits(digests, 0, 16).to_pylist()
    return np.frombuffer(bytes.fromhex("".join(words)), ">u8").astype(np.uint64)
