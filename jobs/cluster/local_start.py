"""A Ray on this machine that starts in a thread, while what it is for is still checked."""

import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

from nightpress.jobs.cluster import worker_template

if TYPE_CHECKING:  # it imports Ray, which the thread does
    from nightpress.jobs.cluster.connection import ClusterAddress


class LocalStart:
    """Starts the Ray of a job in a thread; `close` leaves no Ray behind.

    Linux ends Ray's processes with the thread that has started them, so one thread starts Ray,
    waits, and stops it.

    Args:
        spec: says which cluster. Nothing is started where it, or RAY_ADDRESS, names one.
    """

    def __init__(self, spec: "ClusterAddress") -> None:
        self._spec = spec
        self._thread: ThreadPoolExecutor | None = None
        self._started: Future[None] | None = None
        self._ray = ExitStack()
        """What the thread closes to stop Ray."""

    def begin(self) -> None:
        """Begin to start Ray, unless the job uses a cluster that is there already."""
        if self._started is None and starts_here(self._spec):
            worker_template.begin()  # which imports meanwhile
            self._thread = ThreadPoolExecutor(1, "nightpress-ray")
            self._started = self._thread.submit(self._start)

    def wait(self) -> bool:
        """Wait until Ray has started; False if none was begun.

        Raises:
            ClusterError, ClusterUnavailable: it has not started, as `connection.connect` says.
        """
        if self._started is None:
            return False
        self._started.result()
        return True

    def close(self) -> None:
        """Stop Ray, if it was begun, however far it is."""
        thread, self._thread, self._started = self._thread, None, None
        if thread is not None:
            with thread:
                thread.submit(self._ray.close).result()

    def _start(self) -> None:
        from nightpress.jobs.cluster.connection import cluster  # imports Ray

        self._ray.enter_context(cluster(self._spec))


def starts_here(spec: "ClusterAddress") -> bool:
    """Whether a job is about to start a Ray of its own; found out without importing Ray."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return False
    return (spec.address or os.environ.get("RAY_ADDRESS")) in (None, "", "local")
