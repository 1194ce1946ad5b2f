"""Making the thumbnails that a run lacks, and saying how far it is."""

import time

from nightpress.jobs.progress.events import Message
from nightpress.jobs.runs.shared import OnEvent
from nightpress.pipelines.formatting import plural
from nightpress.pipelines.review.thumbnails import ThumbsMade, make_missing
from nightpress.pipelines.run_directory.reader import Run
from nightpress.pipelines.run_directory.thumbs import read_thumbs

TOLD_EVERY_S = 10.0


def make_thumbs(run: Run, on_event: OnEvent) -> None:
    """Make the thumbnails that are missing, and say now and then how far it is.

    Raises:
        StoreError: the store failed; what is stored stays.
    """
    found, next_at = read_thumbs(run.store), time.monotonic()
    current = set(run.hashes().items())
    for path, problem in found.problems_of(current).items():
        on_event(Message(f"{path}: {problem}; its thumbnails are made again", warning=True))
    last: ThumbsMade | None = None
    for last in make_missing(run, found):
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + TOLD_EVERY_S
            made = f"{last.num_made:,} of {plural(last.num_missing, 'thumbnail')}"
            on_event(Message(f"making thumbnails: {made}"))
    if last is None:
        return
    on_event(Message(f"{plural(last.num_made, 'thumbnail')} made"))
    if last.unreadable:
        image_id, reason = next(iter(last.unreadable.items()))
        images = plural(len(last.unreadable), "image")
        text = f"no thumbnails of {images}, such as {image_id}: {reason}"
        on_event(Message(text, warning=True))
