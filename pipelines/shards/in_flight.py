"""What becomes of the images of a batch, also while the device may still be at work on it."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from nightpress.diffusion_core.errors import DeviceError
from nightpress.diffusion_core.sampling.batch_result import SampledBatch
from nightpress.pipelines.records import FailureType, InputInfo
from nightpress.pipelines.shards.batching import PlannedImage


@dataclass(frozen=True)
class SampledImages:
    """The images of a batch that was sampled as a whole."""

    images: Sequence[PlannedImage]
    batch: SampledBatch
    batch_size: int
    started_at: float
    """Seconds since the epoch."""
    sampling_s: float
    """Each image's share of the time the batch took."""
    inputs: Mapping[str, tuple[InputInfo, ...]] = field(default_factory=dict)
    """Image id -> the pictures that it was made from."""


@dataclass(frozen=True)
class UnsampledImage:
    """An image that fails to sample even alone."""

    image: PlannedImage
    error_type: FailureType
    error: str
    inputs: tuple[InputInfo, ...] = ()
    """Its pictures, as far as they were read."""


Known = tuple[SampledImages, int] | UnsampledImage
"""What has become of one image: a place in a batch, or why it could not be sampled."""


class ImagesInFlight:
    """The images of a batch that is queued on the device; any thread may wait for them.

    Args:
        sampled: the batch, without the time it takes.
        since: when the device began with it, in seconds of `time.perf_counter`.
    """

    def __init__(self, sampled: SampledImages, since: float) -> None:
        self._sampled, self._since = sampled, since
        self._ended: float | None = None
        self._lock = threading.Lock()
        self._again: Future[list[_Place | UnsampledImage]] = Future()

    @property
    def images(self) -> Sequence[PlannedImage]:
        """What is made."""
        return self._sampled.images

    def wait(self) -> float:
        """Wait until the device is done with them; returns when it was.

        Raises:
            DeviceError: the device failed; no image is to blame.
        """
        _ = self._sampled.batch.must_be_repeated
        with self._lock:
            if self._ended is None:
                self._ended = time.perf_counter()
            return self._ended

    @property
    def is_settled(self) -> bool:
        """Whether a thread has seen what has become of them all; does not wait."""
        return self._ended is not None and (not self.must_be_repeated or self._again.done())

    @property
    def must_be_repeated(self) -> bool:
        """Whether they have to be sampled again, by `repeated`; waits, and raises, as `wait`."""
        return self._sampled.batch.must_be_repeated

    def repeated(self, outcomes: Iterable["Outcome"]) -> None:
        """Note what has become of them when they were sampled again, in their order."""
        self._again.set_result([known for each in outcomes for known in _each(each)])

    def close(self, error: BaseException | None = None) -> None:
        """Have those fail who wait for images that were not sampled again.

        Args:
            error: why not.
        """
        if not self._again.done():
            ended = DeviceError("the sampling ended before the batch was done")
            self._again.set_exception(error or ended)

    def known(self, index: int) -> Known:
        """What has become of one image; waits, and raises, as `wait`."""
        seconds = self.wait() - self._since
        if not self.must_be_repeated:
            return replace(self._sampled, sampling_s=seconds / len(self.images)), index
        found = self._again.result()[index]
        return found if isinstance(found, UnsampledImage) else known(*found)


Outcome = SampledImages | ImagesInFlight | UnsampledImage
"""What has become of images, or will."""

_Place = tuple[SampledImages | ImagesInFlight, int]


def known(images: SampledImages | ImagesInFlight, index: int) -> Known:
    """What has become of one image of a batch; see `ImagesInFlight.known`."""
    return (images, index) if isinstance(images, SampledImages) else images.known(index)


def _each(outcome: Outcome) -> Iterator[_Place | UnsampledImage]:
    """The images of an outcome, one by one."""
    if isinstance(outcome, UnsampledImage):
        yield outcome
    else:
        yield from ((outcome, index) for index in range(len(outcome.images)))
