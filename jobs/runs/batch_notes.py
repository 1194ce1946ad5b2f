"""What a run says about batches that could not be sampled as a whole."""

from collections.abc import Iterator

from nightpress.jobs.progress.events import Event, Message
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.shards.events import BatchSplit


class BatchNotes:
    """Says once for each model and kind of image which size fits, and counts failed batches."""

    def __init__(self) -> None:
        self._sizes: dict[tuple[str | None, str], int] = {}
        """Model and kind -> the smaller size that was said."""
        self._num_failed = 0
        self._first_error = ""

    def add(self, event: Event) -> Iterator[Message]:
        """Count what an event says; yields a warning for a new size, and for the first failure."""
        if not isinstance(event, BatchSplit):
            return
        if event.did_not_fit:
            yield from self._smaller(event)
            return
        self._num_failed += 1
        if self._num_failed == 1:
            self._first_error = event.error
            yield Message(
                f"a batch of {event.batch_size:,} could not be sampled, so its "
                f"{plural(event.num_images, 'image')} are sampled one at a time: {event.error}",
                warning=True,
            )

    def lines(self) -> Iterator[Message]:
        """How many batches failed, if there was more than one."""
        if self._num_failed > 1:
            yield Message(
                f"{self._num_failed:,} batches could not be sampled as a whole; "
                f"images of theirs were sampled one at a time, which is slower. The first error: "
                f"{self._first_error}",
                warning=True,
            )

    def _smaller(self, event: BatchSplit) -> Iterator[Message]:
        key = event.model, event.kind
        if event.size >= self._sizes.get(key, event.batch_size):
            return
        self._sizes[key] = event.size
        of_model = "" if event.model is None else f" by model {event.model}"
        yield Message(
            f"batch.size: a batch of {event.batch_size:,} ({event.kind}{of_model}) did not fit in "
            f"memory; from now on such batches have {plural(event.size, 'image')}: {event.error}",
            warning=True,
        )
