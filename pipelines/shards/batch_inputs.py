"""The pictures of a batch, prepared ahead; an image whose pictures are unusable fails alone."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from nightpress.pipelines.inputs.loader import InputLoader
from nightpress.pipelines.inputs.node_cache import NodeCache, open_cache
from nightpress.pipelines.inputs.preparing import InputPreparer, PreparedInputs
from nightpress.pipelines.inputs.reading import InputReader
from nightpress.pipelines.job.spec import RunSpec
from nightpress.pipelines.records import FailureType, ImageRecord
from nightpress.pipelines.shards.batching import PlannedImage
from nightpress.pipelines.shards.in_flight import UnsampledImage
from nightpress.pipelines.shards.input_history import InputHistory, InputSession
from nightpress.pipelines.shards.run_images import EarlierRuns

NO_HISTORY = InputHistory()


@dataclass(frozen=True)
class BatchPictures:
    """The pictures of the images of a batch."""

    prepared: dict[str, PreparedInputs]
    """Image id -> its pictures, for the images that have any."""
    failed: list[UnsampledImage]
    """The images whose pictures cannot be used."""


class BatchInputs:
    """Prepares the pictures of batches for one process.

    Args:
        spec: the job.
        url: URL of the run directory; runs that the pictures come from by name lie beside it.
        session: what the processes of this start share.
    """

    def __init__(self, spec: RunSpec, url: str, session: InputSession | None = None) -> None:
        self._spec, self._url = spec, url
        self._session = session or InputSession()
        self._loader = InputLoader()
        self._cache: NodeCache | None = None
        self._reader: InputReader | None = None
        self._preparer: InputPreparer | None = None
        self._lock = threading.Lock()

    def history(self, adopted: Iterable[ImageRecord], committed: pa.Table | None) -> InputHistory:
        """What the pictures of a shard must be.

        Args:
            adopted: the images of the shard that are stored already.
            committed: its metadata, if it is amended.
        """
        return InputHistory.of(self._session.used, adopted, committed)

    def prefetch(self, images: Sequence[PlannedImage], history: InputHistory = NO_HISTORY) -> None:
        """Start to prepare the pictures of a batch, which may be empty, and return at once."""
        for image in images:
            if image.inputs:
                self._loader.prefetch(image.image_id, self._preparation(image, history))

    def follow(
        self, images: Sequence[PlannedImage], then: Callable[[Mapping[str, PreparedInputs]], None]
    ) -> None:
        """Call `then` in another thread when all pictures of a batch are there and can be used.

        Args:
            images: what `prefetch` was called with.
            then: given image id -> its pictures; not called for a batch without any. What it raises
                is dropped.
        """

        def ready(taken: Mapping[Any, PreparedInputs]) -> None:
            if all(each.problem is None for each in taken.values()):
                then(taken)

        if wanted := _with_inputs(images):
            self._loader.follow(wanted, ready)

    def are_ready(self, images: Sequence[PlannedImage]) -> bool:
        """Whether taking the pictures of a batch, which are on their way, waits for nothing."""
        return self._loader.are_ready(_with_inputs(images))

    def take(
        self,
        images: Sequence[PlannedImage],
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> BatchPictures | None:
        """The pictures of a batch, which are on their way; waits for them.

        Args:
            images: what `prefetch` was called with.
            is_stopped: asked while it waits; if true, nothing is returned.

        Raises:
            StoreError: the store fails.
        """
        wanted = _with_inputs(images)
        taken = self._loader.take(wanted, is_stopped) if wanted else {}
        if taken is None:
            return None
        pictures = BatchPictures({}, [])
        for image in images:
            prepared = taken.get(image.image_id)
            if prepared is None:
                continue
            if prepared.problem is None:
                pictures.prepared[image.image_id] = prepared
            else:
                kind = FailureType(type(prepared.problem).__name__)
                pictures.failed.append(
                    UnsampledImage(image, kind, str(prepared.problem), prepared.infos)
                )
        return pictures

    def drop(self, images: Sequence[PlannedImage]) -> None:
        """Forget the pictures of images that will not be sampled."""
        self._loader.drop(_with_inputs(images))

    def close(self) -> None:
        """Drop everything, and stop using the node's cache."""
        if self._reader is not None:
            self._reader.close()
        self._loader.close()
        if self._cache is not None:
            self._cache.close()

    def _preparation(
        self, image: PlannedImage, history: InputHistory
    ) -> Callable[[], PreparedInputs]:
        with self._lock:
            preparer = self._preparer = self._preparer or self._new_preparer()

        def prepare() -> PreparedInputs:
            size = image.params.width, image.params.height
            expected = history.expected(image.image_id)
            return preparer.prepare(image.inputs, image.params.conditioning, size, expected)

        return prepare

    def _new_preparer(self) -> InputPreparer:
        """Made when the first picture is needed: most runs have none."""
        if self._session.start is not None:
            self._cache = open_cache(self._session.start)
        runs = EarlierRuns(self._url, self._spec.storage)
        self._reader = InputReader(self._spec.inputs, self._spec.storage, runs, self._cache)
        return InputPreparer(self._spec.inputs, self._reader)


def _with_inputs(images: Sequence[PlannedImage]) -> list[str]:
    """The ids of the images that have pictures, once each, though a batch may draw one twice."""
    return list(dict.fromkeys(image.image_id for image in images if image.inputs))
