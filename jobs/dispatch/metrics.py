"""Metrics for Prometheus, exported through Ray: those of an actor, and those of a run."""

import time

from ray.util.metrics import Counter, Gauge

from nightpress.jobs.progress.tally import Tally
from nightpress.pipelines.shards.events import BatchDone, ShardEvent
from nightpress.pipelines.shards.timeline import Span


class ActorMetrics:
    """The counters of one actor: images, and where its time goes."""

    def __init__(self) -> None:
        self._seconds = Counter(
            "nightpress_actor_seconds",
            description="Seconds that actors spent on each activity: busy, compiling, waiting ...",
            tag_keys=("run", "activity"),
        )
        self._images = Counter(
            "nightpress_images",
            description="Images by outcome: ok (sampled and stored) or failed.",
            tag_keys=("run", "status"),
        )
        self._run = ""
        self._waiting: list[Span] = []
        """Spans from before the run was known."""

    def set_run(self, name: str) -> None:
        """Name the run of everything that is counted; what came before is counted for it, too."""
        self._run = name
        waiting, self._waiting = self._waiting, []
        for span in waiting:
            self.add_span(span)

    def add_span(self, span: Span) -> None:
        """Count a stretch of time."""
        if not self._run:
            self._waiting.append(span)
        elif span.seconds > 0:
            tags = {"run": self._run, "activity": str(span.activity)}
            self._seconds.inc(span.seconds, tags=tags)

    def add_event(self, event: ShardEvent) -> None:
        """Count the images of a batch; other events count nothing."""
        if isinstance(event, BatchDone):
            for status, number in (("ok", event.num_sampled), ("failed", event.num_failed)):
                if number:
                    self._images.inc(number, tags={"run": self._run, "status": status})


class RunGauges:
    """The gauges of one run, set by its driver.

    Args:
        run: the run's name.
        deadline_at: when the run is to be done, in seconds since the epoch.
    """

    def __init__(self, run: str, deadline_at: float | None) -> None:
        self._tags, self._deadline_at = {"run": run}, deadline_at
        self._planned = _gauge("planned", "Images of the plan.")
        self._done = _gauge("done", "Images that are stored or have failed.")
        self._failed = _gauge("failed", "Images that have failed since this start.")
        self._left = _gauge("seconds_left", "Seconds left at the rate so far.")
        self._margin = _gauge(
            "deadline_margin_seconds", "Seconds from the expected end to the deadline."
        )

    def update(self, tally: Tally) -> None:
        """Set the gauges; the time that is left only once there is a rate."""
        self._planned.set(tally.num_images, self._tags)
        self._done.set(tally.num_done, self._tags)
        self._failed.set(tally.num_failed, self._tags)
        left_s = 0.0 if tally.num_done >= tally.num_images else tally.left_s
        if left_s is None:
            return
        self._left.set(left_s, self._tags)
        if self._deadline_at is not None:
            self._margin.set(self._deadline_at - time.time() - left_s, self._tags)


def _gauge(name: str, description: str) -> Gauge:
    return Gauge(f"nightpress_run_{name}", description=description, tag_keys=("run",))
