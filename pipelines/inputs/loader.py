"""Prepare the pictures of images ahead of their batches, in a few threads."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor

from nightpress.pipelines.inputs.preparing import PreparedInputs

INPUT_THREADS = 8


class InputLoader:
    """Prepares pictures in threads; each image's are kept until they are taken."""

    def __init__(self, threads: int = INPUT_THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="inputs")
        self._coming: dict[Hashable, Future[PreparedInputs]] = {}

    def prefetch(self, key: Hashable, prepare: Callable[[], PreparedInputs]) -> None:
        """Start to prepare the pictures of an image, unless they are on their way."""
        if key not in self._coming:
            self._coming[key] = self._pool.submit(prepare)

    def take(self, key: Hashable, prepare: Callable[[], PreparedInputs]) -> PreparedInputs:
        """The pictures of an image; waits for them.

        Raises:
            InputError, StoreError: as `prepare` does.
        """
        self.prefetch(key, prepare)
        return self._coming.pop(key).result()

    def close(self) -> None:
        """Drop what is not needed any more, and end the threads."""
        self._pool.shutdown(cancel_futures=True)
