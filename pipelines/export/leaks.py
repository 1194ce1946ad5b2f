"""Images of train that another split has too: they leave train, so evaluation sets never change."""

from collections.abc import Iterator, Mapping, Sequence
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
from nightpress.pipelines.storage import READ_THREADS, Store

Leaks = Mapping[tuple[int, int], Mapping[int, Leak]]
"""(source, shard) -> row -> why it leaves train."""


def find_leaks(store: Store, surveys: Sequence[Surveyed]) -> Leaks:
    """The images of train with the same bytes as an image of another split.

    Memory holds hashes and ids of the images of the other splits, and a few surveys.

    Args:
        store: the export.
        surveys: of every shard of its runs.

    Raises:
        Damaged: a survey is not what was written.
        StoreError: the store failed.
    """
    others = EvaluationImages.of(_tables(store, surveys))
    found = {}
    for surveyed, table in zip(surveys, _tables(store, surveys), strict=True):
        leaks = others.leaks(table.filter(pc.equal(table.column("split"), TRAIN)))
        if leaks:
            found[surveyed.source, surveyed.shard] = leaks
    return found


def _tables(store: Store, surveys: Sequence[Surveyed]) -> Iterator[pa.Table]:
    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = partial(read_survey, store)
        yield from map_ahead(pool, read, (each.path for each in surveys), READ_THREADS)


class EvaluationImages:
    """The images of every split but train, to be compared with those of train.

    Args:
        hashes: the first 64 bits of the SHA-256 of each image; (n,).
        image_ids: their ids, in the same order.
    """

    def __init__(self, hashes: NDArray[np.uint64], image_ids: pa.Array) -> None:
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._ids = hashes[order], image_ids.take(pa.array(order))

    @classmethod
    def of(cls, surveys: Iterator[pa.Table]) -> "EvaluationImages":
        """Those of some surveys."""
        hashes, ids = [np.zeros(0, np.uint64)], [pa.array([], pa.string())]
        for table in surveys:
            others = table.filter(pc.not_equal(table.column("split"), TRAIN))
            hashes.append(first_64_bits(others.column("sha256")))
            ids += others.column("image_id").chunks
        return cls(np.concatenate(hashes), pa.concat_arrays(ids))

    def leaks(self, train: pa.Table) -> dict[int, Leak]:
        """Row -> why it leaves train, for rows of train in a survey."""
        hashes = first_64_bits(train.column("sha256"))
        places = np.searchsorted(self._hashes, hashes)
        found = np.flatnonzero(places < len(self._hashes))
        found = found[self._hashes[places[found]] == hashes[found]]
        rows = train.column("row").to_numpy()
        return {
            int(rows[n]): Leak(Drop.SAME_BYTES, self._ids[int(places[n])].as_py()) for n in found
        }


def first_64_bits(digests: pa.ChunkedArray) -> NDArray[np.uint64]:
    """The first 64 bits of hashes in hex digits; (n,)."""
    words = pc.utf8_slice_codeunits(digests, 0, 16).to_pylist()
    return np.frombuffer(bytes.fromhex("".join(words)), ">u8").astype(np.uint64)
