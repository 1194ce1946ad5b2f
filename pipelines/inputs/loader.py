"""Prepare the pictures of images ahead of their batches, in a few threads."""

from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from nightpress.pipelines.inputs.preparing import PreparedInputs

INPUT_THREADS = 8

POLL_S = 0.2
"""Seconds between two checks whether the wait was stopped."""


class InputLoader:
    """Prepares pictures in threads; each image's are kept until they are taken or dropped."""

    def __init__(self, threads: int = INPUT_THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="inputs")
        self._coming: dict[Hashable, Future[PreparedInputs]] = {}

    def __len__(self) -> int:
        """For how many images pictures are prepared or kept."""
        return len(self._coming)

    def prefetch(self, key: Hashable, prepare: Callable[[], PreparedInputs]) -> None:
        """Start to prepare the pictures of an image, unless they are on their way."""
        if key not in self._coming:
            self._coming[key] = self._pool.submit(prepare)

    def follow(
        self, keys: Iterable[Hashable], then: Callable[[dict[Hashable, PreparedInputs]], None]
    ) -> None:
        """Call `then`, in one of the threads, when all pictures of these images are there.

        It is not called if one of them fails or is dropped, and what it raises is dropped: it is
        for work that is done again where it was not done ahead.

        Args:
            keys: what `prefetch` was called with.
            then: given the pictures, which are kept until they are taken.
        """
        futures = {key: self._coming[key] for key in keys}
        self._pool.submit(_when_ready, futures, then)

    def are_ready(self, keys: Iterable[Hashable]) -> bool:
        """Whether the pictures of these images, which are on their way, are there."""
        return all(self._coming[key].done() for key in keys)

    def take(
        self, keys: Iterable[Hashable], is_stopped: Callable[[], bool] = lambda: False
    ) -> dict[Hashable, PreparedInputs] | None:
        """The pictures of these images, which are on their way; waits for them.

        Args:
            keys: what `prefetch` was called with.
            is_stopped: asked while it waits; if true, nothing is returned and all are dropped.

        Raises:
            StoreError: as `prepare` does; all are dropped.
        """
        futures = {key: self._coming.pop(key) for key in keys}
        try:
            while wait(futures.values(), POLL_S).not_done:
                if is_stopped():
                    return None
            return {key: future.result() for key, future in futures.items()}
        finally:
            for future in futures.values():
                future.cancel()

    def drop(self, keys: Iterable[Hashable]) -> None:
        """Forget the pictures of images that will not be taken."""
        for key in keys:
            future = self._coming.pop(key, None)
            if future is not None:
                future.cancel()

    def close(self) -> None:
        """Drop everything, without waiting for a store that does not answer."""
        self.drop(list(self._coming))
        self._pool.shutdown(wait=False, cancel_futures=True)


def _when_ready(
    futures: dict[Hashable, Future[PreparedInputs]],
    then: Callable[[dict[Hashable, PreparedInputs]], None],
) -> None:
    """Wait for pictures whose preparation was begun before this, so that a thread is at work."""
    wait(futures.values())
    if not any(each.cancelled() or each.exception() for each in futures.values()):
        then({key: each.result() for key, each in futures.items()})
