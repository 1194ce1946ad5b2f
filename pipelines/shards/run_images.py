"""Images of earlier runs as pictures of this one: `run://NAME/IMAGE_ID`."""

import hashlib
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nightpress.pipelines.errors import (
    InputChanged,
    InputMissing,
    RunNotFound,
    StoreError,
    StoreMissing,
    UnsupportedFormat,
)
from nightpress.pipelines.image_files.packing import image_bytes
from nightpress.pipelines.inputs.references import RunImage
from nightpress.pipelines.planning import PictureFacts
from nightpress.pipelines.planning.index import PlanIndex
from nightpress.pipelines.run_directory.commit import metadata_columns, read_commit_if_any
from nightpress.pipelines.run_directory.record import require_record
from nightpress.pipelines.storage import READ_THREADS, Options, Store
from nightpress.pipelines.storage.limited import is_refusal, require_protocols
from nightpress.pipelines.storage.urls import absolute

SHARDS_KEPT = 64
"""Shards of a run whose rows are kept in memory."""

COLUMNS = (
    *("image_id", "status", "error_type", "error"),
    *("file", "member_offset", "num_bytes", "sha256", "width", "height"),
)

Row = Mapping[str, Any]
"""The metadata of an image."""

Rows = Mapping[str, Row]
"""Image id -> its metadata."""


class EarlierRuns:
    """Reads images of other runs; safe to share between threads.

    Args:
        url: URL of the run that uses the images; runs by name lie beside it.
        options: fsspec options by protocol.
    """

    def __init__(self, url: str, options: Options) -> None:
        self._url, self._options = absolute(url), options
        self._opened: dict[str, _EarlierRun] = {}
        self._lock = threading.Lock()

    def read(self, image: RunImage) -> bytes:
        """The bytes of an image, which are those that its run recorded.

        Raises:
            InputMissing: there is no such run or image, the image failed, or what its run has
                recorded is damaged or may not be read.
            InputChanged: its bytes are not those that its run recorded.
            StoreError: the store fails.
        """
        url = self._place(image)
        try:
            return self._run(url).read(image.image_id)
        except StoreError as error:
            if is_refusal(error, url, self._options):
                raise InputMissing(str(error)) from error
            raise

    def recorded(self, images: Sequence[RunImage]) -> Mapping[RunImage, PictureFacts | str]:
        """What their runs have recorded about images, or why these cannot be used.

        Raises:
            StoreError: the store fails.
        """
        by_run: dict[str, list[RunImage]] = defaultdict(list)
        for image in images:
            by_run[self._place(image)].append(image)
        found: dict[RunImage, PictureFacts | str] = {}
        for url, wanted in by_run.items():
            try:
                run = self._run(url)
                rows = run.rows([image.image_id for image in wanted])
            except InputMissing as error:
                found |= dict.fromkeys(wanted, str(error))
                continue
            except StoreError as error:
                if not is_refusal(error, url, self._options):
                    raise
                found |= dict.fromkeys(wanted, str(error))
                continue
            found |= {image: run.facts(image.image_id, rows) for image in wanted}
        return found

    def _place(self, image: RunImage) -> str:
        """The URL of an image's run."""
        output = self._url.rpartition("/")[0]
        return f"{output}/{image.run}" if image.is_by_name else absolute(image.run)

    def _run(self, url: str) -> "_EarlierRun":
        if url == self._url:
            raise InputMissing("a run cannot use its own images")
        with self._lock:
            if url not in self._opened:
                self._opened[url] = _opened(url, self._options)
            return self._opened[url]


class _EarlierRun:
    """One run, with its index and the rows that were read last."""

    def __init__(self, store: Store, index: PlanIndex) -> None:
        self._store, self._index = store, index
        self._shards: OrderedDict[int, Rows] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, image_id: str) -> bytes:
        row = self._usable(image_id, self._row(image_id))
        data = image_bytes(self._store, row)
        found = hashlib.sha256(data).hexdigest()
        if found != row["sha256"]:
            raise InputChanged(
                f"its bytes are not those that its run recorded: sha256 {found[:12]} now, "
                f"{row['sha256'][:12]} in the metadata; nightpress verify --repair makes it again"
            )
        return data

    def rows(self, ids: Sequence[str]) -> Rows:
        """The metadata of those of some images that are committed; each commit is read once."""
        by_shard: dict[int, list[str]] = defaultdict(list)
        for image_id in ids:
            for shard in self._index.shards_of(image_id):
                by_shard[shard].append(image_id)

        def wanted(shard: int) -> Rows:
            rows = self._read(shard)
            return {each: rows[each] for each in by_shard[shard] if each in rows}

        found: dict[str, Row] = {}
        with ThreadPoolExecutor(READ_THREADS) as pool:
            for rows in pool.map(wanted, by_shard):
                found |= rows
        return found

    def facts(self, image_id: str, rows: Rows) -> PictureFacts | str:
        """What is recorded about an image, or why it cannot be used."""
        try:
            row = self._usable(image_id, rows.get(image_id))
        except InputMissing as error:
            return str(error)
        return PictureFacts(row["sha256"], row["width"], row["height"])

    def _usable(self, image_id: str, row: Row | None) -> Row:
        if row is None:
            raise InputMissing(f"{self._store.url} has committed no image {image_id!r}")
        if row["status"] != "ok":
            raise InputMissing(f"the image failed there: {row['error_type']}: {row['error']}")
        return row

    def _row(self, image_id: str) -> Row | None:
        for shard in self._index.shards_of(image_id):
            row = self._rows(shard).get(image_id)
            if row is not None:
                return row
        return None

    def _rows(self, shard: int) -> Rows:
        """The rows of a shard; the lock is held so that no two threads read the same commit."""
        with self._lock:
            if shard not in self._shards:
                self._shards[shard] = self._read(shard)
            self._shards.move_to_end(shard)
            while len(self._shards) > SHARDS_KEPT:
                self._shards.popitem(last=False)
            return self._shards[shard]

    def _read(self, shard: int) -> Rows:
        part = read_commit_if_any(self._store, shard)
        found = [] if part is None else metadata_columns(part).select(list(COLUMNS)).to_pylist()
        return {row["image_id"]: row for row in found}


def _opened(url: str, options: Options) -> _EarlierRun:
    try:
        require_protocols(url)
        store = Store(url, options)
        record = require_record(store)
    except (RunNotFound, UnsupportedFormat, StoreMissing) as error:
        raise InputMissing(str(error)) from error
    return _EarlierRun(store, PlanIndex.read(store, record.layout, record.spec.seed))
