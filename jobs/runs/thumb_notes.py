"""What a run says about thumbnails that its actors could not make."""

from collections.abc import Iterator

from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.shards.events import ShardDone

REMEDY = "nightpress review makes them"


class ThumbNotes:
    """Says which thumbnails are missing: the first failure at once, all of them at the end."""

    def __init__(self) -> None:
        self._num_missing = 0

    def add(self, event: Event) -> Iterator[Message]:
        """Count what an event says; yields a warning for the first failure."""
        if not isinstance(event, ShardDone) or not event.num_without_thumb:
            return
        if not self._num_missing:
            images = plural(event.num_without_thumb, "image")
            text = f"review.thumbs: no thumbnails of {images}, which stay: {event.thumb_error}"
            yield Message(text, warning=True)
        self._num_missing += event.num_without_thumb

    def lines(self) -> Iterator[Message]:
        """How many are missing, if any."""
        if self._num_missing:
            images = plural(self._num_missing, "image")
            yield Message(f"review.thumbs: no thumbnails of {images}; {REMEDY}")
