"""The metrics of an actor, exported through Ray to Prometheus: images, and where time goes."""

from ray.util.metrics import Counter

from nightpress.pipelines.shards.events import BatchDone, ShardEvent
from nightpress.pipelines.shards.timeline import Span


class ActorMetrics:
    """The counters of one actor."""

    def __init__(self) -> None:
        self._seconds = Counter(
            "nightpress_actor_seconds",
            description="Seconds that actors spent on each activity: busy, compiling, waiting ...",
            tag_keys=("activity",),
        )
        self._images = Counter(
            "nightpress_images",
            description="Images by outcome: ok (sampled and stored) or failed.",
            tag_keys=("status",),
        )

    def add_span(self, span: Span) -> None:
        """Count a stretch of time."""
        if span.seconds > 0:
            self._seconds.inc(span.seconds, tags={"activity": str(span.activity)})

    def add_event(self, event: ShardEvent) -> None:
        """Count the images of a batch; other events count nothing."""
        if isinstance(event, BatchDone):
            for status, number in (("ok", event.num_sampled), ("failed", event.num_failed)):
                if number:
                    self._images.inc(number, tags={"status": status})
