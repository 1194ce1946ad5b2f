"""What an actor tells Ray's metrics, for those who scrape them: images, and where time goes."""

from ray.util.metrics import Counter

from nightpress.pipelines.shards.runner import BatchDone, ShardEvent
from nightpress.pipelines.shards.timeline import Span


class ActorMetrics:
    """The counters of one actor."""

    def __init__(self) -> None:
        self._seconds = Counter(
            "nightpress_actor_seconds",
            description="Time of actors by what they did: busy, compiling, waiting for input ...",
            tag_keys=("activity",),
        )
        self._images = Counter(
            "nightpress_images",
            description="Images by what became of them: sampled and stored, or failed.",
            tag_keys=("status",),
        )

    def span(self, span: Span) -> None:
        """Count a stretch of time."""
        if span.seconds > 0:
            self._seconds.inc(span.seconds, tags={"activity": str(span.activity)})

    def event(self, event: ShardEvent) -> None:
        """Count the images of a batch."""
        if isinstance(event, BatchDone):
            for status, number in (("ok", event.num_sampled), ("failed", event.num_failed)):
                if number:
                    self._images.inc(number, tags={"status": status})
