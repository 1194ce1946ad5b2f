"""Read the bytes of a picture that a row names, wherever it lies."""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Hashable

from nightpress.pipelines.errors import InputMissing, StoreDenied, StoreError, StoreMissing
from nightpress.pipelines.inputs.node_cache import NodeCache
from nightpress.pipelines.inputs.references import (
    NoRuns,
    RunImage,
    RunImages,
    is_run_image,
    located,
)
from nightpress.pipelines.job.inputs_section import InputsSpec
from nightpress.pipelines.records import PlannedInput
from nightpress.pipelines.storage import Options, is_local
from nightpress.pipelines.storage.limited import read_limited
from nightpress.pipelines.storage.retries import RetryPolicy
from nightpress.pipelines.storage.urls import public, store_of


class InputReader:
    """Reads pictures; safe to share between threads.

    Args:
        spec: says where relative paths start from, and how many bytes are allowed.
        options: fsspec options by protocol.
        runs: reads images of earlier runs.
        cache: keeps what comes from a store; by default every read fetches it again.
        policy: how requests are retried.
    """

    def __init__(
        self,
        spec: InputsSpec,
        options: Options,
        runs: RunImages | None = None,
        cache: NodeCache | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._spec, self._options = spec, options
        self._runs: RunImages = runs or NoRuns()
        self._cache = cache
        self._policy = policy
        self._closed = threading.Event()
        self._last_answers: dict[str, float] = {}

    def close(self) -> None:
        """Give up what is being read, after the request that is under way at the latest."""
        self._closed.set()

    def key(self, planned: PlannedInput) -> Hashable:
        """Equal for pictures that are the same object.

        Raises:
            InputMissing: the reference cannot be used.
        """
        if planned.data is not None:
            return hashlib.sha256(planned.data).digest()
        return located(planned.url or "", self._spec.root)

    def read(self, planned: PlannedInput) -> bytes:
        """The bytes of a picture; of one that is too large, one byte more than is allowed.

        Raises:
            InputMissing: it is not there, or access to it is denied.
            InputChanged: it is an image of an earlier run, and not as that run recorded it.
            StoreError: the store fails.
        """
        if planned.data is not None:
            return planned.data
        url = located(planned.url or "", self._spec.root)
        if is_run_image(url):
            return self._cached(url, lambda: self._runs.read(RunImage.parse(url)))
        try:
            if is_local(url):
                return self._fetch(url)
            return self._cached(url, lambda: self._fetch(url))
        except StoreMissing as error:
            raise InputMissing(_reason(str(error), planned.url or "")) from error

    def _fetch(self, url: str) -> bytes:
        """The bytes behind a URL.

        Raises:
            StoreMissing: it is this file's fault; also where the store keeps failing for it, and
                has sent others meanwhile.
            StoreError: the store fails.
        """
        limit, store, begun_s = self._spec.max_bytes, store_of(url), time.monotonic()
        try:
            data = read_limited(url, self._options, limit, self._policy, self._closed.is_set)
        except StoreMissing:
            raise
        except StoreError as error:
            is_alone = self._last_answers.get(store, -math.inf) > begun_s
            if isinstance(error, StoreDenied) or self._closed.is_set() or not is_alone:
                raise
            raise StoreMissing(f"{error}, though it sends other files") from error
        self._last_answers[store] = time.monotonic()
        return data

    def _cached(self, url: str, fetch: Callable[[], bytes]) -> bytes:
        return fetch() if self._cache is None else self._cache.get(url, fetch)


def _reason(message: str, url: str) -> str:
    """What is wrong, without the URL in front of it if that is the one that the row names."""
    return message.removeprefix(f"{url}: ").removeprefix(f"{public(url)}: ")
