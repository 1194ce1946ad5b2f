"""What the threads that encode and store cost in CPU time, by part; or would cost, asleep."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from nightpress.pipelines.image_files import file_format
from nightpress.pipelines.shards import image_encoder
from nightpress.pipelines.shards.attempt import Attempt
from nightpress.pipelines.shards.runner import MAX_THREADS
from nightpress.pipelines.shards.shard_scores import ShardScores
from nightpress.pipelines.shards.shard_thumbs import ShardThumbs
from nightpress.pipelines.storage import Store

PARTS: dict[str, tuple[Any, str]] = {
    "encode": (file_format, "encode"),
    "measure": (ShardScores, "of_encoded"),
    "thumbnail": (ShardThumbs, "of_pixels"),
    "hash": (Attempt, "ok"),
    "store": (Store, "create"),
}
"""Part of the work on an image -> the function that does it."""

OF_PIXELS = ("encode", "measure", "thumbnail")
"""The parts that can be replaced by sleep: the same pixels give the same result."""

THREADS_EVERY_S = 0.05

Size = tuple[int, int]


class Costs:
    """CPU seconds by part, over all threads."""

    def __init__(self) -> None:
        self.cpu_s = dict.fromkeys(PARTS, 0.0)
        self.calls = dict.fromkeys(PARTS, 0)
        self.most_threads = 0
        """Of those that encode and store, at work at the same time."""
        self.most_pending = 0
        """Images that were sampled and not stored yet."""
        self._num_pending = self._num_threads = 0
        self._lock = threading.Lock()

    def sampled(self, number: int) -> None:
        """Note that images were sampled."""
        with self._lock:
            self._num_pending += number
            self.most_pending = max(self.most_pending, self._num_pending)

    @contextmanager
    def measured(self, asleep: bool = False) -> Iterator[None]:
        """Within the block, the parts are measured.

        Args:
            asleep: whether the work on pixels is done once for each size of images, and after that
                takes as many seconds of sleep as it took of CPU time, for all images at a time.
        """
        with ExitStack() as stack:
            if asleep:
                plenty = patch.object(image_encoder, "usable_cores", lambda: MAX_THREADS)
                stack.enter_context(plenty)
            for part, (owner, name) in PARTS.items():
                function = getattr(owner, name)
                if asleep and part in OF_PIXELS:
                    function = Asleep(function, 0 if part == "encode" else -1)
                stack.enter_context(patch.object(owner, name, self._timed(part, function)))
            yield

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self._num_threads += part in ("encode", "store")
                self.most_threads = max(self.most_threads, self._num_threads)
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.thread_time() - began
                with self._lock:
                    self._num_threads -= part in ("encode", "store")
                    self.cpu_s[part] += seconds
                    self.calls[part] += 1
                    self._num_pending -= part == "hash"

        return timed

    @property
    def ms(self) -> Mapping[str, float]:
        """Milliseconds of CPU time of a call, by part."""
        return {part: 1000 * self.cpu_s[part] / max(1, self.calls[part]) for part in PARTS}


class Asleep:
    """Calls a function once for each size of images, and then sleeps and returns that result.

    Args:
        function: of an image.
        position: of the pixels in its arguments.
    """

    def __init__(self, function: Callable[..., Any], position: int) -> None:
        self._function, self._position = function, position
        self._made: dict[tuple[int, ...], tuple[Any, float]] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        pixels: np.ndarray = args[self._position]
        with self._lock:  # the first call of each size is real work
            known = self._made.get(pixels.shape)
            if known is None:
                began = time.thread_time()
                made = self._function(*args, **kwargs)
                self._made[pixels.shape] = made, time.thread_time() - began
                return made
        made, seconds = known
        time.sleep(seconds)
        return made
